#include "fs/command_paths.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "engine/disk.h"
#include "fs/volume.h"
#include "fs/words.h"

namespace clonefs {

namespace {

std::string path_of(int fd) {
  char text[PATH_MAX];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), text, sizeof text);
  return n < 0 || n == static_cast<ssize_t>(sizeof text) ? "" : std::string(text, n);
}

bool has_dot_dot(const std::string& path) {
  return path == ".." || path.starts_with("../") || path.ends_with("/..") ||
         path.find("/../") != std::string::npos;
}

Error leads_out(const std::string& path) {
  return {EXDEV, quote_word(path) + " leads out of the volume. Select files and directories " +
                     "that lie in it."};
}

bool is_control_path(const std::string& relative) {
  return relative == kControlName || relative.starts_with(std::string(kControlName) + "/");
}

Error belongs_to_clonefs(const std::string& path) {
  return {EINVAL, quote_word(path) +
                      " cannot be selected: clones are not cloned. Select files of " +
                      "the volume itself."};
}

}  // namespace

int open_beneath(int dir, const char* path, uint64_t resolve) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, dir, path, &how, sizeof how);
  return fd < 0 ? -errno : static_cast<int>(fd);
}

std::string clean_path(const std::string& path) {
  std::string clean;
  for (size_t begin = 0; begin < path.size();) {
    size_t end = path.find('/', begin);
    if (end == std::string::npos) end = path.size();
    const std::string part = path.substr(begin, end - begin);
    if (!part.empty() && part != ".") clean += (clean.empty() ? "" : "/") + part;
    begin = end + 1;
  }
  return clean;
}

bool path_beneath(const std::string& base, const std::string& path, std::string* relative) {
  if (base == path) {
    *relative = ".";
    return true;
  }
  const std::string prefix = base == "/" ? base : base + "/";
  if (!path.starts_with(prefix)) return false;
  *relative = path.substr(prefix.size());
  return true;
}

Error empty_path() { return {EINVAL, "an empty path was given. '.' is the whole volume."}; }

Result<std::string> volume_path(int source, const std::string& mountpoint,
                                const std::string& path) {
  if (path.empty()) return empty_path();
  std::string relative = clean_path(path);
  if (path[0] == '/') {
    if (has_dot_dot(path) || !path_beneath(mountpoint, "/" + relative, &relative)) {
      return leads_out(path);
    }
  }
  if (relative.empty()) relative = ".";
  if (relative.size() >= PATH_MAX) {
    return Error{ENAMETOOLONG, "a path of " + std::to_string(relative.size()) +
                                   " bytes is too long. Select a directory above it."};
  }

  if (is_control_path(relative))
    return belongs_to_clonefs(path);  // whatever lies beneath the mount
  const bool plain = !has_dot_dot(relative);
  Fd fd(posix_disk(), open_beneath(source, relative.c_str(), plain ? RESOLVE_NO_SYMLINKS : 0));
  if (fd.get() == -ELOOP || !plain) {
    // With links on the way: the kernel knows where it came out.
    if (plain) fd = Fd(posix_disk(), open_beneath(source, relative.c_str(), 0));
    if (fd && !path_beneath(path_of(source), path_of(fd.get()), &relative)) return leads_out(path);
  }
  if (fd.get() == -EXDEV) return leads_out(path);
  if (!fd) {
    return Error{-fd.get(), quote_word(path) + " cannot be selected: " + std::strerror(-fd.get()) +
                                ". Paths are relative to the volume."};
  }
  if (is_control_path(relative)) return belongs_to_clonefs(path);
  return relative;
}

}  // namespace clonefs
