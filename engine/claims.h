// Claims: exclusive rights on byte ranges of one source file, for the moments in which a track
// moves from the source to the clone side (COFW, the copy program, clone access). Only those who
// want overlapping ranges wait for each other. A holder must not ask for a second range.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "extents/geometry.h"

namespace clonefs::detail {

class Claims {
 public:
  class Holder {
   public:
    Holder(Claims& claims, ByteRange range) : claims_(claims), range_(range) {
      std::unique_lock lock(claims_.mutex_);
      claims_.freed_.wait(lock, [&] { return claims_.is_free(range_); });
      claims_.held_.push_back(range_);
    }
    ~Holder() {
      const std::lock_guard lock(claims_.mutex_);
      for (auto& held : claims_.held_) {
        if (held == range_) {
          held = claims_.held_.back();
          claims_.held_.pop_back();
          break;
        }
      }
      claims_.freed_.notify_all();
    }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

   private:
    Claims& claims_;
    const ByteRange range_;
  };

 private:
  bool is_free(ByteRange range) const {
    for (const auto& held : held_)
      if (held.offset < range.end() && range.offset < held.end()) return false;
    return true;
  }

  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<ByteRange> held_;
};

}  // namespace clonefs::detail
