// A moment as text. Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>

namespace clonefs {

// "2026-11-27T02:00:00Z": RFC 3339, of seconds since 1970.
std::string format_moment(int64_t seconds);

}  // namespace clonefs
