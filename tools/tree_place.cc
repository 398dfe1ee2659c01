#include "tools/tree_place.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/xattr.h>

#include <cerrno>
#include <climits>

#include "fs/command_paths.h"

namespace clonefs {

namespace {

constexpr uint64_t kResolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;

}  // namespace

std::string parent_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string join_path(const std::string& directory, const std::string& name) {
  return directory.empty() || directory == "." ? name : directory + "/" + name;
}

int open_quietly(int directory, const std::string& leaf, int flags) {
  flags |= O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  int fd = ::openat(directory, leaf.c_str(), flags | O_NOATIME);
  if (fd < 0 && errno == EPERM) fd = ::openat(directory, leaf.c_str(), flags);
  return fd < 0 ? -errno : fd;
}

TreePlace place_in_tree(int root, const std::string& path) {
  TreePlace place;
  std::string left = path == "." ? "" : path;
  UniqueFd at(::openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!at) place.error = errno;
  for (size_t slash = left.rfind('/'); at && slash != std::string::npos; slash = left.rfind('/')) {
    size_t end = slash;
    if (end >= PATH_MAX) end = left.rfind('/', PATH_MAX - 1);
    const int next = open_beneath(at.get(), left.substr(0, end).c_str(), kResolve);
    if (next < 0) place.error = -next;
    at.reset(next < 0 ? -1 : next);
    left.erase(0, end + 1);
  }
  place.directory = std::move(at);
  place.leaf = left.empty() ? "." : left;
  return place;
}

int open_in_tree(int root, const std::string& path, int flags) {
  const TreePlace place = place_in_tree(root, path);
  if (!place) return -place.error;
  if ((flags & O_PATH) != 0) {
    const int fd = ::openat(place.directory.get(), place.leaf.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
  }
  return open_quietly(place.directory.get(), place.leaf, flags);
}

int read_xattrs(const TreePlace& place, Xattrs* xattrs) {
  const std::string path = place.proc_path();
  // What is set meanwhile may be larger than it was.
  for (int attempt = 0; attempt < 8; attempt++) {
    xattrs->clear();
    ssize_t n = ::llistxattr(path.c_str(), nullptr, 0);
    if (n < 0) return errno == EOPNOTSUPP ? 0 : -errno;
    std::string names(static_cast<size_t>(n), '\0');
    if (n > 0 && (n = ::llistxattr(path.c_str(), names.data(), names.size())) < 0) {
      if (errno == ERANGE) continue;
      return -errno;
    }
    names.resize(static_cast<size_t>(n));
    bool whole = true;
    for (size_t begin = 0; begin < names.size() && whole;) {
      const std::string name = names.substr(begin, names.find('\0', begin) - begin);
      begin += name.size() + 1;
      const ssize_t size = ::lgetxattr(path.c_str(), name.c_str(), nullptr, 0);
      if (size < 0 && (errno == ENODATA || errno == EPERM)) continue;
      std::string value(size < 0 ? 0 : static_cast<size_t>(size), '\0');
      const ssize_t got =
          size <= 0 ? size : ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
      if (got < 0 && errno == ERANGE) whole = false;
      else if (got < 0) return -errno;
      else {
        value.resize(static_cast<size_t>(got));
        (*xattrs)[name] = value;
      }
    }
    if (whole) return 0;
  }
  return -EAGAIN;
}

int read_link(const TreePlace& place, std::string* target) {
  target->resize(PATH_MAX);
  const ssize_t n = ::readlinkat(place.directory.get(), place.leaf.c_str(), target->data(),
                                 target->size());
  if (n < 0) return -errno;
  target->resize(static_cast<size_t>(n));
  return 0;
}

}  // namespace clonefs
