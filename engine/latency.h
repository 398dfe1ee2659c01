// LatencyHistogram: how often something took how long, in steps of 1, 2 and 5 from 1 us to 50 s.
// Units: nanoseconds. Thread safety: all members, without locks; what a snapshot has of a note that
// is under way may be a part of it, and the next one has all. It counts since it was made.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace clonefs {

// What took no longer than BOUNDS_NS[i], and longer than the one before, is in COUNTS[i]; what took
// longer than all in the last of COUNTS.
struct LatencyCounts {
  static constexpr size_t kBounds = 24;
  static constexpr std::array<uint64_t, kBounds> kBoundsNs = [] {
    std::array<uint64_t, kBounds> bounds{};
    uint64_t decade = 1000;
    for (size_t i = 0; i < kBounds; i += 3, decade *= 10) {
      bounds[i] = decade;
      bounds[i + 1] = 2 * decade;
      bounds[i + 2] = 5 * decade;
    }
    return bounds;
  }();

  std::array<uint64_t, kBounds + 1> counts{};
  uint64_t sum_ns = 0;
  uint64_t max_ns = 0;
  uint64_t last_ns = 0;  // of the one that ended last

  uint64_t count() const {
    uint64_t all = 0;
    for (const uint64_t n : counts) all += n;
    return all;
  }
};

class LatencyHistogram {
 public:
  void note(std::chrono::steady_clock::duration took) {
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(took).count();
    note_ns(ns < 0 ? 0 : static_cast<uint64_t>(ns));
  }
  void note_ns(uint64_t ns) {
    constexpr auto& kBounds = LatencyCounts::kBoundsNs;
    const auto step = std::lower_bound(kBounds.begin(), kBounds.end(), ns) - kBounds.begin();
    counts_[static_cast<size_t>(step)].fetch_add(1, std::memory_order_relaxed);
    sum_ns_.fetch_add(ns, std::memory_order_relaxed);
    last_ns_.store(ns, std::memory_order_relaxed);
    uint64_t longest = max_ns_.load(std::memory_order_relaxed);
    while (longest < ns && !max_ns_.compare_exchange_weak(longest, ns, std::memory_order_relaxed)) {
    }
  }
  LatencyCounts counts() const {
    LatencyCounts c;
    for (size_t i = 0; i < counts_.size(); ++i) c.counts[i] = counts_[i].load(std::memory_order_relaxed);
    c.sum_ns = sum_ns_.load(std::memory_order_relaxed);
    c.max_ns = max_ns_.load(std::memory_order_relaxed);
    c.last_ns = last_ns_.load(std::memory_order_relaxed);
    return c;
  }

 private:
  std::array<std::atomic<uint64_t>, LatencyCounts::kBounds + 1> counts_{};
  std::atomic<uint64_t> sum_ns_{0}, max_ns_{0}, last_ns_{0};
};

}  // namespace clonefs
