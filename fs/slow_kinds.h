// SlowKinds: which kinds of request (opcodes) took long lately, or waited for something (a disk): they
// are better served where they hold nobody up. A kind that was slow is tried again after 64 requests, after twice as many each time that
// it is slow again. Thread safety: any thread; a count may be lost, which does no harm.
#pragma once

#include <sys/resource.h>

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
  // What a request takes, from its making on, of the calling thread.
  class Watch {
   public:
    bool slow() const { return Clock::now() - begin_ > kSlow || sleeps() != sleeps_; }

   private:
    using Clock = std::chrono::steady_clock;
    static long sleeps() {
      rusage usage{};
      return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
    }
    const Clock::time_point begin_ = Clock::now();
    const long sleeps_ = sleeps();
  };
  // One that was not expected to be slow was, or not.
  void was(uint32_t kind, bool slow) {
    Kind& k = kinds_[std::min<size_t>(kind, kinds_.size() - 1)];
    const unsigned before = k.length.load(std::memory_order_relaxed);
    if (!slow) {
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
