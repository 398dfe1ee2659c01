// What users see of sessions.
#include "engine/core.h"

namespace clonefs {

const char* to_string(SessionState state) {
  switch (state) {
    case SessionState::kCreated: return "Created";
    case SessionState::kPrecopy: return "Precopy";
    case SessionState::kCopyInProgress: return "CopyInProgress";
    case SessionState::kCopied: return "Copied";
    case SessionState::kTerminated: return "Terminated";
    case SessionState::kFailed: return "Failed";
  }
  return "?";
}

const char* to_string(Durability durability) {
  return durability == Durability::kPower ? "power" : "relaxed";
}

const char* to_string(OnError policy) {
  return policy == OnError::kFailClone ? "fail-clone" : "fail-write";
}

}  // namespace clonefs

namespace clonefs::detail {

Result<SessionStatus> Core::status(const std::string& name) const {
  const auto s = find(name);
  if (s == nullptr)
    return no_clone(name);
  SessionStatus r;
  r.name = s->name;
  r.state = s->state.load(std::memory_order_acquire);
  switch (r.state) {
    case SessionState::kCreated:
      r.op = "create";
      r.op_status = s->building ? "running" : "done";
      break;
    case SessionState::kPrecopy:
      r.op = "precopy";
      r.op_status = s->precopied ? "precopied" : "running";
      break;
    case SessionState::kCopyInProgress:
      r.op = s->nocopy ? "none" : "drain";
      r.op_status = s->nocopy ? "waiting" : "running";
      break;
    case SessionState::kCopied:
      r.op = "drain";
      r.op_status = "done";
      break;
    case SessionState::kTerminated:
      r.op = "terminate";
      r.op_status = "done";
      break;
    case SessionState::kFailed:
      r.op = "none";
      r.op_status = "failed";
      break;
  }
  const bool copying =
      r.state == SessionState::kPrecopy || r.state == SessionState::kCopyInProgress;
  const Trouble trouble = copying ? s->trouble.load() : Trouble::kNone;
  if (trouble != Trouble::kNone)
    r.op_status = trouble == Trouble::kPaused ? "paused" : "retrying";
  r.created_at = s->created_at;
  // The time is written before the state: not read before it says so.
  if (r.state != SessionState::kCreated && r.state != SessionState::kPrecopy) {
    r.activated_at = s->activated_at;
    r.fence_ns = s->fence_ns;
  }
  r.paths = s->paths;
  r.extents = s->selection;
  r.nocopy = s->nocopy;
  r.track_size = s->track_size.bytes();
  const auto& c = s->counters;
  r.files = c.files;
  r.objects = c.objects;
  r.tracks_total = c.tracks_total;
  r.tracks_pending = c.tracks_pending;
  r.tracks_precopied = c.tracks_precopied;
  r.tracks_recopied = c.tracks_recopied;
  r.cofw_tracks = c.cofw_tracks;
  r.clone_read_tracks = c.clone_read_tracks;
  r.cofw_latency = c.cofw_latency.counts();
  r.tracks_inherited = c.tracks_inherited;
  if (const auto before = shown(name); before != nullptr && before != s) r.previous_at = before->activated_at;
  r.bytes_total = c.bytes_total;
  r.bytes_copied = c.bytes_copied;
  r.pace_auto = s->pace == kPaceAuto;
  r.rate_limit = r.pace_auto ? 0 : s->pace.load();
  r.transfer = method_works_ ? method_ == Method::kShare ? "share" : "server" : "write";
  r.rate_bytes_per_s = s->rate_now;
  if (r.state == SessionState::kCopied || r.state == SessionState::kTerminated || s->precopied) {
    r.eta_s = 0;
  } else if (r.rate_bytes_per_s != 0) {
    r.eta_s = static_cast<int64_t>(r.tracks_pending * r.track_size / r.rate_bytes_per_s);
  }
  if (r.state != SessionState::kTerminated) r.sessions.push_back(s->column_id);
  Schedule schedule = timetable_.of(s->id);
  r.ttl_s = schedule.ttl_s;
  if (r.ttl_s != 0 && r.activated_at.tv_sec != 0) {
    r.expires_at = r.activated_at;
    r.expires_at.tv_sec += static_cast<time_t>(r.ttl_s);
  }
  r.precopy_at.tv_sec = schedule.precopy_at;
  r.activate_at.tv_sec = schedule.activate_at;
  r.missed = std::move(schedule.missed);
  const auto previous = shown(name);  // what the name shows is what is held
  r.holds = previous == nullptr || previous == s ? std::move(schedule.holds)
                                                 : timetable_.of(previous->id).holds;
  Object* last = nullptr;
  uint64_t track = 0;
  {
    const std::lock_guard lock(s->text_mutex);
    r.error = trouble == Trouble::kNone ? s->error : s->trouble_text;
    if (s->verified != nullptr) {
      r.verified_at = s->verified->at;
      r.damaged = s->verified->damaged;
    }
    last = s->last_object;
    track = s->last_track;
  }
  if (last != nullptr) r.last_track = path_of(*s, *last) + ":" + std::to_string(track);
  const bool drained = r.state == SessionState::kCopied || r.state == SessionState::kTerminated;
  r.destination = pool_name_ + (drained ? "/clones/" : "/incomplete/") + s->name;
  return r;
}

EngineCounts Core::counts() const {
  EngineCounts c;
  c.cofw = cofw_latency_.counts();
  c.fence = fences_.counts();
  c.fence_wait = fence_.waits();
  c.longest_fence_wait_ns = fence_.longest_wait_ns();
  c.cofw_tracks = cofw_tracks_;
  c.clones_failed = clones_failed_;
  c.copy_errors = copy_errors_;
  c.writes_refused = writes_refused_;
  return c;
}

std::vector<SessionStatus> Core::status() const {
  std::vector<std::string> names;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& [name, s] : sessions_) names.push_back(name);
  }
  std::vector<SessionStatus> all;
  for (const auto& name : names) {
    if (auto r = status(name)) all.push_back(std::move(*r));
  }
  return all;
}

Result<std::vector<MemberExtents>> Core::extents(const std::string& name) {
  const auto s = find(name);
  if (s == nullptr)
    return no_clone(name);
  const std::lock_guard work(s->work_mutex);
  std::vector<MemberExtents> members;
  for (auto& o : s->objects) {
    if (o.gone || !o.is_regular()) continue;
    MemberExtents m;
    m.path = path_of(*s, o);
    m.track_size = s->track_size.bytes();
    const std::lock_guard lock(s->object_lock(o));
    m.size = o.size;
    const uint64_t count = o.column == nullptr ? 0 : o.column->count;
    const auto seen = [&](uint64_t t) {
      return durable_form(o.column->at(t)) & static_cast<TrackBits>(~kRewritten);
    };
    for (uint64_t t = 0; t < count;) {
      const TrackBits bits = static_cast<TrackBits>(seen(t));
      uint64_t u = t + 1;
      while (u < count && seen(u) == bits) ++u;
      if (!in_extent(bits)) {
        t = u;
        continue;
      }
      std::string text = {(bits & kClonePb) != 0 ? '1' : '0', (bits & kPrecopyPb) != 0 ? '1' : '0',
                          (bits & kInd) != 0 ? '1' : '0'};
      m.runs.push_back({{t, u - t}, std::move(text)});
      t = u;
    }
    members.push_back(std::move(m));
  }
  return members;
}

}  // namespace clonefs::detail
