// Plan: a file that says which clones are made together, and when (docs/PLANS.md); and its timetable.
// Errors: EINVAL "FILE:LINE: what is wrong, and what to write". Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "extents/result.h"

namespace clonefs {

struct PlanHooks {
  std::string before, after, finally;  // command lines for sh; empty: none
};

struct PlannedClone {
  std::string name;
  std::vector<std::string> paths;
  bool precopy = true;
  uint64_t ttl_s = 0;  // 0: for ever
  unsigned keep = 0;
  std::string pace;  // empty: the default
  PlanHooks hooks;
  unsigned line = 0;
};

struct Plan {
  std::string file;
  std::string mount;        // empty: found as ever
  std::string activate_at;  // as it is written; or
  std::string calendar;     // a calendar expression of systemd; or neither: as soon as all is precopied
  unsigned time_line = 0;   // of what says when
  uint64_t window_s = 0;    // precopy begins so long before the activation
  unsigned at_once = 0;     // so many are precopied in one set; 0: all
  uint64_t hook_timeout_s = 600;
  PlanHooks hooks;
  std::vector<PlannedClone> clones;
};

Result<Plan> read_plan(const std::string& file);

// Moments are seconds since 1970.
struct PlannedStep {
  enum Kind { kPrecopy, kBefore, kActivate, kFinally, kAfter, kExpires } kind;
  int64_t at;
  std::vector<std::string> clones;  // of a plan's own hook: none
  std::string command;              // of hooks
};
const char* to_string(PlannedStep::Kind kind);

struct Timetable {
  int64_t activation = 0;
  bool waits = true;  // false: without a time, the activation comes when all is precopied
  std::vector<PlannedStep> steps;
};
// The timetable of a run that begins at NOW. An activation of the calendar up to LATE_S ago is taken as
// this one's. EINVAL: the time is past, windows overlap.
Result<Timetable> timetable_of(const Plan& plan, int64_t now, int64_t late_s = 0);
std::string timetable_text(const Plan& plan, const Timetable& timetable, int64_t now);
std::string timetable_json(const Plan& plan, const Timetable& timetable);

// The units that run the plan by its calendar: name of the file and its text.
struct Unit {
  std::string name, text;
};
Result<std::vector<Unit>> units_of(const Plan& plan, const std::string& program);

}  // namespace clonefs
