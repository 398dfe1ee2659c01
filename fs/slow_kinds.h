// SlowKinds: which kinds of request (opcodes) took long lately: they are better served where they hold
// nobody up. A kind that was slow is tried again after 64 requests, after twice as many each time that
// it is slow again. Thread safety: any thread; a count may be lost, which does no harm.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace clonefs {

class SlowKinds {
 public:
  // Whether to take the next request of KIND for a slow one.
  bool expect(uint32_t kind) {
    Kind& k = kinds_[std::min<size_t>(kind, kinds_.size() - 1)];
    const unsigned left = k.left.load(std::memory_order_relaxed);
    if (left == 0) return false;
    k.left.store(left - 1, std::memory_order_relaxed);
    return true;
  }
  // One that was not expected to be slow took so long.
  void took(uint32_t kind, std::chrono::steady_clock::duration time) {
    Kind& k = kinds_[std::min<size_t>(kind, kinds_.size() - 1)];
    const unsigned before = k.length.load(std::memory_order_relaxed);
    if (time <= kSlow) {
      if (before > 0) k.length.store(before / 2, std::memory_order_relaxed);
      return;
    }
    const unsigned length = std::clamp(2 * before, kFirst, kLongest);
    k.length.store(length, std::memory_order_relaxed);
    k.left.store(length, std::memory_order_relaxed);
  }

  static constexpr std::chrono::microseconds kSlow{300};
  static constexpr unsigned kFirst = 64;
  static constexpr unsigned kLongest = 8192;

 private:
  struct Kind {
    std::atomic<unsigned> left{0};    // to be taken for slow
    std::atomic<unsigned> length{0};  // how many that were, the last time
  };
  std::array<Kind, 64> kinds_{};
};

}  // namespace clonefs
