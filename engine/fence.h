// Fence: changes of the volume hold a share while they happen; closing the fence keeps new ones out
// and waits for those in flight. The consistency point is taken while it is closed.
//
// A share costs two atomic additions on a cache line that few threads use. A thread that holds a
// share must not ask for another, nor close the fence. Changes are kept out for no longer than the
// limit: then the first that waited as long opens the fence, and who had closed it learns so.
// What waits is counted: waits(), longest_wait_ns().
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "engine/latency.h"

namespace clonefs::detail {

// A small number of the calling thread, which few others have.
inline constexpr unsigned kThreadSlots = 32;
inline unsigned thread_slot() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned slot = next.fetch_add(1, std::memory_order_relaxed) % kThreadSlots;
  return slot;
}

class Fence {
 public:
  // LIMIT 0: none.
  explicit Fence(std::chrono::milliseconds limit) : limit_(limit) {}

  // Returns the slot that leave() takes.
  unsigned enter() {
    const unsigned slot = thread_slot();
    for (;;) {
      slots_[slot].shares.fetch_add(1, std::memory_order_seq_cst);
      if (!closed_.load(std::memory_order_seq_cst)) return slot;
      leave(slot);
      const auto begin = std::chrono::steady_clock::now();
      std::unique_lock lock(mutex_);
      const auto opened = [&] { return !closed_.load(); };
      if (limit_.count() == 0) {
        changed_.wait(lock, opened);
      } else if (!changed_.wait_until(lock, closed_at_ + limit_, opened)) {
        closed_.store(false, std::memory_order_seq_cst);
        changed_.notify_all();
      }
      const auto waited = std::chrono::steady_clock::now() - begin;
      waits_.note(waited);
      longest_wait_ = std::max(longest_wait_, waited);
    }
  }

  void leave(unsigned slot) {
    slots_[slot].shares.fetch_sub(1, std::memory_order_seq_cst);
    if (closed_.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
    }
  }

  // One thread at a time. Waits for the changes in flight.
  void close() {
    std::unique_lock lock(mutex_);
    closed_at_ = std::chrono::steady_clock::now();
    longest_wait_ = {};
    closed_.store(true, std::memory_order_seq_cst);
    changed_.wait(lock, [&] { return empty() || !closed_.load(); });
  }

  // What COMMIT does, it does while no change is under way. False: the limit was over before, changes
  // went on, and COMMIT was not called.
  template <class Commit>
  bool open(Commit commit) {
    const std::lock_guard lock(mutex_);
    if (!closed_.load()) return false;
    commit();
    closed_.store(false, std::memory_order_seq_cst);
    changed_.notify_all();
    return true;
  }

  // How long changes waited because the fence was closed.
  LatencyCounts waits() const { return waits_.counts(); }
  // Of those that the last fence held up.
  uint64_t longest_wait_ns() const {
    const std::lock_guard lock(mutex_);
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(longest_wait_).count());
  }

 private:
  struct alignas(64) Slot {
    std::atomic<uint64_t> shares{0};
  };

  bool empty() const {
    for (const auto& slot : slots_)
      if (slot.shares.load(std::memory_order_seq_cst) != 0) return false;
    return true;
  }

  const std::chrono::milliseconds limit_;
  std::array<Slot, kThreadSlots> slots_;
  std::atomic<bool> closed_{false};
  std::chrono::steady_clock::time_point closed_at_;         // guarded by mutex_
  std::chrono::steady_clock::duration longest_wait_{};      // guarded by mutex_
  LatencyHistogram waits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace clonefs::detail
