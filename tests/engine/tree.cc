#include "tests/engine/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <stdexcept>

namespace clonefs::test {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

std::string proc_path(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

// O_NOATIME is for the owner only; without it the time of access may move, which is not compared.
int open_quietly(int dir, const std::string& path, int flags) {
  const int fd = openat(dir, path.c_str(), flags | O_NOATIME | O_CLOEXEC | O_NOFOLLOW);
  if (fd >= 0 || errno != EPERM) return fd;
  return openat(dir, path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW);
}

std::vector<std::string> names_in(int root, const std::string& path) {
  const int fd = open_quietly(root, path, O_RDONLY | O_DIRECTORY);
  if (fd < 0) fail("open " + path);
  DIR* dir = fdopendir(fd);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || (path == "." && name == ".clonefs")) continue;
    names.push_back(name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

std::map<std::string, std::string> xattrs_of(int root, const std::string& path) {
  std::map<std::string, std::string> xattrs;
  const int dir = openat(root, path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (dir < 0) fail("open " + path);
  struct stat st {};
  fstat(dir, &st);
  char names[4096];
  // The link in /proc leads to the object itself, but a symbolic link can't be reached so.
  const ssize_t size =
      S_ISLNK(st.st_mode) ? 0 : listxattr(proc_path(dir).c_str(), names, sizeof names);
  for (const char* name = names; size > 0 && name < names + size; name += std::strlen(name) + 1) {
    char value[4096];
    const ssize_t n = getxattr(proc_path(dir).c_str(), name, value, sizeof value);
    if (n >= 0) xattrs[name] = std::string(value, static_cast<size_t>(n));
  }
  close(dir);
  return xattrs;
}

std::string link_target(int root, const std::string& path) {
  char target[4096];
  const ssize_t n = readlinkat(root, path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

void capture_one(int root, const std::string& path, Tree& tree,
                 std::map<ino_t, std::shared_ptr<TreeObject>>& seen) {
  struct stat st {};
  if (fstatat(root, path.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return;
  auto& object = seen[st.st_ino];
  if (object != nullptr) {
    tree[path] = object;
    return;
  }
  object = std::make_shared<TreeObject>();
  tree[path] = object;
  object->st = st;
  object->xattrs = xattrs_of(root, path);
  if (S_ISREG(st.st_mode)) {
    const int fd = open_quietly(root, path, O_RDONLY);
    if (fd < 0) fail("open " + path);
    object->data = read_all(fd);
    close(fd);
  } else if (S_ISLNK(st.st_mode)) {
    object->target = link_target(root, path);
  } else if (S_ISDIR(st.st_mode)) {
    for (const std::string& name : names_in(root, path)) {
      capture_one(root, join(path, name), tree, seen);
    }
  }
}

void list_beneath(int root, const std::string& directory, std::map<std::string, mode_t>& all) {
  for (const std::string& name : names_in(root, directory)) {
    const std::string path = join(directory, name);
    struct stat st {};
    if (fstatat(root, path.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    all[path] = st.st_mode & S_IFMT;
    if (S_ISDIR(st.st_mode)) list_beneath(root, path, all);
  }
}

std::string text(const timespec& t) {
  return std::to_string(t.tv_sec) + "." + std::to_string(t.tv_nsec);
}

bool same(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

// Whether PATH is a directory on the way to one of the selected paths.
bool leads_to(const std::string& path, const std::vector<std::string>& selected) {
  return std::any_of(selected.begin(), selected.end(), [&](const std::string& s) {
    return path == "." || s.compare(0, path.size() + 1, path + "/") == 0;
  });
}

class Comparison {
 public:
  Comparison(const Tree& tree, const std::vector<std::string>& selected, const TreeView& view)
      : tree_(tree), selected_(selected), view_(view) {}

  std::string run() {
    visit(".");
    for (const auto& [path, object] : tree_) {
      if (found_.count(path) == 0) report(path, "is missing");
    }
    return report_;
  }

 private:
  void report(const std::string& path, const std::string& what) {
    if (++reports_ <= 5) report_ += "  " + path + " " + what + "\n";
  }

  void visit(const std::string& path) {
    struct stat st {};
    if (fstatat(view_.root, path.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      report(path, std::string("cannot be examined: ") + std::strerror(errno));
      return;
    }
    const ino_t pool_ino = st.st_ino;
    found_.insert(path);
    if (view_.present) view_.present(&st);
    const auto expected = tree_.find(path);
    if (expected != tree_.end()) {
      compare(path, *expected->second, st, pool_ino);
    } else if (!S_ISDIR(st.st_mode) || !leads_to(path, selected_)) {
      report(path, "should not be there");
      return;
    }
    if (!S_ISDIR(st.st_mode)) return;
    for (const std::string& name : names_in(view_.root, path)) visit(join(path, name));
  }

  void compare(const std::string& path, const TreeObject& expected, const struct stat& st,
               ino_t pool_ino) {
    const struct stat& e = expected.st;
    number(path, "mode", e.st_mode, st.st_mode);
    number(path, "uid", e.st_uid, st.st_uid);
    number(path, "gid", e.st_gid, st.st_gid);
    if (!same(e.st_mtim, st.st_mtim) && !expected.own_mtime) {
      report(path, "mtime: expected " + text(e.st_mtim) + ", found " + text(st.st_mtim));
    }
    if (view_.ctime && !expected.own_ctime && !same(e.st_ctim, st.st_ctim)) {
      report(path, "ctime: expected " + text(e.st_ctim) + ", found " + text(st.st_ctim));
    }
    identity(path, expected, st.st_ino, pool_ino);
    xattrs(path, expected);
    if (S_ISREG(e.st_mode) && S_ISREG(st.st_mode)) {
      number(path, "size", expected.data.size(), static_cast<uint64_t>(st.st_size));
      content(path, expected, st);
    }
    if (S_ISLNK(e.st_mode)) {
      const std::string target = link_target(view_.root, path);
      if (target != expected.target) report(path, "leads to " + target);
    }
    if (S_ISCHR(e.st_mode) || S_ISBLK(e.st_mode)) number(path, "device", e.st_rdev, st.st_rdev);
  }

  void number(const std::string& path, const char* what, uint64_t expected, uint64_t found) {
    if (expected == found) return;
    report(path, std::string(what) + ": expected " + std::to_string(expected) + ", found " +
                     std::to_string(found));
  }

  // Names of one object share an inode number, others don't; the pool's and the one shown agree.
  void identity(const std::string& path, const TreeObject& expected, ino_t shown, ino_t pool) {
    const auto [by_object, new_object] = inos_.emplace(&expected, shown);
    if (!new_object && by_object->second != shown) report(path, "is not the hard link it was");
    const auto [by_ino, new_ino] = objects_.emplace(shown, &expected);
    if (!new_ino && by_ino->second != &expected) report(path, "has another object's inode number");
    const auto [by_pool, new_pool] = pool_inos_.emplace(pool, shown);
    if (!new_pool && by_pool->second != shown) report(path, "has two inode numbers");
  }

  void xattrs(const std::string& path, const TreeObject& expected) {
    const auto found = xattrs_of(view_.root, path);
    for (const auto& [name, value] : expected.xattrs) {
      const auto it = found.find(name);
      if (it == found.end()) {
        report(path, "has lost xattr " + name);
      } else if (it->second != value) {
        report(path, "has another value of xattr " + name);
      }
    }
    for (const auto& [name, value] : found) {
      if (expected.xattrs.count(name) == 0) report(path, "has an xattr " + name);
    }
  }

  void content(const std::string& path, const TreeObject& expected, const struct stat& st) {
    const int fd = open_quietly(view_.root, path, O_RDONLY);
    if (fd < 0) {
      report(path, std::string("cannot be opened: ") + std::strerror(errno));
      return;
    }
    const std::string found = view_.read ? view_.read(fd, st) : read_all(fd);
    close(fd);
    const std::string what = difference(expected.data, found);
    if (!what.empty()) report(path, "content: " + what);
  }

  const Tree& tree_;
  const std::vector<std::string>& selected_;
  const TreeView& view_;
  std::set<std::string> found_;
  std::map<const TreeObject*, ino_t> inos_;
  std::map<ino_t, const TreeObject*> objects_;
  std::map<ino_t, ino_t> pool_inos_;
  int reports_ = 0;
  std::string report_;
};

}  // namespace

std::string join(const std::string& directory, const std::string& name) {
  return directory == "." ? name : directory + "/" + name;
}

std::string read_all(int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0) fail("stat");
  std::string data(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = pread(fd, data.data() + done, data.size() - done, static_cast<off_t>(done));
    if (n < 0) fail("read");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  data.resize(done);
  return data;
}

void capture(int root, const std::string& path, Tree& tree) {
  std::map<ino_t, std::shared_ptr<TreeObject>> seen;
  for (const auto& [name, object] : tree) seen[object->st.st_ino] = object;
  capture_one(root, path, tree, seen);
}

std::map<std::string, mode_t> list_tree(int root) {
  std::map<std::string, mode_t> all;
  list_beneath(root, ".", all);
  return all;
}

void keep_extents(Tree& tree, uint64_t track_size, const std::vector<PartOfFile>& ranges) {
  std::set<TreeObject*> done;
  for (auto& [path, object] : tree) {
    if (!done.insert(object.get()).second) continue;
    std::string& data = object->data;
    for (uint64_t track = 0; track * track_size < data.size(); ++track) {
      const uint64_t begin = track * track_size;
      const bool kept = std::any_of(ranges.begin(), ranges.end(), [&](const PartOfFile& r) {
        return r.offset < begin + track_size && r.offset + r.length > begin;
      });
      if (kept) continue;
      const auto first = data.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto count = std::min<uint64_t>(track_size, data.size() - begin);
      std::fill(first, first + static_cast<std::ptrdiff_t>(count), '\0');
    }
  }
}

std::string difference(const std::string& expected, const std::string& found) {
  if (expected == found) return "";
  const size_t common = std::min(expected.size(), found.size());
  size_t at = 0;
  while (at < common && expected[at] == found[at]) ++at;
  size_t end = common;
  while (end > at && expected[end - 1] == found[end - 1]) --end;
  if (at == common) {
    return std::to_string(expected.size()) + " bytes expected, " + std::to_string(found.size()) +
           " found";
  }
  const bool zeros =
      std::all_of(found.begin() + static_cast<std::ptrdiff_t>(at),
                  found.begin() + static_cast<std::ptrdiff_t>(end), [](char c) { return c == 0; });
  return "bytes " + std::to_string(at) + " to " + std::to_string(end) + " of " +
         std::to_string(expected.size()) + " differ" + (zeros ? " (zeros found)" : "");
}

std::string difference(const Tree& tree, const std::vector<std::string>& selected,
                       const TreeView& view) {
  return Comparison(tree, selected, view).run();
}

}  // namespace clonefs::test
