#include "tools/tree_diff.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <unordered_map>

#include "engine/clone_ino.h"
#include "tools/tree_data.h"

namespace clonefs {

namespace {

// Two changes so near to each other may have got the same time stamp.
constexpr time_t kTick = 1;

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool is_acl(const std::string& name) { return name.starts_with("system.posix_acl_"); }

// Names in a directory, sorted; -errno.
int list_names(int directory, std::vector<std::string>* names) {
  const int fd = open_quietly(directory, ".", O_RDONLY | O_DIRECTORY);
  if (fd < 0) return fd;
  DIR* stream = ::fdopendir(fd);
  if (stream == nullptr) {
    ::close(fd);
    return -ENOMEM;
  }
  errno = 0;
  while (const dirent* entry = ::readdir(stream)) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) {
      names->emplace_back(entry->d_name);
    }
    errno = 0;
  }
  const int e = errno;
  ::closedir(stream);
  std::sort(names->begin(), names->end());
  return -e;
}

TreePlace place(int directory, const std::string& leaf) {
  TreePlace at;
  at.directory = UniqueFd(::fcntl(directory, F_DUPFD_CLOEXEC, 0));
  at.leaf = leaf;
  if (!at) at.error = errno;
  return at;
}

bool more_files_may_be_open() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

class TreeComparer {
 public:
  TreeComparer(int then, int now, const DiffOptions& options)
      : then_root_(then), now_root_(now), options_(options) {
    struct stat st {};
    if (::fstat(now, &st) == 0) now_device_ = st.st_dev;
  }

  TreeDiff compare() {
    for (const std::string& path : options_.paths) compare_selected(path);
    if (options_.renames) find_renames();
    for (const auto& [path, st] : removed_) {
      add({ChangeKind::kRemoved, path, "", 0, st, {}});
    }
    for (const auto& [path, st] : added_) {
      add({ChangeKind::kAdded, path, path, 0, {}, st});
    }
    std::sort(diff_.linked.begin(), diff_.linked.end(),
              [](const LinkedName& a, const LinkedName& b) { return a.path < b.path; });
    compare_links();
    std::stable_sort(diff_.changes.begin(), diff_.changes.end(),
                     [](const TreeChange& a, const TreeChange& b) { return a.path < b.path; });
    return std::move(diff_);
  }

 private:
  using Entries = std::map<std::string, struct stat>;

  void add(TreeChange change) { diff_.changes.push_back(std::move(change)); }

  void problem(const std::string& path, int error, const std::string& what = "") {
    const int code = error < 0 ? -error : error;
    diff_.problems.push_back({path, code, (what.empty() ? "" : what + ": ") + std::strerror(code)});
  }

  // Of another file system, mounted beneath the volume: no clone has it.
  bool is_foreign(const struct stat& st) const {
    return st.st_dev != now_device_ || st.st_ino >> kSlotShift != 0;
  }

