// The status of sessions as text and as JSON, for the control files and the command line.
// Its JSON is written by fs/json_text.h. Keys are only ever added within a schema. Thread safety: no state.
#pragma once

#include <sys/types.h>

#include <ctime>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace clonefs {

// Of whom a status speaks.
struct VolumeInfo {
  std::string volume;  // the mountpoint
  std::string source;
  std::string pool;
  pid_t pid = 0;
  std::string durability{};  // "power", "relaxed"
  PoolStatus pool_status{};
  Engine::JournalStatistics journal{};
  bool no_clones = false;
  bool over_io_uring = false;  // the requests of the live mount; else through /dev/fuse
  EngineCounts counts{};
};

// Names and texts of any bytes on one line of a terminal.
std::string printable(const std::string& text);
// The same of text that may have several lines.
std::string printable_lines(const std::string& text);

// A table with one line a session; terminated ones are left out unless ALL.
std::string status_table(const std::vector<SessionStatus>& sessions, bool all);
// A line about the pool's room; "" when nothing is known.
std::string pool_line(const PoolStatus& pool);
// Everything of one session, line by line.
std::string status_details(const SessionStatus& session);
// {"schema":1,"volume":...,"sessions":[...]}
std::string status_json(const VolumeInfo& info, const std::vector<SessionStatus>& sessions,
                        bool all);
// {"count":N,"sum_ns":N,"max_ns":N,"last_ns":N,"buckets":[{"le_ns":N,"count":N},...]}: only buckets that
// have something; in the last le_ns may be null: longer than all others.
std::string log_level_json(const std::string& level);
// One session's object alone.
std::string session_json(const SessionStatus& session);

// A line of `.clonefs/events`, and of `.clonefs/events.json`.
std::string event_text(const EngineEvent& event);
std::string event_json(const EngineEvent& event);

// What verify found: for people; as JSON; as JSON lines, the first one the summary.
std::string verify_text(const VerifyReport& report);
std::string verify_json(const VerifyReport& report);
std::string verify_lines(const VerifyReport& report);

std::string extents_text(const std::string& session, const std::vector<MemberExtents>& members);
// {"schema":1,"session":NAME,"files":[...]} of each session.
struct SessionExtents {
  std::string session;
  std::vector<MemberExtents> members;
};
std::string extents_json(const std::vector<SessionExtents>& sessions);

}  // namespace clonefs
