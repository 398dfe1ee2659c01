// A moment as text, and as the system has it. Thread safety: no state.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

namespace clonefs {

// "2026-11-27T02:00:00Z": RFC 3339, of seconds since 1970.
std::string format_moment(int64_t seconds);

inline bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace clonefs
