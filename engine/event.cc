#include "engine/event.h"

namespace clonefs {

const char* to_string(EventKind kind) {
  switch (kind) {
    case EventKind::kNote: return "note";
    case EventKind::kCreating: return "creating";
    case EventKind::kCreated: return "created";
    case EventKind::kRecreated: return "recreated";
    case EventKind::kRefused: return "refused";
    case EventKind::kPrecopy: return "precopy";
    case EventKind::kActivated: return "activated";
    case EventKind::kCopied: return "copied";
    case EventKind::kPaused: return "paused";
    case EventKind::kResumed: return "resumed";
    case EventKind::kFailed: return "failed";
    case EventKind::kTerminated: return "terminated";
    case EventKind::kDeleted: return "deleted";
    case EventKind::kHeld: return "held";
    case EventKind::kReleased: return "released";
    case EventKind::kExpired: return "expired";
    case EventKind::kMissed: return "missed";
    case EventKind::kVerified: return "verified";
    case EventKind::kDamaged: return "damaged";
    case EventKind::kWriteRefused: return "write_refused";
    case EventKind::kPoolFilling: return "pool_filling";
    case EventKind::kRecovered: return "recovered";
    case EventKind::kTrouble: return "trouble";
  }
  return "?";
}

Severity severity_of(EventKind kind) {
  switch (kind) {
    case EventKind::kFailed:
    case EventKind::kDamaged:
      return Severity::kError;
    case EventKind::kRefused:
    case EventKind::kPaused:
    case EventKind::kMissed:
    case EventKind::kWriteRefused:
    case EventKind::kPoolFilling:
    case EventKind::kTrouble:
      return Severity::kWarning;
    default:
      return Severity::kInfo;
  }
}

}  // namespace clonefs
