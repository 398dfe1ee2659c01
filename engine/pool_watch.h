// PoolWatch: how long the pool's free space lasts. Looked at by one thread now and then; what it found
// is kept, so that who asks for the status never waits for a pool that hangs.
// Units: bytes, seconds. Thread safety: look() from one thread; status() from any.
#pragma once

#include <cmath>
#include <mutex>
#include <string>

#include "engine/engine.h"

namespace clonefs::detail {

class PoolWatch {
 public:
  // Said when the pool is full in less than this, while it has not room for all.
  static constexpr int64_t kSoonS = 600;

  // FREE is what there is, NEEDED what running sessions may still take, SECONDS the time since the
  // last look. The text of an event, or "".
  std::string look(uint64_t free, uint64_t needed, double seconds) {
    const std::lock_guard lock(mutex_);
    if (status_.known && seconds > 0) {
      const double used =
          status_.free_bytes > free ? static_cast<double>(status_.free_bytes - free) : 0.0;
      // The mean of some ten seconds: copies come in bursts.
      rate_ += (used / seconds - rate_) * (1 - std::exp(-seconds / kMeanS));
    }
    status_.known = true;
    status_.free_bytes = free;
    status_.needed_bytes = needed;
    status_.used_bytes_per_s = static_cast<uint64_t>(rate_);
    status_.full_in_s = -1;
    if (needed <= free) {
      warned_ = false;
      return "";
    }
    if (free < kNothing)
      status_.full_in_s = 0;
    else if (rate_ >= 1)
      status_.full_in_s = static_cast<int64_t>(
          std::min(static_cast<double>(free) / rate_, static_cast<double>(kLongest)));
    if (warned_ || status_.full_in_s < 0 || status_.full_in_s >= kSoonS) return "";
    warned_ = true;
    return "the pool is running out of space: " + std::to_string(free >> 20) +
           " MiB are left, for about " + std::to_string(status_.full_in_s) +
           " s; the clones that are being copied may need " + std::to_string(needed >> 20) +
           " MiB; delete clones, make room, or slow them down (clonefs rate)";
  }

  PoolStatus status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  static constexpr double kMeanS = 10;
  static constexpr uint64_t kNothing = 4 << 20;     // as good as full
  static constexpr int64_t kLongest = 10'000'000;  // no forecast is longer

  mutable std::mutex mutex_;
  PoolStatus status_;
  double rate_ = 0;
  bool warned_ = false;
};

}  // namespace clonefs::detail
