// What happens by the clock: clones expire, precopy and activation begin at a time. And holds, which keep
// clones from being removed. keep_time() is one look at the clock; the thread that calls it has no logic.
#include <algorithm>
#include <map>

#include "engine/core.h"
#include "engine/moment.h"
#include "engine/row_rules.h"

namespace clonefs::detail {

namespace {

// The clock was set when it moves on by so much more (or less) than time has passed.
constexpr int64_t kClockWasSet = 600;
// After it was set forward no clone expires for so long: it may be set right again.
constexpr int64_t kAfterClockWasSet = 3600;
// An activation that is later than this is none: the consistency point would be another than was meant.
constexpr int64_t kTooLate = 60;

std::string tags_of(const std::vector<CloneHold>& holds) {
  std::string tags;
  for (const auto& h : holds) tags += (tags.empty() ? "" : ", ") + h.tag;
  return tags;
}

}  // namespace

Status Core::check_schedule(const CreateOptions& o) {
  if (o.precopy_at < 0 || o.activate_at < 0 || o.ttl_s > kMaxTtl)
    return Error{EINVAL, "a time is out of range; a clone lives for 100 years at most"};
  if (o.precopy_at != 0 && o.nocopy)
    return Error{EINVAL, "precopy and nocopy exclude each other; leave one out"};
  if (o.activate && (o.precopy_at != 0 || o.activate_at != 0))
    return Error{EINVAL, "a copy is active at once; use create with times"};
  if (o.precopy_at != 0 && o.activate_at != 0 && o.precopy_at >= o.activate_at)
    return Error{EINVAL, "precopy at " + format_moment(o.precopy_at) + " would begin after the activation at " +
                             format_moment(o.activate_at) + "; precopy comes first"};
  return {};
}

// With the command mutex held. The session's row is there.
Status Core::put_schedule(const Session& s, const Schedule& schedule) {
  Catalog::Batch batch(*catalog_);
  auto status = batch.put_schedule(s.id, schedule.ttl_s, schedule.precopy_at, schedule.activate_at,
                                   schedule.missed);
  if (status) status = batch.commit();
  if (status) timetable_.set(s.id, schedule);
  return status;
}

Status Core::load_timetable() {
  std::map<uint64_t, Schedule> loaded;
  auto schedules = catalog_->schedules();
  if (!schedules) return schedules.error();
  for (auto& row : *schedules) {
    // A damaged time is none: nothing is removed or activated by it.
    if (row.ttl_s > kMaxTtl || row.precopy_at < 0 || row.activate_at < 0) {
      events_.add(EventKind::kTrouble, "", "the schedule of session " + std::to_string(row.session) +
                  " in the catalog is damaged; it is not followed");
      continue;
    }
    Schedule& s = loaded[row.session];
    s.ttl_s = row.ttl_s;
    s.precopy_at = row.precopy_at;
    s.activate_at = row.activate_at;
    s.missed = std::move(row.missed);
  }
  auto holds = catalog_->holds();
  if (!holds) return holds.error();
  for (auto& row : *holds) loaded[row.session].holds.push_back({row.tag, row.since});
  for (const auto& s : all_sessions()) {
    if (const auto it = loaded.find(s->id); it != loaded.end()) timetable_.set(s->id, it->second);
  }
  return {};
}

Status Core::check_held(const Session& s) const {
  const auto holds = timetable_.of(s.id).holds;
  if (holds.empty()) return {};
  return Error{EBUSY, s.name + " is held by " + tags_of(holds) + " (since " + format_moment(holds.front().since.tv_sec) +
                          "), and nothing was removed; `clonefs release " + s.name + " " +
                          holds.front().tag + "` lets it go"};
}

Status Core::hold_clone(const std::string& name, const std::string& tag) {
  const std::lock_guard command(command_mutex_);
  if (auto status = available(); !status) return status;
  if (!is_session_name(tag))
    return Error{EINVAL, "'" + tag + "' is no tag; a tag is written as the name of a clone: letters, "
                                     "digits, '.', '_' and '-'"};
  const auto s = shown(name);  // not the generation that is being prepared
  if (s == nullptr) return no_clone(name);
  Schedule schedule = timetable_.of(s->id);
  for (const auto& h : schedule.holds) {
    if (h.tag == tag)
      return Error{EEXIST, name + " is held by " + tag + " already, since " + format_moment(h.since.tv_sec)};
  }
  if (schedule.holds.size() >= kMaxHolds)
    return Error{EUSERS, name + " has " + std::to_string(kMaxHolds) + " holds, and takes no more; "
                             "`clonefs release` those that are over"};
  if (s->building)
    return Error{EBUSY, name + " is being created; hold it when that is done"};
  schedule.holds.push_back({tag, now()});
  Catalog::Batch batch(*catalog_);
  auto status = batch.put_hold(s->id, tag, schedule.holds.back().since);
  if (status) status = batch.commit();
  if (!status) return status;
  timetable_.set(s->id, std::move(schedule));
  events_.add(EventKind::kHeld, name, "held " + name + " by " + tag);
  return {};
}

Status Core::release_clone(const std::string& name, const std::string& tag) {
  {
    const std::lock_guard command(command_mutex_);
    if (auto status = available(); !status) return status;
    const auto s = shown(name);
    if (s == nullptr) return no_clone(name);
    Schedule schedule = timetable_.of(s->id);
    const auto it = std::find_if(schedule.holds.begin(), schedule.holds.end(),
                                 [&](const CloneHold& h) { return h.tag == tag; });
    if (it == schedule.holds.end()) {
      const std::string who = tags_of(schedule.holds);
      return Error{ENOENT, name + " is not held by " + tag + "; " +
                               (who.empty() ? "nobody holds it" : "it is held by " + who)};
    }
    schedule.holds.erase(it);
    Catalog::Batch batch(*catalog_);
    auto status = batch.drop_hold(s->id, tag);
    if (status) status = batch.commit();
    if (!status) return status;
    timetable_.set(s->id, std::move(schedule));
    events_.add(EventKind::kReleased, name, "released " + name + " by " + tag);
  }
  return {};
}

// Removes S, whose time is over, unless somebody did, or holds it, meanwhile.
Status Core::expire(const SessionPtr& s) {
  const std::string name = s->name;
  {
    const std::lock_guard command(command_mutex_);
    if (closed_ || s->removed || find(name) != s || is_held(*s)) return {};
    // Who reads it may come to the end of it.
    s->replaced = true;
    if (s->open_handles != 0) {
      s->replaced = false;
      return {};
    }
    if (auto status = destroy(s); !status) {
      if (!s->removed) s->replaced = false;
      return status;
    }
    events_.add(EventKind::kExpired, name, "expired " + name);
    state_changed();
  }
  notify_clones(name);
  return {};
}

// What was due, done or not, is so no more.
void Core::settle(const SessionPtr& s, bool activation, const std::string& missed) {
  const std::lock_guard command(command_mutex_);
  if (s->removed) return;
  Schedule schedule = timetable_.of(s->id);
  (activation ? schedule.activate_at : schedule.precopy_at) = 0;
  schedule.missed = missed;
  if (!missed.empty()) events_.add(EventKind::kMissed, s->name, "MISSED " + s->name + ": " + missed);
  if (auto status = put_schedule(*s, schedule); !status) {
    events_.add(EventKind::kTrouble, s->name, "catalog: " + status.error().message);
    timetable_.set(s->id, schedule);
  }
}

int64_t Core::keep_time(const timespec& wall, std::chrono::nanoseconds since_boot) {
  const int64_t time = wall.tv_sec;
  const int64_t passed = std::chrono::duration_cast<std::chrono::seconds>(since_boot).count();
  if (clock_seen_) {
    const int64_t set_by = (time - clock_seen_->first) - (passed - clock_seen_->second);
    if (set_by > kClockWasSet) {
      expiry_from_ = passed + kAfterClockWasSet;
      events_.add("the clock was set forward by " + std::to_string(set_by) +
                  " s: no clone expires for an hour");
    } else if (set_by < -kClockWasSet) {
      expiry_from_ = 0;
    }
  }
  clock_seen_ = {time, passed};
  int64_t next = INT64_MAX;
  if (timetable_.empty()) return next;

  // A generation that waits for its replacement is not removed by the clock meanwhile.
  std::vector<SessionPtr> sessions;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& [name, s] : sessions_) sessions.push_back(s);
  }
  std::map<int64_t, std::vector<SessionPtr>> due;  // to be activated; those of one time at one point
  for (const auto& s : sessions) {
    const Schedule schedule = timetable_.of(s->id);
    if (s->removed || s->building || schedule.empty()) continue;
    const bool before = s->before_activation();
    const bool waits = before || (s->state.load() == SessionState::kFailed && s->activated_at.tv_sec == 0);
    if (!waits && schedule.ttl_s != 0 && schedule.holds.empty()) {
      const int64_t end = s->activated_at.tv_sec + static_cast<int64_t>(schedule.ttl_s);
      if (time >= end && passed >= expiry_from_) {
        const auto status = expire(s);
        std::string& said = expiry_error_[s->id];
        if (!status && said != status.error().message) {
          said = status.error().message;
          events_.add(EventKind::kTrouble, s->name, "cannot remove the expired " + s->name + ": " + said);
        }
        if (status) expiry_error_.erase(s->id);
      } else {
        next = std::min(next, end);
      }
    }
    if (schedule.precopy_at != 0 && (!before || time >= schedule.precopy_at)) {
      const bool wanted = before && s->state.load() == SessionState::kCreated;
      const auto status = wanted ? precopy({s->name}) : Status{};
      settle(s, false, status ? "" : "precopy at " + format_moment(schedule.precopy_at) + ": " +
                                         status.error().message);
    } else if (schedule.precopy_at != 0) {
      next = std::min(next, schedule.precopy_at);
    }
    if (schedule.activate_at != 0 && !before) {
      settle(s, true, "");
    } else if (schedule.activate_at != 0 && time >= schedule.activate_at) {
      due[schedule.activate_at].push_back(s);
    } else if (schedule.activate_at != 0) {
      next = std::min(next, schedule.activate_at);
    }
  }
  for (const auto& [at, group] : due) {
    std::vector<std::string> names;
    for (const auto& s : group) names.push_back(s->name);
    Status status = time - at > kTooLate
                        ? Error{ETIMEDOUT, "the volume was not mounted, or the clock was set; "
                                           "`clonefs activate` does it now"}
                        : activate(names);
    for (const auto& s : group)
      settle(s, true, status ? "" : "activation at " + format_moment(at) + ": " + status.error().message);
  }
  return next;
}

void Core::start_timekeeping() {
  if (options_.no_clones || timekeeper_.joinable()) return;
  timekeeper_ = std::thread([this] { timekeeping(); });
}

void Core::timekeeping() {
  std::unique_lock lock(timekeeper_mutex_);
  while (!timekeeper_stop_) {
    lock.unlock();
    timespec boot{};
    ::clock_gettime(CLOCK_BOOTTIME, &boot);
    const timespec wall = now();
    const int64_t next = keep_time(wall, std::chrono::seconds(boot.tv_sec));
    lock.lock();
    // Looked at each second: the clock may be set, and schedules come.
    auto pause = std::chrono::nanoseconds(1'000'000'000);
    if (next == wall.tv_sec + 1) pause -= std::chrono::nanoseconds(wall.tv_nsec);
    timekeeper_wake_.wait_for(lock, pause, [this] { return timekeeper_stop_; });
  }
}

void Core::stop_timekeeping() {
  {
    const std::lock_guard lock(timekeeper_mutex_);
    timekeeper_stop_ = true;
    timekeeper_wake_.notify_all();
  }
  if (timekeeper_.joinable()) timekeeper_.join();
}

}  // namespace clonefs::detail
