#include "fs/status_text.h"

#include <algorithm>
#include <cstdio>

#include "engine/moment.h"
#include "fs/json_text.h"
#include "fs/words.h"

namespace clonefs {

namespace {

bool is_active(const SessionStatus& session) {
  return session.activated_at.tv_sec != 0 || session.activated_at.tv_nsec != 0;
}

// What is on the clone side, before activation: what precopy brought there.
double share_done(const SessionStatus& session) {
  if (session.tracks_total == 0) return 1;
  const uint64_t done = is_active(session) ? session.tracks_total - std::min(session.tracks_total,
                                                                             session.tracks_pending)
                                           : session.tracks_precopied;
  return std::min(1.0, static_cast<double>(done) / static_cast<double>(session.tracks_total));
}

std::string percent(const SessionStatus& session) {
  char text[16];
  // Rounded down: 100% is said when it is.
  std::snprintf(text, sizeof text, "%u%%", static_cast<unsigned>(share_done(session) * 100));
  return text;
}

std::string duration(int64_t seconds) {
  char text[48];
  if (seconds < 60) {
    std::snprintf(text, sizeof text, "%ds", static_cast<int>(seconds));
  } else if (seconds < 3600) {
    std::snprintf(text, sizeof text, "%dm%02ds", static_cast<int>(seconds / 60),
                  static_cast<int>(seconds % 60));
  } else {
    std::snprintf(text, sizeof text, "%lldh%02dm", static_cast<long long>(seconds / 3600),
                  static_cast<int>(seconds % 3600 / 60));
  }
  return text;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); i++) width[i] = std::max(width[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); i++) {
      line += row[i];
      if (i + 1 < row.size()) line.append(width[i] - row[i].size() + 2, ' ');
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string short_time(const timespec& time) {
  if (time.tv_sec == 0 && time.tv_nsec == 0) return "-";
  return format_local(time.tv_sec);
}

std::string pace(const SessionStatus& s) {
  if (s.pace_auto) return "auto";
  return s.rate_limit == 0 ? "max" : std::to_string(s.rate_limit);
}

Json to_json(const LatencyCounts& c) {
  Json buckets = Json::array();
  for (size_t i = 0; i < c.counts.size(); i++) {
    if (c.counts[i] == 0) continue;
    buckets.push_back({{"le_ns", i < LatencyCounts::kBounds ? Json(LatencyCounts::kBoundsNs[i]) : Json()},
                       {"count", c.counts[i]}});
  }
  return {{"count", c.count()},
          {"sum_ns", c.sum_ns},
          {"max_ns", c.max_ns},
          {"last_ns", c.last_ns},
          {"buckets", buckets}};
}

Json to_json(const SessionStatus& s) {
  Json json;
  json["name"] = s.name;
  json["state"] = to_string(s.state);
  json["op"] = s.op;
  json["op_status"] = s.op_status;
  json["created_at"] = time_json(s.created_at);
  json["activated_at"] = time_json(s.activated_at);
  json["error"] = s.error.empty() ? Json(nullptr) : Json(s.error);
  put_names(&json, "paths", s.paths);
  json["extents"] = Json::array();
  for (const ByteRange& range : s.extents) {
    json["extents"].push_back({{"offset", range.offset}, {"length", range.length}});
  }
  json["files"] = s.files;
  json["objects"] = s.objects;
  json["track_size"] = s.track_size;
  json["tracks_total"] = s.tracks_total;
  json["tracks_pending"] = s.tracks_pending;
  json["tracks_precopied"] = s.tracks_precopied;
  json["tracks_recopied"] = s.tracks_recopied;
  json["cofw_tracks"] = s.cofw_tracks;
  json["clone_read_tracks"] = s.clone_read_tracks;
  json["tracks_inherited"] = s.tracks_inherited;
  json["previous_at"] = time_json(s.previous_at);
  if (s.last_track.empty()) {
    json["last_track"] = nullptr;
  } else {
    put_name(&json, "last_track", s.last_track);
  }
  json["bytes_total"] = s.bytes_total;
  json["bytes_copied"] = s.bytes_copied;
  json["nocopy"] = s.nocopy;
  json["pace"] = pace(s);
  json["rate_limit"] = s.rate_limit == 0 ? Json(nullptr) : Json(s.rate_limit);
  json["transfer"] = s.transfer;
  json["rate_bytes_per_s"] = s.rate_bytes_per_s;
  json["eta_s"] = s.eta_s < 0 ? Json(nullptr) : Json(s.eta_s);
  json["sessions"] = s.sessions;
  put_name(&json, "destination", s.destination);
  json["verified_at"] = time_json(s.verified_at);
  json["damaged"] = s.verified_at.tv_sec == 0 ? Json(nullptr) : Json(s.damaged);
  json["fence_ns"] = s.fence_ns;
  json["ttl_s"] = s.ttl_s == 0 ? Json(nullptr) : Json(s.ttl_s);
  json["expires_at"] = time_json(s.expires_at);
  json["precopy_at"] = time_json(s.precopy_at);
  json["activate_at"] = time_json(s.activate_at);
  json["missed"] = s.missed.empty() ? Json(nullptr) : Json(s.missed);
  json["holds"] = Json::array();
  for (const CloneHold& hold : s.holds)
    json["holds"].push_back({{"tag", hold.tag}, {"since", time_json(hold.since)}});
  json["cofw_latency"] = to_json(s.cofw_latency);
  return json;
}

// Of the session, where the event says so.
Json state_after(EventKind kind) {
  switch (kind) {
    case EventKind::kCreated:
      return to_string(SessionState::kCreated);
    case EventKind::kPrecopy:
      return to_string(SessionState::kPrecopy);
    case EventKind::kActivated:
      return to_string(SessionState::kCopyInProgress);
    case EventKind::kCopied:
      return to_string(SessionState::kCopied);
    case EventKind::kTerminated:
      return to_string(SessionState::kTerminated);
    case EventKind::kFailed:
      return to_string(SessionState::kFailed);
    default:
      return nullptr;
  }
}

bool shown(const SessionStatus& session, bool all) {
  return all || session.state != SessionState::kTerminated;
}

}  // namespace

std::string printable(const std::string& name) {
  std::string out;
  for (const unsigned char c : name) {
    if (c < 0x20 || c == 0x7f) {
      char text[8];
      std::snprintf(text, sizeof text, "\\x%02x", c);
      out += text;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

std::string printable_lines(const std::string& text) {
  std::string out;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find('\n', begin);
    out += printable(text.substr(begin, end - begin)) + (end == std::string::npos ? "" : "\n");
  }
  return out;
}

std::string status_table(const std::vector<SessionStatus>& sessions, bool all) {
  std::vector<std::vector<std::string>> rows{
      {"NAME", "STATE", "OPERATION", "DONE", "FILES", "SIZE", "LEFT", "CONSISTENCY POINT"}};
  for (const SessionStatus& s : sessions) {
    if (!shown(s, all)) continue;
    std::string operation = s.op;
    if (!s.op_status.empty()) operation += (operation.empty() ? "" : " ") + s.op_status;
    const bool over = s.state == SessionState::kTerminated;  // nothing is counted any more
    rows.push_back({s.name, to_string(s.state), operation, percent(s), std::to_string(s.files),
                    over ? "-" : format_size(s.bytes_total),
                    over || s.eta_s < 0 ? "-" : duration(s.eta_s), short_time(s.activated_at)});
  }
  if (rows.size() == 1) return all ? "no clones\n" : "no sessions\n";
  std::string text = table(rows);
  for (const SessionStatus& s : sessions) {
    if (shown(s, all) && !s.error.empty()) text += s.name + ": " + printable(s.error) + "\n";
    if (shown(s, all) && !s.missed.empty())
      text += s.name + ": missed: " + printable(s.missed) + "\n";
  }
  return text;
}

std::string pool_line(const PoolStatus& pool) {
  if (!pool.known) return "";
  std::string text = "pool: " + format_size(pool.free_bytes) + " free";
  if (pool.needed_bytes > pool.free_bytes)
    text += ", " + format_size(pool.needed_bytes) + " may be needed";
  if (pool.full_in_s >= 0) text += ", full in " + duration(pool.full_in_s);
  return text + "\n";
}

std::string status_details(const SessionStatus& s) {
  std::string paths;
  for (size_t i = 0; i < s.paths.size() && i < 8; i++) {
    paths += (i == 0 ? "" : " ") + printable(quote_word(s.paths[i]));
  }
  if (s.paths.size() > 8) paths += " ... (" + std::to_string(s.paths.size()) + ")";
  std::string columns;
  for (const unsigned id : s.sessions) columns += (columns.empty() ? "" : " ") + std::to_string(id);
  const auto moment = [](const timespec& time) {
    const std::string text = format_time(time);
    return text.empty() ? "-" : text;
  };

  std::vector<std::vector<std::string>> rows{
      {"name", s.name},
      {"state", to_string(s.state)},
      {"operation", s.op + " " + s.op_status},
      {"created", moment(s.created_at)},
      {"consistency point", moment(s.activated_at)},
      {"paths", paths},
      {"files", std::to_string(s.files) + " (" + std::to_string(s.objects) + " objects)"},
      {"tracks", std::to_string(s.tracks_total) + " of " + format_size(s.track_size) + ", " +
                     std::to_string(s.tracks_pending) + " pending, " +
                     std::to_string(s.tracks_precopied) + " precopied, " +
                     std::to_string(s.tracks_recopied) + " copied again"},
      {"copied on first write", std::to_string(s.cofw_tracks) + " tracks"},
      {"taken by clone reads", std::to_string(s.clone_read_tracks) + " tracks"},
      {"last track", s.last_track.empty() ? "-" : printable(s.last_track)},
      {"copied",
       format_size(s.bytes_copied) + " of " + format_size(s.bytes_total) + " (" + percent(s) + ")"},
      {"rate", format_size(s.rate_bytes_per_s) + "/s, pace " +
                   (s.rate_limit == 0 ? pace(s) : format_size(s.rate_limit) + "/s")},
      {"data gets to the pool by", s.transfer},
      {"left", s.eta_s < 0 ? "-" : duration(s.eta_s)},
      {"background copy", s.nocopy ? "no" : "yes"},
      {"session columns", columns.empty() ? "-" : columns},
      {"destination", printable(s.destination)},
  };
  if (s.tracks_inherited != 0) {
    rows.push_back({"taken from before", count_word(s.tracks_inherited, "track") + " that did not change"});
  }
  if (s.fence_ns != 0) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f ms", static_cast<double>(s.fence_ns) / 1e6);
    rows.push_back({"fence", text});
  }
  if (s.verified_at.tv_sec != 0) {
    rows.push_back({"verified", moment(s.verified_at) + ", " +
                                    (s.damaged == 0 ? "no damage" : std::to_string(s.damaged) +
                                                                        " findings of damage")});
  }
  if (s.precopy_at.tv_sec != 0) rows.push_back({"precopy at", format_moment(s.precopy_at.tv_sec)});
  if (s.activate_at.tv_sec != 0)
    rows.push_back({"activation at", format_moment(s.activate_at.tv_sec)});
  if (!s.missed.empty()) rows.push_back({"missed", printable(s.missed)});
  if (s.ttl_s != 0) {
    rows.push_back({"expires", s.expires_at.tv_sec != 0
                                   ? format_moment(s.expires_at.tv_sec)
                                   : format_duration(s.ttl_s) + " after its activation"});
  }
  for (const CloneHold& hold : s.holds)
    rows.push_back({"held by", printable(hold.tag) + ", since " + moment(hold.since)});
  if (!s.error.empty()) rows.push_back({"error", printable(s.error)});
  return table(rows);
}

std::string status_json(const VolumeInfo& info, const std::vector<SessionStatus>& sessions,
                        bool all) {
  Json json = new_answer();
  json["version"] = CLONEFS_VERSION;
  put_name(&json, "volume", info.volume);
  put_name(&json, "source", info.source);
  put_name(&json, "pool", info.pool);
  json["pid"] = info.pid;
  json["durability"] = info.durability;
  const PoolStatus& pool = info.pool_status;
  json["journal_records"] = info.journal.records;
  json["journal_commits"] = info.journal.commits;
  json["journal_bytes"] = info.journal.bytes;
  json["pool_free_bytes"] = pool.known ? Json(pool.free_bytes) : Json(nullptr);
  json["pool_needed_bytes"] = pool.known ? Json(pool.needed_bytes) : Json(nullptr);
  json["pool_full_in_s"] = pool.full_in_s < 0 ? Json(nullptr) : Json(pool.full_in_s);
  json["no_clones"] = info.no_clones;
  json["requests"] = info.over_io_uring ? "io_uring" : "dev_fuse";
  json["cofw_latency"] = to_json(info.counts.cofw);
  json["fence"] = to_json(info.counts.fence);
  json["fence_wait"] = to_json(info.counts.fence_wait);
  json["fence_longest_wait_ns"] = info.counts.longest_fence_wait_ns;
  json["sessions"] = Json::array();
  for (const SessionStatus& session : sessions) {
    if (shown(session, all)) json["sessions"].push_back(to_json(session));
  }
  return dump_json(json);
}

std::string log_level_json(const std::string& level) {
  Json json = new_answer();
  json["log_level"] = level;
  return dump_json(json);
}

std::string session_json(const SessionStatus& session) {
  return dump_json(to_json(session));
}

std::string event_text(const EngineEvent& event) {
  std::string line = event.text;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return format_time(event.at) + " " + line + "\n";
}

std::string event_json(const EngineEvent& event) {
  Json json = new_answer();
  json["number"] = event.number;
  json["time"] = time_json(event.at);
  json["event"] = to_string(event.kind);
  json["name"] = event.name.empty() ? Json() : Json(event.name);
  json["state"] = state_after(event.kind);
  json["message"] = event.text;
  return dump_json_line(json);
}

namespace {

Json verify_summary(const VerifyReport& r) {
  Json json;
  json["name"] = r.name;
  json["verified_at"] = time_json(r.at);
  json["objects"] = r.objects;
  json["files"] = r.files;
  json["altered"] = r.altered;
  json["tracks"] = r.tracks;
  json["bytes"] = r.bytes;
  json["source_tracks"] = r.source_tracks;
  json["damaged"] = r.damaged;
  return json;
}

Json verify_finding(const VerifyReport::Finding& f) {
  Json json;
  put_name(&json, "path", f.path);
  json.update({{"offset", f.range.offset}, {"length", f.range.length}, {"what", f.what}});
  return json;
}

}  // namespace

std::string verify_text(const VerifyReport& r) {
  std::string text;
  for (const auto& f : r.findings) {
    text += printable(quote_word(f.path)) + ": ";
    if (f.range.length != 0) {
      text += "bytes " + std::to_string(f.range.offset) + " to " +
              std::to_string(f.range.end() - 1) + ": ";
    }
    text += printable(f.what) + "\n";
  }
  if (r.damaged > r.findings.size()) {
    text += "... and " + std::to_string(r.damaged - r.findings.size()) + " more\n";
  }
  const std::string files = std::to_string(r.files) + (r.files == 1 ? " file" : " files");
  text += r.name + ": " + files + ", " + format_size(r.bytes) + " compared";
  if (r.source_tracks != 0) {
    text += ", " + std::to_string(r.source_tracks) + " tracks not copied yet (read on the source)";
  }
  if (r.altered != 0) text += ", " + std::to_string(r.altered) + " changed by users (not checked)";
  text += r.damaged == 0 ? ": no damage" : ": DAMAGED, " + std::to_string(r.damaged) +
                                               (r.damaged == 1 ? " finding" : " findings");
  return text + "\n";
}

std::string verify_json(const VerifyReport& report) {
  Json json = new_answer();
  json.update(verify_summary(report));
  json["findings"] = Json::array();
  for (const auto& f : report.findings) json["findings"].push_back(verify_finding(f));
  return dump_json(json);
}

std::string verify_lines(const VerifyReport& report) {
  std::string text = dump_json_line(verify_summary(report));
  for (const auto& f : report.findings) text += dump_json_line(verify_finding(f));
  return text;
}

std::string extents_text(const std::string& session, const std::vector<MemberExtents>& members) {
  std::string text;
  for (const MemberExtents& member : members) {
    text += session + ": " + printable(member.path) + ", " + std::to_string(member.size) +
            " bytes, tracks of " + format_size(member.track_size) + "\n";
    std::vector<std::vector<std::string>> rows{{"  FIRST", "COUNT", "PB/PRECOPY/IND"}};
    for (const auto& run : member.runs) {
      rows.push_back(
          {"  " + std::to_string(run.extent.first), std::to_string(run.extent.count), run.bits});
    }
    if (rows.size() > 1) text += table(rows);
  }
  return text.empty() ? session + ": no files\n" : text;
}

std::string extents_json(const std::vector<SessionExtents>& sessions) {
  Json json = new_answer();
  json["sessions"] = Json::array();
  for (const SessionExtents& session : sessions) {
    Json files = Json::array();
    for (const MemberExtents& member : session.members) {
      Json runs = Json::array();
      for (const auto& run : member.runs) {
        runs.push_back(
            {{"first", run.extent.first}, {"count", run.extent.count}, {"bits", run.bits}});
      }
      Json file;
      put_name(&file, "path", member.path);
      file["size"] = member.size;
      file["track_size"] = member.track_size;
      file["extents"] = runs;
      files.push_back(file);
    }
    json["sessions"].push_back({{"name", session.session}, {"files", files}});
  }
  return dump_json(json);
}

}  // namespace clonefs
