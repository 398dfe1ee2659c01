// The daemon's log: where it goes and how much of it. Thread safety: any thread, but start_log(), which
// comes before others log.
#pragma once

#include <string>

#include "extents/result.h"

namespace clonefs {

// "pool": clonefs.log in the pool; "journal", "syslog", "stderr", or a file's absolute path.
struct LogTarget {
  std::string where;
  std::string volume;  // the mountpoint: told to the journal
  int pool = -1;       // its descriptor; -1: none
};

// EINVAL: not one of these. Makes a path absolute.
Status check_log_target(std::string* where);
// Errors: it cannot be opened; then the log is as it was.
Status start_log(const LogTarget& target);

// Its last lines, wherever it goes: `.clonefs/log`. Waits for no file.
std::string recent_log();

// trace: each request of the kernel; debug: commands that only look, flushes; info: commands, events;
// warn, error (check_log_level() of fs/words.h). EINVAL: another word.
Status set_log_level(const std::string& level);
std::string log_level();
// Whether trace is on.
bool traces_requests();
void trace_request(unsigned opcode, unsigned long node, size_t size);

}  // namespace clonefs
