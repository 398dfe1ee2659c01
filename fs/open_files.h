// Which processes use a directory: open files, mappings, working and root directories beneath it.
// Sees other users' processes only as root. Thread safety: no state.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

namespace clonefs {

struct ProcessInside {
  pid_t pid = 0;
  std::string name;  // /proc/PID/comm
  std::string what;  // the first file found, absolute, and how it is held ("open", "mapped", "cwd")
};

// Processes other than the caller with something open at or beneath PATH (absolute, no symlinks),
// each once, by pid. DEVICES ("0:52"): only of these file systems; of others there may be files beneath a
// mount that have the same paths. Asks no file system.
std::vector<ProcessInside> processes_inside(const std::string& path,
                                            const std::set<std::string>& devices = {});

}  // namespace clonefs
