#include "tools/tree_restore.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "tools/tree_data.h"

namespace clonefs {

namespace {

// Of a name that is given up again at once.
std::string temporary_name() {
  static unsigned number = 0;
  return ".clonefs-restore." + std::to_string(::getpid()) + "." + std::to_string(number++);
}

bool is_empty_directory(const TreePlace& place) {
  // Nothing is removed that is not empty.
  return ::unlinkat(place.directory.get(), place.leaf.c_str(), AT_REMOVEDIR) == 0;
}

}  // namespace

const char* to_string(RestoreAction action) {
  switch (action) {
    case RestoreAction::kCreate: return "create";
    case RestoreAction::kUpdate: return "update";
    case RestoreAction::kReplace: return "replace";
    case RestoreAction::kLink: return "link";
    case RestoreAction::kRename: return "rename";
    case RestoreAction::kDelete: return "delete";
    case RestoreAction::kKeep: return "keep";
  }
  return "?";
}

RestoreAction TreeRestorer::action_for(const TreeChange& change) const {
  switch (change.kind) {
    case ChangeKind::kAdded: return remove_ ? RestoreAction::kDelete : RestoreAction::kKeep;
    case ChangeKind::kRemoved: return RestoreAction::kCreate;
    case ChangeKind::kRenamed: return RestoreAction::kRename;
    case ChangeKind::kReplaced: return RestoreAction::kReplace;
    case ChangeKind::kModified: break;
  }
  if ((change.attributes & kLinks) != 0) return RestoreAction::kLink;
  const bool another = (change.attributes & (kTarget | kDevice)) != 0;
  return another ? RestoreAction::kReplace : RestoreAction::kUpdate;
}

std::vector<Outcome> TreeRestorer::rename_back(const TreeDiff& diff) {
  std::vector<Outcome> done;
  for (const TreeChange& change : diff.changes) {
    if (change.kind != ChangeKind::kRenamed) continue;
    const Failure made = make_parents(change.path);
    const TreePlace from = place_in_tree(now_root_, change.path_now);
    const TreePlace to = place_in_tree(now_root_, change.path);
    if (made.code != 0 || !from || !to) continue;
    if (::renameat2(from.directory.get(), from.leaf.c_str(), to.directory.get(), to.leaf.c_str(),
                    RENAME_NOREPLACE) == 0) {
      directories_.emplace(parent_path(change.path), false);
      directories_.emplace(parent_path(change.path_now), false);
      done.push_back({RestoreAction::kRename, &change, "", 0, 0});
    }
  }
  return done;
}

void TreeRestorer::fail_outcome(const Failure& failure, Outcome* outcome) {
  outcome->code = failure.code;
  outcome->error = (failure.what.empty() ? "" : failure.what + ": ") + std::strerror(failure.code);
}

std::vector<Outcome> TreeRestorer::apply(const TreeDiff& diff) {
  ::umask(0);
  std::unordered_map<std::string, unsigned> attributes;
  for (const TreeChange& change : diff.changes) {
    if (change.kind == ChangeKind::kModified) attributes[change.path] = change.attributes;
  }
  for (const LinkedName& name : diff.linked) {
    const auto it = attributes.find(name.path);
    const bool stays = it == attributes.end() || (it->second & kLinks) == 0;
    if (name.now_ino != 0 && stays) first_name_.emplace(name.then_ino, name.path);
  }

  std::vector<Outcome> outcomes;
  const auto run = [&](const TreeChange& change) {
    Outcome outcome{action_for(change), &change, "", 0, 0};
    const Failure failure = apply_one(change, &outcome);
    if (failure.code != 0) fail_outcome(failure, &outcome);
    outcomes.push_back(std::move(outcome));
  };
  // What goes, goes first: it may stand where something else is to be.
  for (auto it = diff.changes.rbegin(); it != diff.changes.rend(); ++it) {
    if (it->kind == ChangeKind::kAdded && remove_) run(*it);
  }
  for (const TreeChange& change : diff.changes) {
    if (change.kind != ChangeKind::kAdded || !remove_) run(change);
  }
  finish_directories();
  for (Outcome& outcome : outcomes) {
    const auto it = failed_directories_.find(outcome.change->path);
    if (it != failed_directories_.end() && outcome.code == 0) fail_outcome(it->second, &outcome);
  }
  return outcomes;
}

TreeRestorer::Failure TreeRestorer::apply_one(const TreeChange& change, Outcome* outcome) {
  switch (outcome->action) {
    case RestoreAction::kKeep: return {};
    case RestoreAction::kDelete: return remove(change.path_now, change.now.st_mode);
    case RestoreAction::kCreate: return create(change, outcome);
    case RestoreAction::kUpdate: return update(change, outcome);
    case RestoreAction::kRename: return {EEXIST, "it could not get its old name back"};
    case RestoreAction::kLink:
    case RestoreAction::kReplace: break;
  }
  if (change.kind != ChangeKind::kReplaced) return replace(change, outcome);
  if (S_ISDIR(change.now.st_mode)) {
    const TreePlace now = place_in_tree(now_root_, change.path);
    if (!now) return {now.error, ""};
    if (!is_empty_directory(now)) {
      return {errno, "a directory stands where the clone has another thing (--delete removes what is in it)"};
    }
    return create(change, outcome);
  }
  if (!S_ISDIR(change.then.st_mode)) return replace(change, outcome);
  if (const Failure failure = remove(change.path, change.now.st_mode); failure.code != 0) return failure;
  return create(change, outcome);
}

TreeRestorer::Failure TreeRestorer::make_parents(const std::string& path) {
  const std::string parent = parent_path(path);
  if (parent.empty()) return {};
  const TreePlace place = place_in_tree(now_root_, parent);
  if (place) {
    struct stat st {};
    if (::fstatat(place.directory.get(), place.leaf.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return {};
  }
  if (const Failure failure = make_parents(parent); failure.code != 0) return failure;
  const TreePlace again = place_in_tree(now_root_, parent);
  if (!again) return {again.error, ""};
  if (::mkdirat(again.directory.get(), again.leaf.c_str(), 0700) != 0 && errno != EEXIST) {
    return {errno, parent};
  }
  directories_[parent] = true;
  return {};
}

TreeRestorer::Failure TreeRestorer::create(const TreeChange& change, Outcome* outcome) {
  if (const Failure failure = make_parents(change.path); failure.code != 0) return failure;
  const TreePlace now = place_in_tree(now_root_, change.path);
  if (!now) return {now.error, ""};
  const int dir = now.directory.get();
  const char* leaf = now.leaf.c_str();
  directories_.emplace(parent_path(change.path), false);
  const mode_t mode = change.then.st_mode;
  if (S_ISDIR(mode)) {
    if (::mkdirat(dir, leaf, 0700) != 0 && errno != EEXIST) return {errno, ""};
    directories_[change.path] = true;
    return {};
  }
  if (change.then.st_nlink > 1) {
    const auto first = first_name_.find(change.then.st_ino);
    if (first != first_name_.end()) {
      const TreePlace other = place_in_tree(now_root_, first->second);
      outcome->action = RestoreAction::kLink;
      if (!other) return {other.error, ""};
      if (::linkat(other.directory.get(), other.leaf.c_str(), dir, leaf, 0) != 0) return {errno, ""};
      return {};
    }
  }
  Failure failure;
  if (S_ISREG(mode)) {
    failure = create_file(change, now, &outcome->bytes_written);
  } else {
    std::string target;
    int e = 0;
    if (S_ISLNK(mode)) {
      e = read_link(place_in_tree(then_root_, change.path), &target);
      if (e == 0 && ::symlinkat(target.c_str(), dir, leaf) != 0) e = -errno;
    } else if (::mknodat(dir, leaf, (mode & S_IFMT) | 0600, change.then.st_rdev) != 0) {
      e = -errno;
    }
    if (e != 0) return {-e, ""};
    failure = set_attributes(change.path, now, true);
  }
  if (failure.code == 0 && change.then.st_nlink > 1) {
    first_name_.emplace(change.then.st_ino, change.path);
  }
  return failure;
}

TreeRestorer::Failure TreeRestorer::create_file(const TreeChange& change, const TreePlace& now,
                                                uint64_t* written) {
  const UniqueFd then(open_in_tree(then_root_, change.path, O_RDONLY));
  if (!then) return {-then.get(), "the clone cannot be read"};
  const auto ranges = differing_ranges(then.get(), -1, static_cast<uint64_t>(change.then.st_size),
                                       extents_, HowMuch::kAll);
  if (!ranges) return {ranges.error().code, "the clone cannot be read"};
  const int dir = now.directory.get();
  // Whole before it has a name, where the file system has files without one; else whole before it has
  // this name.
  const std::string temporary = temporary_name();
  UniqueFd file(::openat(dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  const bool nameless = static_cast<bool>(file);
  if (!nameless) {
    file.reset(::openat(dir, temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  }
  if (!file) return {errno, ""};
  Failure failure;
  if (const auto brought = bring_over(then.get(), file.get(), *ranges); !brought) {
    failure = {brought.error().code, ""};
  } else {
    *written += *brought;
    if (::ftruncate(file.get(), change.then.st_size) != 0) failure = {errno, ""};
  }
  if (failure.code == 0 && nameless &&
      ::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(file.get())).c_str(), dir,
               temporary.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    failure = {errno, ""};
  }
  file.reset();
  if (failure.code == 0) {
    const TreePlace made = place_in_tree(now_root_, join_path(parent_path(change.path), temporary));
    failure = made ? set_attributes(change.path, made, true) : Failure{made.error, ""};
  }
  if (failure.code == 0 &&
      ::renameat(dir, temporary.c_str(), dir, now.leaf.c_str()) != 0) {
    failure = {errno, ""};
  }
  if (failure.code != 0) ::unlinkat(dir, temporary.c_str(), 0);
  return failure;
}

TreeRestorer::Failure TreeRestorer::replace(const TreeChange& change, Outcome* outcome) {
  const TreePlace now = place_in_tree(now_root_, change.path);
  if (!now) return {now.error, ""};
  const std::string leaf = temporary_name();
  const std::string temporary = join_path(parent_path(change.path), leaf);
  const int dir = now.directory.get();
  directories_.emplace(parent_path(change.path), false);

  Failure failure;
  const TreePlace made = place_in_tree(now_root_, temporary);
  const auto first = first_name_.find(change.then.st_ino);
  if (change.then.st_nlink > 1 && first != first_name_.end()) {
    const TreePlace other = place_in_tree(now_root_, first->second);
    if (!other) return {other.error, ""};
    if (::linkat(other.directory.get(), other.leaf.c_str(), dir, leaf.c_str(), 0) != 0) {
      return {errno, ""};
    }
  } else if (S_ISREG(change.then.st_mode)) {
    failure = create_file(change, now, &outcome->bytes_written);  // over the name
    if (failure.code == 0) first_name_.emplace(change.then.st_ino, change.path);
    return failure;
  } else {
    std::string target;
    int e = 0;
    if (S_ISLNK(change.then.st_mode)) {
      e = read_link(place_in_tree(then_root_, change.path), &target);
      if (e == 0 && ::symlinkat(target.c_str(), dir, leaf.c_str()) != 0) e = -errno;
    } else if (::mknodat(dir, leaf.c_str(), (change.then.st_mode & S_IFMT) | 0600,
                         change.then.st_rdev) != 0) {
      e = -errno;
    }
    if (e != 0) return {-e, ""};
    failure = made ? set_attributes(change.path, made, true) : Failure{made.error, ""};
    if (failure.code == 0) first_name_.emplace(change.then.st_ino, change.path);
  }
  if (failure.code == 0 && ::renameat(dir, leaf.c_str(), dir, now.leaf.c_str()) != 0) {
    failure = {errno, ""};
  }
  // Where both names were one file already, rename leaves both.
  ::unlinkat(dir, leaf.c_str(), 0);
  return failure;
}

TreeRestorer::Failure TreeRestorer::update(const TreeChange& change, Outcome* outcome) {
  const TreePlace now = place_in_tree(now_root_, change.path);
  if (!now) return {now.error, ""};
  if (S_ISDIR(change.then.st_mode)) {
    directories_.emplace(change.path, false);
    return {};
  }
  if ((change.attributes & kData) != 0) {
    const Failure failure = update_file(change, now, &outcome->bytes_written);
    if (failure.code != 0) return failure;
  }
  return set_attributes(change.path, now, false);
}

TreeRestorer::Failure TreeRestorer::update_file(const TreeChange& change, const TreePlace& now,
                                                uint64_t* written) {
  const int dir = now.directory.get();
  const int opened_then = open_in_tree(then_root_, change.path, O_RDONLY);
  const UniqueFd then(opened_then);
  if (!then) return {-opened_then, "the clone cannot be read"};
  const int opened_now = open_quietly(dir, now.leaf, O_RDONLY);
  UniqueFd old(opened_now);
  if (!old) return {-opened_now, ""};
  const auto size = static_cast<uint64_t>(change.then.st_size);
  const auto ranges = differing_ranges(then.get(), old.get(), size, extents_, HowMuch::kAll);
  if (!ranges) return {ranges.error().code, ranges.error().message};
  int opened = ::openat(dir, now.leaf.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (opened < 0 && errno == EACCES && ::fchmod(old.get(), 0600) == 0) {
    opened = ::openat(dir, now.leaf.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  }
  const UniqueFd file(opened);
  if (!file) {
    const int e = errno;
    return {e, e == ETXTBSY ? "a program runs it: end that, or restore it elsewhere (--to) and "
                              "rename it over this one"
                            : ""};
  }
  struct stat st {};
  if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) return {EAGAIN, "it changed meanwhile"};
  if (extents_.empty() && st.st_size != change.then.st_size &&
      ::ftruncate(file.get(), change.then.st_size) != 0) {
    return {errno, ""};
  }
  const auto brought = bring_over(then.get(), file.get(), *ranges);
  if (!brought) return {brought.error().code, ""};
  *written += *brought;
  return {};
}

TreeRestorer::Failure TreeRestorer::remove(const std::string& path, mode_t type) {
  const TreePlace now = place_in_tree(now_root_, path);
  if (!now) return {now.error == ENOENT ? 0 : now.error, ""};
  directories_.emplace(parent_path(path), false);
  if (::unlinkat(now.directory.get(), now.leaf.c_str(), S_ISDIR(type) ? AT_REMOVEDIR : 0) != 0 &&
      errno != ENOENT) {
    return {errno, ""};
  }
  return {};
}

bool TreeRestorer::is_selected(const std::string& path) const {
  return std::any_of(paths_.begin(), paths_.end(), [&](const std::string& root) {
    return root == "." || path == root || path.starts_with(root + "/");
  });
}

void TreeRestorer::finish_directories() {
  for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
    const auto& [path, made] = *it;
    const std::string name = path.empty() ? "." : path;
    if (!made && !is_selected(name)) continue;
    // A directory that was removed has nothing to be given.
    struct stat st {};
    const TreePlace then = place_in_tree(then_root_, name);
    if (!then || ::fstatat(then.directory.get(), then.leaf.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISDIR(st.st_mode)) {
      continue;
    }
    const TreePlace now = place_in_tree(now_root_, name);
    const Failure failure = now ? set_attributes(name, now, made) : Failure{now.error, ""};
    if (failure.code != 0 && failure.code != ENOENT) failed_directories_[name] = failure;
  }
  directories_.clear();
}

// Owner first: it takes set-id bits and capabilities away. Times last: all the others move them.
TreeRestorer::Failure TreeRestorer::set_attributes(const std::string& path, const TreePlace& now,
                                                   bool is_new) {
  const TreePlace then = place_in_tree(then_root_, path);
  struct stat want {}, have {};
  if (!then || ::fstatat(then.directory.get(), then.leaf.c_str(), &want, AT_SYMLINK_NOFOLLOW) != 0) {
    return {then ? errno : then.error, "the clone cannot be read"};
  }
  const int dir = now.directory.get();
  const char* leaf = now.leaf.c_str();
  const auto look = [&] { return ::fstatat(dir, leaf, &have, AT_SYMLINK_NOFOLLOW) == 0; };
  if (!look()) return {errno, ""};
  if ((want.st_mode & S_IFMT) != (have.st_mode & S_IFMT)) return {EAGAIN, "it changed meanwhile"};
  const uid_t uid = want.st_uid == have.st_uid ? static_cast<uid_t>(-1) : want.st_uid;
  const gid_t gid = want.st_gid == have.st_gid ? static_cast<gid_t>(-1) : want.st_gid;
  Failure failure;
  if ((uid != static_cast<uid_t>(-1) || gid != static_cast<gid_t>(-1)) &&
      ::fchownat(dir, leaf, uid, gid, AT_SYMLINK_NOFOLLOW) != 0) {
    failure = {errno, "owner and group"};
  }
  if (!look()) return {errno, ""};
  const std::string path_now = now.proc_path();
  if (!S_ISLNK(want.st_mode) && (want.st_mode & 07777) != (have.st_mode & 07777)) {
    // The object itself, not what a link leads to that was put in its place.
    const UniqueFd object(::openat(dir, leaf, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st {};
    if (!object || ::fstat(object.get(), &st) != 0 || S_ISLNK(st.st_mode) ||
        ::chmod(("/proc/self/fd/" + std::to_string(object.get())).c_str(), want.st_mode & 07777) != 0) {
      if (failure.code == 0) failure = {errno == 0 ? EAGAIN : errno, "mode"};
    }
  }
  Xattrs wanted, there;
  if (const int e = read_xattrs(then, &wanted); e != 0) return {-e, "xattrs of the clone"};
  if (const int e = read_xattrs(now, &there); e != 0) return {-e, "xattrs"};
  for (const auto& [name, value] : there) {
    if (wanted.contains(name)) continue;
    if (::lremovexattr(path_now.c_str(), name.c_str()) != 0 && errno != ENODATA && failure.code == 0) {
      failure = {errno, name};
    }
  }
  for (const auto& [name, value] : wanted) {
    const auto it = there.find(name);
    if (it != there.end() && it->second == value) continue;
    if (::lsetxattr(path_now.c_str(), name.c_str(), value.data(), value.size(), 0) != 0 &&
        failure.code == 0) {
      failure = {errno, name};
    }
  }
  const timespec times[2] = {is_new ? want.st_atim : timespec{0, UTIME_OMIT}, want.st_mtim};
  if (::utimensat(dir, leaf, times, AT_SYMLINK_NOFOLLOW) != 0 && failure.code == 0) {
    failure = {errno, "times"};
  }
  return failure;
}

}  // namespace clonefs
