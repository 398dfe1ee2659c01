// Pace: the automatic pace of the copy programs. It keeps out of the foreground's way by what the
// foreground feels, and it alone has this rule:
//
//   Every kLook the requests of the volume that began beside copying are compared with those that did
//   not, in the mean. When they took more than kTolerated times as long, the share of time in
//   which is copied falls by a third; else it rises by a twentieth of the whole time. It stays between
//   kFloor, so that a drain ends, and kMost, so that there are pauses to compare with. With nobody in
//   the foreground it is 1.
//
// After a turn of copying that took T, its program rests T * (1 - share) / share. It also takes smaller
// steps, since an fdatasync waits for what the disk was given before, until nothing was asked for in
// kAloneAfter looks one after the other: a request that takes long is counted when it ends.
// Thread safety: all members. What the foreground calls writes to no cache line that others write.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "engine/fence.h"

namespace clonefs::detail {

class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kLook = std::chrono::milliseconds(200);
  static constexpr double kFloor = 0.1, kMost = 0.9, kTolerated = 1.5;
  static constexpr unsigned kAloneAfter = 5;

  // --- the foreground
  // Whether anybody wants to know how long it takes.
  bool wanted() const { return users_.load(std::memory_order_relaxed) != 0; }
  bool copying() const { return turns_.load(std::memory_order_relaxed) != 0; }
  // SLOT: thread_slot(); BESIDE: copying() as it began.
  void note(unsigned slot, bool beside, Clock::duration took) {
    auto& m = slots_[slot].of[beside ? 1 : 0];
    m.count.fetch_add(1, std::memory_order_relaxed);
    m.ns.fetch_add(static_cast<uint64_t>(std::chrono::nanoseconds(took).count()),
                   std::memory_order_relaxed);
  }

  // --- copy programs
  void begin_use(Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    if (users_.fetch_add(1) != 0) return;
    // Nobody was asked before.
    looked_at_ = now;
    quiet_looks_ = 0;
  }
  void end_use() { users_.fetch_sub(1); }
  void begin_turn() { turns_.fetch_add(1); }
  void end_turn() { turns_.fetch_sub(1); }
  // How long a program rests that has just copied for WORKED.
  Clock::duration rest(Clock::time_point now, Clock::duration worked) {
    const std::lock_guard lock(mutex_);
    if (now - looked_at_ >= kLook) {
      look();
      looked_at_ = now;
    }
    return std::chrono::duration_cast<Clock::duration>(worked * ((1 - share_) / share_));
  }
  bool alone() const {
    const std::lock_guard lock(mutex_);
    return quiet_looks_ >= kAloneAfter;
  }

 private:
  struct Mean {
    double count = 0, ns = 0;
    double value() const { return ns / count; }
  };

  void look() {
    double seen = 0;
    for (int i = 0; i < 2; ++i) {
      uint64_t count = 0, ns = 0;
      for (const auto& slot : slots_) {
        count += slot.of[i].count.load(std::memory_order_relaxed);
        ns += slot.of[i].ns.load(std::memory_order_relaxed);
      }
      // What is older counts less and less.
      means_[i].count = means_[i].count * kRemembered + static_cast<double>(count - counts_[i]);
      means_[i].ns = means_[i].ns * kRemembered + static_cast<double>(ns - ns_[i]);
      seen += static_cast<double>(count - counts_[i]);
      counts_[i] = count;
      ns_[i] = ns;
    }
    quiet_looks_ = seen == 0 ? quiet_looks_ + 1 : 0;
    if (seen < kFew) {
      share_ = 1;
      return;
    }
    const bool known = means_[0].count >= kFew && means_[1].count >= kFew;
    if (known && means_[1].value() > kTolerated * means_[0].value())
      share_ = std::max(kFloor, share_ * 2 / 3);
    else
      share_ = std::min(kMost, share_ + 0.05);
  }

  static constexpr double kRemembered = 0.8, kFew = 4;
  struct Measured {
    std::atomic<uint64_t> count{0}, ns{0};
  };
  struct alignas(64) Slot {
    std::array<Measured, 2> of;  // alone, beside copying
  };
  std::array<Slot, kThreadSlots> slots_;
  alignas(64) std::atomic<unsigned> users_{0};
  std::atomic<unsigned> turns_{0};

  mutable std::mutex mutex_;
  Clock::time_point looked_at_{};
  double share_ = 1;
  unsigned quiet_looks_ = 0;  // one after the other
  Mean means_[2];
  uint64_t counts_[2] = {0, 0}, ns_[2] = {0, 0};  // at the last look
};

}  // namespace clonefs::detail