  bool look(int directory, const std::string& name, const std::string& path, struct stat* st) {
    if (::fstatat(directory, name.c_str(), st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0) return true;
    if (errno != ENOENT && errno != ENOTDIR) problem(path, errno);
    *st = {};
    return false;
  }

  void compare_selected(const std::string& path) {
    const TreePlace then = place_in_tree(then_root_, path);
    const TreePlace now = place_in_tree(now_root_, path);
    struct stat then_stat {}, now_stat {};
    if (then) look(then.directory.get(), then.leaf, path, &then_stat);
    if (now) look(now.directory.get(), now.leaf, path, &now_stat);
    const auto missing = [](int e) { return e == 0 || e == ENOENT || e == ENOTDIR || e == ELOOP || e == EBADF; };
    if (!missing(then.error)) problem(path, then.error);
    if (!missing(now.error)) problem(path, now.error);
    if (then_stat.st_mode == 0 && now_stat.st_mode == 0) return;
    if (now_stat.st_mode == 0) {
      only_then(then.directory.get(), then.leaf, path, then_stat);
    } else if (then_stat.st_mode == 0) {
      only_now(now.directory.get(), now.leaf, path, now_stat);
    } else {
      both(then, then_stat, path, now, now_stat, path);
    }
  }

  // Everything from here on down is only in the clone.
  void only_then(int directory, const std::string& leaf, const std::string& path,
                 const struct stat& st) {
    removed_[path] = st;
    if (st.st_nlink > 1 && !S_ISDIR(st.st_mode)) diff_.linked.push_back({path, st.st_ino, 0});
    descend(directory, leaf, path, st, &TreeComparer::only_then);
  }

  void only_now(int directory, const std::string& leaf, const std::string& path,
                const struct stat& st) {
    if (is_foreign(st)) return;
    added_[path] = st;
    descend(directory, leaf, path, st, &TreeComparer::only_now);
  }

  void descend(int directory, const std::string& leaf, const std::string& path, const struct stat& st,
               void (TreeComparer::*visit)(int, const std::string&, const std::string&,
                                           const struct stat&)) {
    if (!S_ISDIR(st.st_mode)) return;
    const int opened = open_quietly(directory, leaf, O_RDONLY | O_DIRECTORY);
    const UniqueFd fd(opened);
    std::vector<std::string> names;
    if (const int e = fd ? list_names(fd.get(), &names) : opened; e < 0) {
      if (e != -ENOENT) problem(path, e);
      return;
    }
    for (const std::string& name : names) {
      struct stat child {};
      const std::string child_path = join_path(path, name);
      if (look(fd.get(), name, child_path, &child)) (this->*visit)(fd.get(), name, child_path, child);
    }
  }

  void both(const TreePlace& then, const struct stat& a, const std::string& path,
            const TreePlace& now, const struct stat& b, const std::string& path_now,
            ChangeKind kind = ChangeKind::kModified) {
    if (is_foreign(b)) return;
    if ((a.st_mode & S_IFMT) != (b.st_mode & S_IFMT)) {
      add({ChangeKind::kReplaced, path, path_now, 0, a, b});
      if (a.st_nlink > 1 && !S_ISDIR(a.st_mode)) diff_.linked.push_back({path, a.st_ino, 0});
      descend(then.directory.get(), then.leaf, path, a, &TreeComparer::only_then);
      descend(now.directory.get(), now.leaf, path_now, b, &TreeComparer::only_now);
      return;
    }
    if (!S_ISDIR(a.st_mode) && (a.st_nlink > 1 || b.st_nlink > 1)) {
      diff_.linked.push_back({path, a.st_ino, b.st_ino});
      both_names_[path] = {a, b, path_now};
    }
    unsigned attributes = 0;
    if (!is_unchanged(a, b)) {
      int error = 0;
      attributes = differing_attributes(then, a, now, b, true, &error);
      if (S_ISREG(a.st_mode)) attributes |= differing_data(then, a, now, b, &error);
      if (error != 0) {
        if (error != ENOENT) problem(path_now, error);
        return;
      }
    }
    if (attributes != 0 || kind == ChangeKind::kRenamed) add({kind, path, path_now, attributes, a, b});
    if (S_ISDIR(a.st_mode)) both_directories(then, path, now, path_now);
  }

  void both_directories(const TreePlace& then, const std::string& path, const TreePlace& now,
                        const std::string& path_now) {
    const int opened_then = open_quietly(then.directory.get(), then.leaf, O_RDONLY | O_DIRECTORY);
    const UniqueFd a(opened_then);
    const int opened_now = open_quietly(now.directory.get(), now.leaf, O_RDONLY | O_DIRECTORY);
    const UniqueFd b(opened_now);
    std::vector<std::string> in_then, in_now;
    int e = a ? list_names(a.get(), &in_then) : opened_then;
    if (e == 0) e = b ? list_names(b.get(), &in_now) : opened_now;
    if (e < 0) {
      if (e != -ENOENT) problem(path_now, e);
      return;
    }
    for (size_t i = 0, k = 0; i < in_then.size() || k < in_now.size();) {
      const int order = i == in_then.size() ? 1 : k == in_now.size() ? -1 : in_then[i].compare(in_now[k]);
      const std::string& name = order <= 0 ? in_then[i] : in_now[k];
      const std::string child = join_path(path, name);
      const std::string child_now = join_path(path_now, name);
      struct stat then_stat {}, now_stat {};
      const bool has_then = order <= 0 && look(a.get(), name, child, &then_stat);
      const bool has_now = order >= 0 && look(b.get(), name, child_now, &now_stat);
      if (has_then && has_now) {
        both(place(a.get(), name), then_stat, child, place(b.get(), name), now_stat, child_now);
      } else if (has_then) {
        only_then(a.get(), name, child, then_stat);
      } else if (has_now) {
        only_now(b.get(), name, child_now, now_stat);
      }
      i += order <= 0;
      k += order >= 0;
    }
  }

  static bool same_inode(const struct stat& then, const struct stat& now) {
    const auto number = number_in_volume(then.st_ino);
    return number && *number == (now.st_ino & kNumberMask);
  }

  // Before the consistency point, by more than the clock's ticks.
  bool is_old(const timespec& time) const {
    return time.tv_sec < options_.consistency_point.tv_sec - kTick;
  }

  bool is_unchanged(const struct stat& a, const struct stat& b) const {
    return !options_.thorough && same_inode(a, b) && a.st_size == b.st_size &&
           a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid &&
           a.st_rdev == b.st_rdev && same_time(a.st_mtim, b.st_mtim) && is_old(a.st_ctim) &&
           is_old(b.st_ctim);
  }

  unsigned differing_data(const TreePlace& then, const struct stat& a, const TreePlace& now,
                          const struct stat& b, int* error) {
    // A clone of parts of files says nothing of what is behind them.
    if (options_.extents.empty() && a.st_size != b.st_size) return kData | kSize;
    if (a.st_size == 0) return 0;
    const int opened_then = open_quietly(then.directory.get(), then.leaf, O_RDONLY);
    const UniqueFd x(opened_then);
    const int opened_now = open_quietly(now.directory.get(), now.leaf, O_RDONLY);
    const UniqueFd y(opened_now);
    if (!x || !y) {
      *error = -(x ? opened_now : opened_then);
      return 0;
    }
    const auto ranges = differing_ranges(x.get(), y.get(), static_cast<uint64_t>(a.st_size),
                                         options_.extents, HowMuch::kFirst);
    if (!ranges) {
      *error = ranges.error().code;
      return 0;
    }
    return ranges->empty() ? 0u : kData;
  }

  // --- renames -----------------------------------------------------------------------------------

  static void erase_beneath(Entries* entries, const std::string& path) {
    entries->erase(path);
    auto it = entries->lower_bound(path + "/");
    while (it != entries->end() && it->first.starts_with(path + "/")) it = entries->erase(it);
  }

  void find_renames() {
    std::unordered_multimap<uint64_t, std::string> by_number;
    for (const auto& [path, st] : added_) by_number.emplace(st.st_ino & kNumberMask, path);
    for (auto it = removed_.begin(); it != removed_.end();) {
      const std::string path = it->first;
      const struct stat then = it->second;
      if (const auto number = number_in_volume(then.st_ino)) {
        const auto [first, last] = by_number.equal_range(*number);
        std::string found;
        for (auto candidate = first; candidate != last && found.empty(); ++candidate) {
          const auto now = added_.find(candidate->second);
          if (now != added_.end() && is_same_object(path, then, now->first, now->second)) {
            found = now->first;
          }
        }
        if (!found.empty()) rename_found(path, then, found);
      }
      it = removed_.upper_bound(path);
    }
  }

  void rename_found(const std::string& path, const struct stat& then, const std::string& found) {
    const struct stat now = added_.at(found);
    erase_beneath(&removed_, path);
    erase_beneath(&added_, found);
    std::erase_if(diff_.linked, [&](const LinkedName& name) {
      return name.path == path || name.path.starts_with(path + "/");
    });
    const TreePlace a = place_in_tree(then_root_, path);
    const TreePlace b = place_in_tree(now_root_, found);
    if (a && b) both(a, then, path, b, now, found, ChangeKind::kRenamed);
  }

  bool is_same_object(const std::string& path, const struct stat& then, const std::string& found,
                      const struct stat& now) {
    if ((then.st_mode & S_IFMT) != (now.st_mode & S_IFMT)) return false;
    const bool same_mtime = same_time(then.st_mtim, now.st_mtim);
    switch (then.st_mode & S_IFMT) {
      case S_IFREG: {
        if (same_mtime && then.st_size == now.st_size) return true;
        return same_beginning(path, then, found, now);
      }
      case S_IFDIR: {
        if (same_mtime) return true;
        const std::string beneath = path + "/";
        for (auto it = removed_.lower_bound(beneath);
             it != removed_.end() && it->first.starts_with(beneath); ++it) {
          const auto other = added_.find(found + it->first.substr(path.size()));
          if (other != added_.end() && same_inode(it->second, other->second)) return true;
        }
        return false;
      }
      case S_IFLNK: {
        std::string a, b;
        return read_link(place_in_tree(then_root_, path), &a) == 0 &&
               read_link(place_in_tree(now_root_, found), &b) == 0 && a == b;
      }
      default:
        return then.st_rdev == now.st_rdev;
    }
  }

  bool same_beginning(const std::string& path, const struct stat& then, const std::string& found,
                      const struct stat& now) {
    const off_t least = std::min(then.st_size, now.st_size);
    if (least == 0) return false;
    const UniqueFd a(open_in_tree(then_root_, path, O_RDONLY));
    const UniqueFd b(open_in_tree(now_root_, found, O_RDONLY));
    if (!a || !b) return false;
    const auto size = static_cast<size_t>(std::min<off_t>(least, 4096));
    char x[4096], y[4096];
    return ::pread(a.get(), x, size, 0) == static_cast<ssize_t>(size) &&
           ::pread(b.get(), y, size, 0) == static_cast<ssize_t>(size) && std::memcmp(x, y, size) == 0;
  }

  // --- links -------------------------------------------------------------------------------------

  struct Pair {
    struct stat then;
    struct stat now;
    std::string path_now;
  };

  // Of the names of one file in the clone, by path, all are to be the same file as the first one, and
  // names of one file in the tree are to be one in the clone.
  void compare_links() {
    std::unordered_map<uint64_t, uint64_t> now_of, then_of;
    std::unordered_map<std::string, size_t> known;  // changes, by path
    for (size_t i = 0; i < diff_.changes.size() && !diff_.linked.empty(); i++) {
      if (diff_.changes[i].then.st_nlink > 0) known.emplace(diff_.changes[i].path, i);
    }
    for (const LinkedName& name : diff_.linked) {
      if (name.now_ino == 0) continue;
      const auto [now, first_now] = now_of.emplace(name.then_ino, name.now_ino);
      const auto [then, first_then] = then_of.emplace(name.now_ino, name.then_ino);
      if (now->second == name.now_ino && then->second == name.then_ino) continue;
      if (const auto change = known.find(name.path); change != known.end()) {
        diff_.changes[change->second].attributes |= kLinks;
        continue;
      }
      TreeChange added{ChangeKind::kModified, name.path, name.path, kLinks, {}, {}};
      if (const auto pair = both_names_.find(name.path); pair != both_names_.end()) {
        added.then = pair->second.then;
        added.now = pair->second.now;
        added.path_now = pair->second.path_now;
      }
      add(added);
    }
  }

  const int then_root_;
  const int now_root_;
  const DiffOptions& options_;
  dev_t now_device_ = 0;
  TreeDiff diff_;
  Entries removed_;  // only the clone has them
  Entries added_;    // only the tree has them
  std::map<std::string, Pair> both_names_;  // of what has several names
};

}  // namespace

