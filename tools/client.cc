#include "tools/client.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fs/command_paths.h"
#include "fs/mount_table.h"
#include "fs/unique_fd.h"
#include "fs/words.h"

namespace clonefs {

namespace {

Error gone(const std::string& mountpoint) {
  return {ENOTCONN, "the daemon of the volume at " + mountpoint +
                        " has ended. Mount it again (that clears the dead mount): clonefs mount " +
                        mountpoint};
}

std::string read_all(int fd) {
  std::string text;
  char part[65536];
  for (ssize_t n; (n = ::read(fd, part, sizeof part)) > 0 || (n < 0 && errno == EINTR);) {
    if (n > 0) text.append(part, static_cast<size_t>(n));
  }
  return text;
}

// The volume that RESOLVED lies in; null if none.
const MountEntry* volume_of(const std::vector<MountEntry>& table, const Result<std::string>& resolved) {
  if (!resolved) return nullptr;
  const MountEntry* entry = mount_of(table, *resolved);
  if (entry == nullptr) return nullptr;
  if (entry->is_volume()) return entry;
  if (!entry->is_clones()) return nullptr;
  // In the clones of a volume: both mounts have the same source.
  for (const MountEntry& other : table) {
    if (other.is_volume() && other.source == entry->source) return &other;
  }
  return nullptr;
}

// PATH from the working directory, its last name not followed. Of what is gone (restore brings it back) the
// rest as it is written.
Result<std::string> path_from_here(const std::string& path) {
  auto resolved = absolute_path(path, true);
  std::string head = path, rest;
  while (!resolved && resolved.error().code == ENOENT) {
    while (head.size() > 1 && head.back() == '/') head.pop_back();
    const size_t slash = head.rfind('/');
    const std::string last = head.substr(slash == std::string::npos ? 0 : slash + 1);
    if (slash == std::string::npos || slash == 0 || last == "..") break;
    if (last != ".") rest = "/" + last + rest;
    head.resize(slash);
    const auto above = absolute_path(head, true);
    if (above) return *above + rest;
  }
  return resolved;
}

}  // namespace

Error not_the_owner(const std::string& mountpoint, int code) {
  return {code, "only the owner of the volume " + mountpoint +
                    " may command it. Run the command as its owner or as root."};
}

Result<Client> Client::find(const std::string& mount, const std::vector<std::string>& paths) {
  const auto table = read_mount_table();
  if (!table) return table.error();
  const MountEntry* found = nullptr;

  std::string named = mount;
  if (const char* value = std::getenv("CLONEFS_MOUNT"); named.empty() && value != nullptr) {
    named = value;
  }
  if (!named.empty()) {
    const auto resolved = absolute_path(named, true);
    const std::string at = resolved ? *resolved : named;
    for (const MountEntry& entry : *table) {
      if (entry.is_volume() && entry.mountpoint == at) found = &entry;
    }
    if (found == nullptr) found = volume_of(*table, absolute_path(named, false));
    if (found == nullptr) {
      return Error{ENOENT,
                   "no volume is mounted at " + named + ". Mount it: clonefs mount " + named};
    }
  }
  for (size_t i = 0; i < paths.size() && found == nullptr; i++) {
    found = volume_of(*table, path_from_here(paths[i]));
  }
  if (found == nullptr) found = volume_of(*table, absolute_path(".", false));
  if (found == nullptr) {
    for (const MountEntry& entry : *table) {
      if (!entry.is_volume()) continue;
      if (found != nullptr && found->mountpoint != entry.mountpoint) {
        return Error{EINVAL, "several volumes are mounted (" + found->mountpoint + ", " +
                                 entry.mountpoint + "). Say which: --mount DIR"};
      }
      found = &entry;
    }
  }
  if (found == nullptr) {
    return Error{ENOENT, "no volume is mounted. Mount a directory: clonefs mount DIR"};
  }
  if (is_dead_mount(found->mountpoint)) return gone(found->mountpoint);
  return Client(found->mountpoint);
}

Result<std::string> Client::volume_path(const std::string& path) const {
  if (path.empty()) return empty_path();
  std::string relative;
  const auto cwd = absolute_path(".", false);
  const bool from_here = path[0] == '/' || (cwd && path_beneath(mountpoint_, *cwd, &relative));
  const auto resolved = path_from_here(path);
  if (from_here && !resolved) return resolved.error();
  if (resolved && path_beneath(mountpoint_, *resolved, &relative)) {
    const auto other = from_here ? resolved : absolute_path(mountpoint_ + "/" + path, true);
    struct stat st {};
    if (other && *other != *resolved && ::lstat(other->c_str(), &st) == 0) {
      return Error{EINVAL, quote_word(path) + " is " + quote_word(*resolved) + " from here, but the volume has " +
                               quote_word(*other) + " too. Write the one that you mean as an absolute path."};
    }
    return relative;
  }
  if (!from_here) return path;  // relative to the volume
  return Error{EXDEV, quote_word(path) + " does not lie in the volume " + mountpoint_ +
                          ". Select files and directories in it."};
}

Result<std::string> Client::send(const Command& command) const {
  return send_line(format_command(command), to_string(command.verb));
}

Result<std::string> Client::send_line(const std::string& line, const std::string& verb) const {
  const std::string path = mountpoint_ + "/.clonefs/ctl";
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd && (errno == EACCES || errno == EPERM)) {
    return not_the_owner(mountpoint_, errno);
  }
  if (!fd && errno == ENOTCONN) return gone(mountpoint_);
  if (!fd) return Error::from_errno(errno, path);
  const ssize_t n = ::write(fd.get(), line.data(), line.size());
  const int code = n < 0 ? errno : 0;
  std::string reply = read_all(fd.get());
  if (code == 0) return reply;
  while (!reply.empty() && reply.back() == '\n') reply.pop_back();
  if (code == ENOTCONN || code == ECONNABORTED) return gone(mountpoint_);
  if (reply.empty()) return Error::from_errno(code, verb);
  return Error{code, reply};
}

Result<std::string> Client::read_file(const std::string& name) const {
  const std::string path = mountpoint_ + "/.clonefs/" + name;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::from_errno(errno, path);
  return read_all(fd.get());
}

}  // namespace clonefs
