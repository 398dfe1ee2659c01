#include "fs/mount_table.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "fs/command_paths.h"

extern char** environ;

namespace clonefs {

namespace {

// The kernel writes blanks and backslashes as \ooo.
std::string unescape(const std::string& text) {
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) &&
        octal(text[i + 3])) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::vector<MountEntry> parse_mount_table(const std::string& text) {
  std::vector<MountEntry> table;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    // id parent major:minor root mountpoint options [tags...] - type source options
    std::istringstream words(line);
    std::string id, parent, device, root, mountpoint, options, word, type, source, group, master;
    words >> id >> parent >> device >> root >> mountpoint >> options;
    while (words >> word && word != "-") {
      if (word.starts_with("shared:")) group = word.substr(7);
      if (word.starts_with("master:")) master = word.substr(7);
    }
    if (words >> type >> source) {
      table.push_back(
          {unescape(mountpoint), type, unescape(source), device, unescape(root), group, master});
    }
  }
  return table;
}

Result<std::vector<MountEntry>> read_mount_table() {
  std::ifstream file("/proc/self/mountinfo");
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return Error{ENOENT, "/proc/self/mountinfo cannot be read. Is /proc mounted?"};
  return parse_mount_table(text.str());
}

std::vector<int> kept_elsewhere(const MountEntry& entry) {
  const auto namespace_of = [](const std::string& process) {
    char name[64];
    const ssize_t length = ::readlink(("/proc/" + process + "/ns/mnt").c_str(), name, sizeof name);
    return std::string(name, static_cast<size_t>(std::max<ssize_t>(length, 0)));
  };
  std::set<std::string> seen = {"", namespace_of("self")};
  std::vector<int> processes;
  std::error_code error;
  for (const auto& process : std::filesystem::directory_iterator("/proc", error)) {
    const std::string pid = process.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!seen.insert(namespace_of(pid)).second) continue;
    std::ifstream file("/proc/" + pid + "/mountinfo");
    std::stringstream text;
    text << file.rdbuf();
    for (const MountEntry& there : parse_mount_table(text.str())) {
      const bool goes_too = !entry.group.empty() && (there.group == entry.group || there.master == entry.group);
      if (there.device != entry.device || goes_too) continue;
      processes.push_back(std::stoi(pid));
      break;
    }
  }
  return processes;
}

const MountEntry* mount_of(const std::vector<MountEntry>& table, const std::string& path) {
  const MountEntry* found = nullptr;
  std::string relative;
  for (const MountEntry& entry : table) {
    // A later one of the same length lies on top.
    if (path_beneath(entry.mountpoint, path, &relative) &&
        (found == nullptr || entry.mountpoint.size() >= found->mountpoint.size())) {
      found = &entry;
    }
  }
  return found;
}

const MountEntry& first_mount_of(const std::vector<MountEntry>& table, const MountEntry& entry) {
  for (const MountEntry& other : table) {
    if (other.device == entry.device && other.root == "/") return other;
  }
  return entry;
}

bool is_dead_mount(const std::string& mountpoint) {
  // Attributes may be cached for long; this is always asked for.
  struct statfs st {};
  return ::statfs(mountpoint.c_str(), &st) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

Result<std::string> absolute_path(const std::string& path, bool keep_last) {
  std::string head = path;
  while (head.size() > 1 && head.back() == '/') head.pop_back();
  std::string last;
  const size_t slash = head.rfind('/');
  const std::string name = head.substr(slash == std::string::npos ? 0 : slash + 1);
  if (keep_last && !name.empty() && name != "." && name != "..") {
    last = name;
    head = slash == std::string::npos ? "." : slash == 0 ? "/" : head.substr(0, slash);
  }
  char resolved[PATH_MAX];
  if (::realpath(head.c_str(), resolved) == nullptr) return Error::from_errno(errno, path);
  std::string result = resolved;
  if (!last.empty()) result += (result == "/" ? "" : "/") + last;
  return result;
}

Status unmount_path(const std::string& mountpoint, bool lazy) {
  if (::geteuid() == 0) {
    if (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) return {};
    return Error::from_errno(errno, "cannot unmount " + mountpoint);
  }
  std::string path = mountpoint;
  char program[] = "fusermount3", unmount[] = "-u", quiet[] = "-q", later[] = "-z", end[] = "--";
  char* const argv[] = {program, unmount, quiet, lazy ? later : quiet, end, path.data(), nullptr};
  pid_t pid = 0;
  if (const int e = ::posix_spawnp(&pid, program, nullptr, nullptr, argv, environ); e != 0) {
    return Error::from_errno(e, "cannot run fusermount3 (package fuse3)");
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return Error{EBUSY, "cannot unmount " + mountpoint};
}

}  // namespace clonefs
