// Claims: exclusive rights on byte ranges of source files, for the moments in which a track moves
// from the source to the clone side (COFW, the copy program, clone access). Only those who want
// overlapping ranges of one file wait for each other. A holder must not ask for a second range.
// One object serves many files: a file that nobody works on costs no memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "extents/geometry.h"

namespace clonefs::detail {

class Claims {
 public:
  // Those of one file, by its number.
  struct File {
    Claims* claims = nullptr;
    uint64_t id = 0;
  };

  class Holder {
   public:
    Holder(const File& file, ByteRange range) : claims_(*file.claims), held_{file.id, range} {
      std::unique_lock lock(claims_.mutex_);
      claims_.freed_.wait(lock, [&] { return claims_.is_free(held_); });
      claims_.held_.push_back(held_);
    }
    ~Holder() {
      const std::lock_guard lock(claims_.mutex_);
      for (auto& held : claims_.held_) {
        if (held.id == held_.id && held.range == held_.range) {
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
    struct Held {
      uint64_t id;
      ByteRange range;
    };
    friend class Claims;
    Claims& claims_;
    const Held held_;
  };

 private:
  bool is_free(const Holder::Held& wanted) const {
    for (const auto& held : held_)
      if (held.id == wanted.id && held.range.offset < wanted.range.end() &&
          wanted.range.offset < held.range.end())
        return false;
    return true;
  }

  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<Holder::Held> held_;
};

}  // namespace clonefs::detail
