// Progress: how a session's copying went, as samples over time since the mount. When there are kMost of
// them every second one goes and from then on they are twice as far apart, so that it is bounded however long
// the session lives. Units: tracks, bytes. Thread safety: all members.
#pragma once

#include <chrono>
#include <ctime>
#include <mutex>
#include <vector>

#include "engine/engine.h"

namespace clonefs::detail {

class Progress {
 public:
  static constexpr size_t kMost = 512;

  explicit Progress(std::chrono::steady_clock::duration interval = std::chrono::milliseconds(100))
      : interval_(interval) {}

  // SAMPLE is kept if it is time for one, or if the state is another.
  void note(ProgressSample sample) {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    const size_t n = samples_.size();
    const bool news = n == 0 || samples_.back().state != sample.state;
    if (!news && now < next_) return;
    ::clock_gettime(CLOCK_REALTIME, &sample.at);
    next_ = now + interval_;
    // While nothing happens its beginning and its end are enough.
    if (!news && n > 1 && same(samples_[n - 1], sample) && same(samples_[n - 2], sample)) {
      samples_.back() = sample;
      return;
    }
    samples_.push_back(sample);
    if (samples_.size() < kMost) return;
    std::vector<ProgressSample> kept;
    kept.reserve(kMost);
    for (size_t i = 0; i < samples_.size(); ++i) {
      const bool turn = i > 0 && samples_[i].state != samples_[i - 1].state;
      if (i % 2 == 0 || turn || i + 1 == samples_.size()) kept.push_back(samples_[i]);
    }
    samples_ = std::move(kept);
    interval_ *= 2;
  }

  std::vector<ProgressSample> samples() const {
    const std::lock_guard lock(mutex_);
    return samples_;
  }

 private:
  static bool same(const ProgressSample& a, const ProgressSample& b) {
    return a.state == b.state && a.tracks_pending == b.tracks_pending &&
           a.tracks_precopied == b.tracks_precopied && a.bytes_copied == b.bytes_copied &&
           a.cofw_tracks == b.cofw_tracks;
  }

  mutable std::mutex mutex_;
  std::vector<ProgressSample> samples_;
  std::chrono::steady_clock::duration interval_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace clonefs::detail
