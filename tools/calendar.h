// Calendar expressions, as systemd.time(7) has them: systemd-analyze works them out.
// Errors: EINVAL with its words; ENOENT: there is none on this machine. Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "extents/result.h"

namespace clonefs {

struct Calendar {
  std::string normalized;      // "Mon *-*-* 02:00:00"
  std::vector<int64_t> next;   // the next moments after the base, as many as there are, seconds since 1970
};
Result<Calendar> look_up_calendar(const std::string& expression, int64_t after, unsigned count);

// The normalized expression, but earlier by BY_S, less than a day. EINVAL where that is no such expression: it has
// more than days of the week and one time of the day.
Result<std::string> earlier(const std::string& normalized, uint64_t by_s);

}  // namespace clonefs
