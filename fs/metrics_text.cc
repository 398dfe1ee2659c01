#include "fs/metrics_text.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

namespace clonefs {

namespace {

// The JSON writer has the rule for bytes that are no UTF-8.
std::string valid_utf8(const std::string& text) {
  using Json = nlohmann::json;
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace))
      .get<std::string>();
}

std::string label(const char* name, const std::string& value) {
  std::string text = std::string(name) + "=\"";
  for (const char c : valid_utf8(value)) {
    if (c == '\\' || c == '"') text += '\\';
    text += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return text + '"';
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}
std::string number(uint64_t value) { return std::to_string(value); }

// Of NS nanoseconds, all digits.
std::string seconds(uint64_t ns) {
  char text[40];
  std::snprintf(text, sizeof text, "%llu.%09llu", static_cast<unsigned long long>(ns / 1000000000),
                static_cast<unsigned long long>(ns % 1000000000));
  return text;
}
std::string seconds(const timespec& at) {
  char text[40];
  std::snprintf(text, sizeof text, "%lld.%09ld", static_cast<long long>(at.tv_sec), at.tv_nsec);
  return text;
}
bool is_set(const timespec& at) { return at.tv_sec != 0 || at.tv_nsec != 0; }

class Writer {
 public:
  explicit Writer(const std::string& volume) : volume_(label("volume", volume)) {}

  void family(const char* name, const char* type, const char* help) {
    name_ = name;
    text_ += "# HELP " + name_ + " " + help + "\n# TYPE " + name_ + " " + type + "\n";
  }
  void sample(const std::string& value, const std::string& labels = {}, const char* suffix = "") {
    text_ += name_ + suffix + "{" + volume_ + (labels.empty() ? "" : ",") + labels + "} " + value + "\n";
  }
  void histogram(const char* name, const char* help, const LatencyCounts& c) {
    family(name, "histogram", help);
    uint64_t below = 0;
    for (size_t i = 0; i < LatencyCounts::kBounds; i++) {
      below += c.counts[i];
      sample(number(below), label("le", number(static_cast<double>(LatencyCounts::kBoundsNs[i]) / 1e9)),
             "_bucket");
    }
    below += c.counts.back();
    sample(number(below), label("le", "+Inf"), "_bucket");
    sample(seconds(c.sum_ns), {}, "_sum");
    sample(number(below), {}, "_count");
  }
  std::string take() { return std::move(text_); }

 private:
  const std::string volume_;
  std::string name_;
  std::string text_;
};

void write_clones(Writer& out, const std::vector<SessionStatus>& sessions) {
  const auto name_of = [](const SessionStatus& s) { return label("clone", s.name); };
  // One value a clone; "": none.
  using Value = std::function<std::string(const SessionStatus&)>;
  const auto each = [&](const char* name, const char* type, const char* help, const Value& value) {
    out.family(name, type, help);
    for (const auto& s : sessions) {
      if (const std::string text = value(s); !text.empty()) out.sample(text, name_of(s));
    }
  };

  out.family("clonefs_clone_state", "gauge", "1 for the state that the clone is in, 0 for the others");
  constexpr SessionState kStates[] = {SessionState::kCreated,        SessionState::kPrecopy,
                                      SessionState::kCopyInProgress, SessionState::kCopied,
                                      SessionState::kTerminated,     SessionState::kFailed};
  for (const auto& s : sessions) {
    for (const SessionState state : kStates) {
      out.sample(s.state == state ? "1" : "0", name_of(s) + "," + label("state", to_string(state)));
    }
  }
  each("clonefs_clone_age_seconds", "gauge", "Time since the clone's consistency point",
       [](const SessionStatus& s) {
         if (!is_set(s.activated_at)) return std::string();
         timespec now{};
         ::clock_gettime(CLOCK_REALTIME, &now);
         const double age = static_cast<double>(now.tv_sec - s.activated_at.tv_sec) +
                            static_cast<double>(now.tv_nsec - s.activated_at.tv_nsec) / 1e9;
         return number(age);
       });
  each("clonefs_clone_consistency_point_timestamp_seconds", "gauge",
       "Unix time of the clone's consistency point",
       [](const SessionStatus& s) { return is_set(s.activated_at) ? seconds(s.activated_at) : ""; });
  each("clonefs_clone_created_timestamp_seconds", "gauge", "Unix time at which the clone was created",
       [](const SessionStatus& s) { return seconds(s.created_at); });
  each("clonefs_clone_verified_timestamp_seconds", "gauge",
       "Unix time of the clone's last verify since the mount",
       [](const SessionStatus& s) { return is_set(s.verified_at) ? seconds(s.verified_at) : ""; });
  each("clonefs_clone_damage_findings", "gauge", "What the last verify found",
       [](const SessionStatus& s) { return is_set(s.verified_at) ? number(s.damaged) : ""; });
  each("clonefs_clone_files", "gauge", "Regular files of the clone",
       [](const SessionStatus& s) { return number(s.files); });
  out.family("clonefs_clone_tracks", "gauge",
             "Tracks of the clone: pending (to be copied), precopied (before the activation), done");
  for (const auto& s : sessions) {
    const uint64_t open = std::min(s.tracks_total, s.tracks_pending + s.tracks_precopied);
    out.sample(number(s.tracks_pending), name_of(s) + "," + label("state", "pending"));
    out.sample(number(s.tracks_precopied), name_of(s) + "," + label("state", "precopied"));
    out.sample(number(s.tracks_total - open), name_of(s) + "," + label("state", "done"));
  }
  each("clonefs_clone_track_size_bytes", "gauge", "Size of a track of the clone",
       [](const SessionStatus& s) { return number(s.track_size); });
  each("clonefs_clone_size_bytes", "gauge", "What the clone's tracks hold, copied or not",
       [](const SessionStatus& s) { return number(s.bytes_total); });
  each("clonefs_clone_copied_bytes", "gauge", "What of it is on the clone side",
       [](const SessionStatus& s) { return number(s.bytes_copied); });
  each("clonefs_clone_copy_bytes_per_second", "gauge", "Rate of the clone's background copy",
       [](const SessionStatus& s) { return number(s.rate_bytes_per_s); });
  each("clonefs_clone_copy_paused", "gauge",
       "1: errors have paused the background copy until clonefs resume",
       [](const SessionStatus& s) { return s.op_status == "paused" ? "1" : "0"; });
  each("clonefs_clone_cofw_tracks_total", "counter", "Tracks copied before their first overwrite",
       [](const SessionStatus& s) { return number(s.cofw_tracks); });
  each("clonefs_clone_recopied_tracks_total", "counter",
       "Precopied tracks that were written and copied again",
       [](const SessionStatus& s) { return number(s.tracks_recopied); });
  each("clonefs_clone_read_tracks_total", "counter", "Tracks that readers of the clone took from the source",
       [](const SessionStatus& s) { return number(s.clone_read_tracks); });
}

}  // namespace

