#include "fs/open_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

namespace clonefs {
namespace {

struct CloseDir {
  void operator()(DIR* dir) const { closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

std::string link_target(const std::string& path) {
  std::string target(4096, '\0');
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  target.resize(static_cast<size_t>(std::max<ssize_t>(length, 0)));
  return target;
}

bool inside(const std::string& file, const std::string& path) {
  if (path == "/") return !file.empty() && file[0] == '/';
  return file.compare(0, path.size(), path) == 0 &&
         (file.size() == path.size() || file[path.size()] == '/');
}

// Of the file that LINK in /proc leads to, as the kernel knows it.
std::string device_of(const std::string& link) {
  struct statx st {};
  if (statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &st) != 0) return "";
  return std::to_string(st.stx_dev_major) + ":" + std::to_string(st.stx_dev_minor);
}

// "08:1f 123 /path" of a line of maps: hexadecimal.
std::string device_in(const std::string& line) {
  unsigned major = 0, minor = 0;
  if (std::sscanf(line.c_str(), "%*s %*s %*s %x:%x", &major, &minor) != 2) return "";
  return std::to_string(major) + ":" + std::to_string(minor);
}

// The first file beneath PATH that the process holds, and how.
std::string found_in(const std::string& proc, const std::string& path,
                     const std::set<std::string>& devices) {
  const auto counts = [&](const std::string& target, const std::string& link) {
    return inside(target, path) && (devices.empty() || devices.contains(device_of(link)));
  };
  for (const char* kind : {"cwd", "root"}) {
    const std::string target = link_target(proc + kind);
    // Every process has its root at or above the path, seldom beneath it.
    if (counts(target, proc + kind) && !(std::string(kind) == "root" && target == "/")) {
      return target + " (" + kind + ")";
    }
  }
  if (Dir fds{opendir((proc + "fd").c_str())}) {
    while (const dirent* entry = readdir(fds.get())) {
      if (entry->d_name[0] == '.') continue;
      const std::string link = proc + "fd/" + entry->d_name;
      const std::string target = link_target(link);
      if (counts(target, link)) return target + " (open)";
    }
  }
  std::ifstream maps(proc + "maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t at = line.find('/');
    if (at != std::string::npos && inside(line.substr(at), path) &&
        (devices.empty() || devices.contains(device_in(line)))) {
      return line.substr(at) + " (mapped)";
    }
  }
  return "";
}

}  // namespace

std::vector<ProcessInside> processes_inside(const std::string& path,
                                            const std::set<std::string>& devices) {
  std::vector<ProcessInside> result;
  Dir proc{opendir("/proc")};
  if (!proc) return result;
  while (const dirent* entry = readdir(proc.get())) {
    const pid_t pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid <= 0 || pid == getpid()) continue;
    const std::string dir = "/proc/" + std::to_string(pid) + "/";
    const std::string what = found_in(dir, path, devices);
    if (what.empty()) continue;
    std::string name;
    std::getline(std::ifstream(dir + "comm") >> std::ws, name);
    result.push_back({pid, name, what});
  }
  std::sort(result.begin(), result.end(),
            [](const ProcessInside& a, const ProcessInside& b) { return a.pid < b.pid; });
  return result;
}

}  // namespace clonefs
