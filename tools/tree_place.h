// Objects of a tree by their way from its root, which follows no symbolic link and leaves neither the
// tree nor its file system, whatever is moved or swapped meanwhile. Paths may be longer than PATH_MAX.
// Errors: -errno. Thread safety: no state.
#pragma once

#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include "fs/unique_fd.h"

namespace clonefs {

// Where an object is, or would be: LEAF in DIRECTORY ("." for the tree's root itself).
struct TreePlace {
  UniqueFd directory;  // O_PATH; invalid: errno is in ERROR
  std::string leaf;
  int error = 0;

  explicit operator bool() const { return static_cast<bool>(directory); }
  // For calls that take no directory: not followed by those with an l.
  std::string proc_path() const {
    return "/proc/self/fd/" + std::to_string(directory.get()) + "/" + leaf;
  }
};

// A descriptor of PATH ("." is ROOT itself), or -errno.
int open_in_tree(int root, const std::string& path, int flags);
TreePlace place_in_tree(int root, const std::string& path);
// "" for what lies in the root.
std::string parent_path(const std::string& path);
std::string join_path(const std::string& directory, const std::string& name);

// LEAF of DIRECTORY for reading, without moving its atime where that is permitted; -errno.
int open_quietly(int directory, const std::string& leaf, int flags);

using Xattrs = std::map<std::string, std::string>;
// Those that the caller may see; none where the file system has none. 0 or -errno.
int read_xattrs(const TreePlace& place, Xattrs* xattrs);
int read_link(const TreePlace& place, std::string* target);

}  // namespace clonefs