std::string metrics_text(const VolumeInfo& info, const std::vector<SessionStatus>& sessions) {
  Writer out(info.volume);
  const EngineCounts& counts = info.counts;
  out.family("clonefs_mount_info", "gauge", "The mounted volume; requests is the way they come");
  out.sample("1", label("version", CLONEFS_VERSION) + "," + label("source", info.source) + "," +
                      label("pool", info.pool) + "," + label("durability", info.durability) + "," +
                      label("requests", info.over_io_uring ? "io_uring" : "dev_fuse") + "," +
                      label("clones", info.no_clones ? "no" : "yes"));

  write_clones(out, sessions);

  out.family("clonefs_cofw_tracks_total", "counter",
             "Tracks copied before their first overwrite, of all clones since the mount");
  out.sample(number(counts.cofw_tracks));
  out.histogram("clonefs_cofw_latency_seconds",
                "How long changes of the source waited for the copies of what they overwrite", counts.cofw);
  out.histogram("clonefs_fence_duration_seconds", "How long the fences of activations stood", counts.fence);
  out.family("clonefs_fence_last_duration_seconds", "gauge", "How long the last fence stood");
  out.sample(seconds(counts.fence.last_ns));
  out.histogram("clonefs_fence_wait_seconds", "How long changes of the source waited at fences",
                counts.fence_wait);
  out.family("clonefs_fence_last_longest_wait_seconds", "gauge",
             "The longest that a change waited at the last fence");
  out.sample(seconds(counts.longest_fence_wait_ns));

  const PoolStatus& pool = info.pool_status;
  out.family("clonefs_pool_free_bytes", "gauge", "Free room in the pool");
  if (pool.known) out.sample(number(pool.free_bytes));
  out.family("clonefs_pool_needed_bytes", "gauge", "Room that running clones may still take, at most");
  if (pool.known) out.sample(number(pool.needed_bytes));
  out.family("clonefs_pool_full_in_seconds", "gauge",
             "When the pool is full at the present rate; none while all has room");
  if (pool.full_in_s >= 0) out.sample(number(static_cast<uint64_t>(pool.full_in_s)));

  out.family("clonefs_journal_records_total", "counter", "Tracks that the COFW journal has taken");
  out.sample(number(info.journal.records));
  out.family("clonefs_journal_commits_total", "counter", "Syncs of the COFW journal");
  out.sample(number(info.journal.commits));
  out.family("clonefs_journal_written_bytes_total", "counter", "Bytes written to the COFW journal");
  out.sample(number(info.journal.bytes));

  out.family("clonefs_errors_total", "counter",
             "Errors since the mount: clone_failed, copy (tried again), write_refused");
  out.sample(number(counts.clones_failed), label("kind", "clone_failed"));
  out.sample(number(counts.copy_errors), label("kind", "copy"));
  out.sample(number(counts.writes_refused), label("kind", "write_refused"));
  return out.take();
}

std::string up_text(const std::string& volume, bool up) {
  Writer out(volume);
  out.family("clonefs_up", "gauge", "1: the daemon of the volume answers");
  out.sample(up ? "1" : "0");
  return out.take();
}

}  // namespace clonefs
