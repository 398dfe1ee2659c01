// EngineEvent: one thing that happened, for people (text) and for programs (kind, name). Thread safety:
// no state.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

namespace clonefs {

// Their words (to_string) stay as they are; new ones may come.
enum class EventKind {
  kNote,          // anything else
  kCreating,      // a long CREATE goes on
  kCreated,
  kRecreated,     // the next generation of a clone
  kRefused,       // a command
  kPrecopy,
  kActivated,
  kCopied,
  kPaused,        // the copy program, by errors
  kResumed,
  kFailed,
  kTerminated,
  kDeleted,
  kHeld,
  kReleased,
  kExpired,
  kMissed,        // what was to be done at a time and could not
  kVerified,
  kDamaged,       // by verify
  kWriteRefused,  // to the source: its copy could not be made
  kPoolFilling,
  kRecovered,     // from the journal
  kTrouble,       // an error that is tried again, or that something is missing
};
const char* to_string(EventKind kind);

// How much it should concern an administrator.
enum class Severity { kInfo, kWarning, kError };
Severity severity_of(EventKind kind);

struct EngineEvent {
  uint64_t number = 0;  // 1, 2, ...
  timespec at{};
  EventKind kind = EventKind::kNote;
  std::string name;  // of the session; "": of none
  std::string text;  // one line: "activated db1"
};

}  // namespace clonefs
