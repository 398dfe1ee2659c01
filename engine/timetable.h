// Timetable: what is to become of clones by the clock, and who holds them. In memory; the catalog has the
// same (tables schedules and holds). By session id: the generations of a name have theirs each.
// Thread safety: all members; its lock is a leaf.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace clonefs::detail {

struct Schedule {
  uint64_t ttl_s = 0;       // from the consistency point; 0: for ever
  int64_t precopy_at = 0;   // seconds since 1970; 0: not by the clock
  int64_t activate_at = 0;
  std::string missed;       // what was to be done and was not, and why
  std::vector<CloneHold> holds;
  bool empty() const {
    return ttl_s == 0 && precopy_at == 0 && activate_at == 0 && missed.empty() && holds.empty();
  }
};

class Timetable {
 public:
  Schedule of(uint64_t session) const {
    const std::lock_guard lock(mutex_);
    const auto it = schedules_.find(session);
    return it == schedules_.end() ? Schedule{} : it->second;
  }
  void set(uint64_t session, Schedule schedule) {
    const std::lock_guard lock(mutex_);
    if (schedule.empty()) {
      schedules_.erase(session);
    } else {
      schedules_[session] = std::move(schedule);
    }
  }
  void drop(uint64_t session) { set(session, {}); }
  bool empty() const {
    const std::lock_guard lock(mutex_);
    return schedules_.empty();
  }

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, Schedule> schedules_;
};

}  // namespace clonefs::detail
