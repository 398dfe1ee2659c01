// Fence: changes of the volume hold a share while they happen; closing the fence keeps new ones out
// and waits for those in flight. The consistency point is taken while it is closed.
//
// A share costs two atomic additions on a cache line that few threads use. A thread that holds a
// share must not ask for another, nor close the fence.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace clonefs::detail {

class Fence {
 public:
  // Returns the slot that leave() takes.
  unsigned enter() {
    static std::atomic<unsigned> next{0};
    thread_local const unsigned slot = next.fetch_add(1, std::memory_order_relaxed) % kSlots;
    for (;;) {
      slots_[slot].shares.fetch_add(1, std::memory_order_seq_cst);
      if (!closed_.load(std::memory_order_seq_cst)) return slot;
      leave(slot);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !closed_.load(); });
    }
  }

  void leave(unsigned slot) {
    slots_[slot].shares.fetch_sub(1, std::memory_order_seq_cst);
    if (closed_.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
    }
  }

  void close() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !closed_.load(); });
    closed_.store(true, std::memory_order_seq_cst);
    changed_.wait(lock, [&] { return empty(); });
  }

  void open() {
    const std::lock_guard lock(mutex_);
    closed_.store(false, std::memory_order_seq_cst);
    changed_.notify_all();
  }

 private:
  static constexpr unsigned kSlots = 32;
  struct alignas(64) Slot {
    std::atomic<uint64_t> shares{0};
  };

  bool empty() const {
    for (const auto& slot : slots_)
      if (slot.shares.load(std::memory_order_seq_cst) != 0) return false;
    return true;
  }

  std::array<Slot, kSlots> slots_;
  std::atomic<bool> closed_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace clonefs::detail