const char* to_string(ChangeKind kind) {
  switch (kind) {
    case ChangeKind::kAdded: return "added";
    case ChangeKind::kRemoved: return "removed";
    case ChangeKind::kModified: return "modified";
    case ChangeKind::kRenamed: return "renamed";
    case ChangeKind::kReplaced: return "replaced";
  }
  return "?";
}

const char* type_word(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character device";
    case S_IFBLK: return "block device";
  }
  return "?";
}

std::vector<std::string> attribute_words(unsigned attributes) {
  static constexpr const char* kWords[] = {"data",   "size", "mode",   "owner",  "group", "mtime",
                                           "xattrs", "acl",  "target", "device", "links"};
  std::vector<std::string> words;
  for (size_t i = 0; i < std::size(kWords); i++) {
    if ((attributes >> i & 1) != 0) words.emplace_back(kWords[i]);
  }
  return words;
}

unsigned differing_attributes(const TreePlace& then, const struct stat& a, const TreePlace& now,
                              const struct stat& b, bool with_xattrs, int* error) {
  unsigned attributes = 0;
  if ((a.st_mode & 07777) != (b.st_mode & 07777)) attributes |= kMode;
  if (a.st_uid != b.st_uid) attributes |= kOwner;
  if (a.st_gid != b.st_gid) attributes |= kGroup;
  if (!same_time(a.st_mtim, b.st_mtim)) attributes |= kMtime;
  if ((S_ISCHR(a.st_mode) || S_ISBLK(a.st_mode)) && a.st_rdev != b.st_rdev) attributes |= kDevice;
  int e = 0;
  if (S_ISLNK(a.st_mode)) {
    std::string x, y;
    e = read_link(then, &x);
    if (e == 0) e = read_link(now, &y);
    if (x != y) attributes |= kTarget;
  }
  if (with_xattrs && e == 0) {
    Xattrs x, y;
    e = read_xattrs(then, &x);
    if (e == 0) e = read_xattrs(now, &y);
    for (const Xattrs* side : {&x, &y}) {
      for (const auto& [name, value] : *side) {
        const Xattrs& other = side == &x ? y : x;
        const auto it = other.find(name);
        if (it == other.end() || it->second != value) attributes |= is_acl(name) ? kAcl : kXattrs;
      }
    }
  }
  if (e != 0) *error = -e;
  return attributes;
}

TreeDiff compare_trees(int then, int now, const DiffOptions& options) {
  [[maybe_unused]] static const bool raised = more_files_may_be_open();
  return TreeComparer(then, now, options).compare();
}

}  // namespace clonefs
