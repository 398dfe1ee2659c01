#include "tests/engine/power_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace clonefs::test {
namespace {

bool directory_is_empty(Disk& disk, int dir, const char* name) {
  const Fd fd(disk, disk.open(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  bool empty = true;
  if (fd) {
    posix_disk().list(fd.get(), [&](const Disk::Entry&) { return empty = false; });
  }
  return empty;
}

// The directory of DIR/PATH, and the NAME in it.
Fd directory_of(int dir, const char* path, const char** name) {
  const std::string whole = path;
  const size_t slash = whole.rfind('/');
  *name = slash == std::string::npos ? path : path + slash + 1;
  const std::string directory = slash == std::string::npos ? "." : whole.substr(0, slash + 1);
  return Fd(posix_disk(), posix_disk().open(dir, directory.c_str(), O_PATH | O_DIRECTORY));
}

void remove_all(int dir, const std::string& name) {
  Disk& disk = posix_disk();
  if (disk.unlink(dir, name.c_str(), 0) != -EISDIR) return;
  std::vector<std::string> names;
  {
    const Fd fd(disk, disk.open(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (fd) {
      disk.list(fd.get(), [&](const Disk::Entry& e) {
        names.push_back(e.name);
        return true;
      });
    }
    for (const std::string& n : names) remove_all(fd.get(), n);
  }
  disk.unlink(dir, name.c_str(), AT_REMOVEDIR);
}

}  // namespace

PowerDisk::PowerDisk(uint64_t seed)
    : random_(seed * 0x9E3779B97F4A7C15u + 7), graveyard_(Where::kMemory) {
  graveyard_fd_ = ::open(graveyard_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  clock_gettime(CLOCK_REALTIME, &clock_);
  clock_.tv_sec -= 100000;
}

PowerDisk::~PowerDisk() {
  names_.clear();
  objects_.clear();
  ::close(graveyard_fd_);
}

void PowerDisk::fail_after(uint64_t operations) {
  fail_at_ = operations == 0 ? 0 : operations_ + operations;
}

bool PowerDisk::begin(bool* last, const char* what, int fd, const char* name) {
  *last = false;
  if (off_) return false;
  if (verbose) {
    std::string path;
    if (fd >= 0) ForwardingDisk::path_of(fd, &path);
    std::fprintf(stderr, "    %lu %s %s %s\n", static_cast<unsigned long>(operations_ + 1), what,
                 path.c_str(), name);
  }
  if (before_operation) before_operation();
  if (off_) return false;
  const uint64_t number = ++operations_;
  if (fail_at_ == 0 || number < fail_at_) return true;
  off_ = true;
  *last = true;
  const std::lock_guard lock(mutex_);
  return random_.chance(50);
}

// --- what is not durable

PowerDisk::Object* PowerDisk::object(int fd, struct stat* st) {
  if (ForwardingDisk::stat(fd, "", st) < 0) return nullptr;
  Object& o = objects_[key_of(*st)];
  o.type = st->st_mode & S_IFMT;
  // Not a duplicate: that would keep the locks of the engine's descriptors.
  if (!o.path) o.path = Fd(posix_disk(), ForwardingDisk::reopen(fd, O_PATH));
  return &o;
}

PowerDisk::Attributes PowerDisk::attributes(int path, const struct stat& st, const Object& o) {
  Attributes a;
  a.mode = st.st_mode & 07777;
  a.uid = st.st_uid;
  a.gid = st.st_gid;
  a.times[0] = st.st_atim;
  a.times[1] = st.st_mtim;
  a.ctime = o.ctime;
  std::string names;
  if ((S_ISREG(o.type) || S_ISDIR(o.type)) && ForwardingDisk::list_xattr(path, &names) > 0) {
    for (const char* n = names.c_str(); n < names.c_str() + names.size(); n += std::strlen(n) + 1) {
      ForwardingDisk::get_xattr(path, n, &a.xattrs[n]);
    }
  }
  return a;
}

void PowerDisk::save_attributes(int fd) {
  struct stat st {};
  Object* o = object(fd, &st);
  if (o != nullptr && !o->durable) o->durable = attributes(o->path.get(), st, *o);
}

void PowerDisk::save_data(int fd, uint64_t offset, uint64_t length) {
  save_attributes(fd);
  struct stat st {};
  Object* o = object(fd, &st);
  if (o == nullptr || !S_ISREG(o->type)) return;
  const auto size = static_cast<uint64_t>(st.st_size);
  if (!o->data_changed) {
    o->data_changed = true;
    o->durable_size = size;
  }
  if (length == 0) return;
  const uint64_t first = offset / kSector, end = (offset + length + kSector - 1) / kSector;
  std::string old((end - first) * kSector, '\0');
  bool read = false;
  for (uint64_t s = first; s < end; ++s) {
    const auto [it, fresh] = o->before.try_emplace(s);
    if (!fresh) continue;
    if (!read && first * kSector < size) {
      // The caller's descriptor may be for writing only.
      const Fd own(posix_disk(), ForwardingDisk::reopen(o->path.get(), O_RDONLY));
      posix_disk().pread_full(own.get(), old.data(), old.size(), first * kSector);
    }
    read = true;
    it->second = old.substr((s - first) * kSector, kSector);
  }
}

void PowerDisk::release(Object& o) {
  o.data_changed = false;
  o.before.clear();
  if (!o.durable) o.path.reset();
}

void PowerDisk::save_name(NameChange change, int dir_a, int dir_b) {
  const int dirs[2] = {dir_a, dir_b};
  for (int i = 0; i < 2; ++i) {
    struct stat st {};
    ForwardingDisk::stat(dirs[i], "", &st);
    change.dirs[i] = key_of(st);
    change.dir_fds[i] = Fd(posix_disk(), ForwardingDisk::open(dirs[i], ".", O_PATH, 0));
  }
  names_.push_back(std::move(change));
}

void PowerDisk::made(int dir, const char* name) {
  struct stat st {};
  if (ForwardingDisk::stat(dir, name, &st) < 0) return;
  NameChange change{};
  change.kind = NameChange::kMade;
  change.object = key_of(st);
  change.names[0] = name;
  save_name(std::move(change), dir, dir);
}

// Moves DIR/NAME to the graveyard; "" when that cannot be.
std::string PowerDisk::bury(int dir, const char* name, const struct stat& st) {
  const std::string grave = std::to_string(next_grave_++);
  if (ForwardingDisk::rename(dir, name, graveyard_fd_, grave.c_str(), 0) < 0) return "";
  ++objects_[key_of(st)].graves;
  return grave;
}

void PowerDisk::exhume(const NameChange& change, int dir, const std::string& name) {
  if (change.grave.empty()) return;
  ForwardingDisk::rename(graveyard_fd_, change.grave.c_str(), dir, name.c_str(), 0);
  --objects_[change.buried].graves;
}

void PowerDisk::burn(const NameChange& change) {
  if (change.grave.empty()) return;
  remove_all(graveyard_fd_, change.grave);
  --objects_[change.buried].graves;
}

// What a sync of the object behind FD makes durable.
void PowerDisk::make_durable(int fd, bool attributes) {
  struct stat st {};
  if (ForwardingDisk::stat(fd, "", &st) < 0) return;
  const Key key = key_of(st);
  if (const auto it = objects_.find(key); it != objects_.end()) {
    if (attributes) it->second.durable.reset();
    release(it->second);
  }
  // Directories of which all entries so far become durable, and objects whose names do. From the
  // last change back: what came before in the same directory, and what named that directory.
  std::set<Key> dirs{key}, objects{key};
  std::vector<bool> durable(names_.size());
  for (size_t i = names_.size(); i-- > 0;) {
    const NameChange& c = names_[i];
    if (dirs.count(c.dirs[0]) == 0 && dirs.count(c.dirs[1]) == 0 && objects.count(c.object) == 0 &&
        (c.kind != NameChange::kExchanged || objects.count(c.other) == 0)) {
      continue;
    }
    durable[i] = true;
    for (const Key& dir : c.dirs) {
      dirs.insert(dir);
      objects.insert(dir);
    }
  }
  std::vector<NameChange> left;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (durable[i]) {
      burn(names_[i]);
    } else {
      left.push_back(std::move(names_[i]));
    }
  }
  names_.swap(left);
}

void PowerDisk::settle() {
  const std::lock_guard lock(mutex_);
  for (const NameChange& c : names_) burn(c);
  names_.clear();
  for (auto& [key, o] : objects_) {
    o.durable.reset();
    release(o);
  }
}

void PowerDisk::settle(int fd) {
  const std::lock_guard lock(mutex_);
  make_durable(fd, true);
}

void PowerDisk::cut() { cut_with(std::nullopt); }

void PowerDisk::cut_with(std::optional<Survives> what) {
  const std::lock_guard lock(mutex_);
  off_ = false;
  fail_at_ = 0;
  // Percent of a file's sectors, of a directory's changes, ...
  const auto loss = [&](bool Survives::*kind) -> unsigned {
    if (what) return (*what).*kind ? 0 : 100;
    constexpr unsigned kLosses[] = {0, 10, 50, 90, 100};
    return kLosses[random_.below(5)];
  };
  // What the attributes are now: undoing the rest moves times.
  std::map<Key, Attributes> then;
  for (auto& [key, o] : objects_) {
    if (!o.durable) continue;
    struct stat st {};
    if (ForwardingDisk::stat(o.path.get(), "", &st) < 0) continue;
    then[key] = random_.chance(loss(&Survives::attributes)) ? *o.durable : attributes(o.path.get(), st, o);
  }
  // Names: from the first that is lost in a directory on, all that follow.
  const unsigned names_lost = loss(&Survives::names);
  std::set<Key> stopped;
  std::vector<const NameChange*> lost;
  for (const NameChange& c : names_) {
    if (stopped.count(c.dirs[0]) == 0 && stopped.count(c.dirs[1]) == 0 &&
        !random_.chance(names_lost / 5 + (names_lost == 100 ? 80 : 0))) {
      continue;
    }
    lost.push_back(&c);
    stopped.insert({c.dirs[0], c.dirs[1]});
    // A directory that is not there has no entries.
    if (c.kind == NameChange::kMade) stopped.insert(c.object);
  }
  for (auto it = lost.rbegin(); it != lost.rend(); ++it) {
    const NameChange& c = **it;
    const int a = c.dir_fds[0].get(), b = c.dir_fds[1].get();
    switch (c.kind) {
      case NameChange::kMade:
        remove_all(a, c.names[0]);
        break;
      case NameChange::kRemoved:
        exhume(c, a, c.names[0]);
        break;
      case NameChange::kRenamed:
        ForwardingDisk::rename(b, c.names[1].c_str(), a, c.names[0].c_str(), 0);
        exhume(c, b, c.names[1]);
        break;
      case NameChange::kExchanged:
        ForwardingDisk::rename(a, c.names[0].c_str(), b, c.names[1].c_str(), RENAME_EXCHANGE);
        break;
    }
  }
  for (const NameChange& c : names_) {
    if (std::find(lost.begin(), lost.end(), &c) == lost.end()) burn(c);
  }
  names_.clear();
  // Data: some files survive whole, some not at all, most in part.
  for (auto& [key, o] : objects_) {
    if (!o.data_changed) continue;
    const unsigned percent = loss(&Survives::data);
    const Fd fd(posix_disk(), ForwardingDisk::reopen(o.path.get(), O_RDWR));
    struct stat st {};
    if (!fd || ForwardingDisk::stat(fd.get(), "", &st) < 0) continue;
    auto size = static_cast<uint64_t>(st.st_size);
    if (size != o.durable_size && random_.chance(percent)) {
      size = o.durable_size;
      ForwardingDisk::truncate(fd.get(), size);
    }
    for (const auto& [sector, content] : o.before) {
      const uint64_t at = sector * kSector;
      if (at >= size || !random_.chance(percent)) continue;
      posix_disk().pwrite_full(fd.get(), content.data(), std::min(kSector, size - at), at);
    }
  }
  // Attributes last. A ctime that was lost is as old as the rest.
  for (auto& [key, a] : then) {
    Object& o = objects_[key];
    const int path = o.path.get();
    if (!S_ISLNK(o.type)) ForwardingDisk::chmod(path, a.mode);
    ForwardingDisk::chown(path, a.uid, a.gid);
    if (!S_ISLNK(o.type)) ForwardingDisk::chmod(path, a.mode);
    std::string names;
    if ((S_ISREG(o.type) || S_ISDIR(o.type)) && ForwardingDisk::list_xattr(path, &names) > 0) {
      for (const char* n = names.c_str(); n < names.c_str() + names.size();
           n += std::strlen(n) + 1) {
        if (a.xattrs.count(n) == 0) ForwardingDisk::remove_xattr(path, n);
      }
    }
    for (const auto& [name, value] : a.xattrs) ForwardingDisk::set_xattr(path, name.c_str(), value);
    ForwardingDisk::utimes(path, a.times);
    if (a.ctime) o.ctime = a.ctime;
  }
  for (auto& [key, o] : objects_) {
    o.durable.reset();
    release(o);
  }
}

// --- looking

bool PowerDisk::is_buried(const struct stat& st) const {
  const auto it = objects_.find(key_of(st));
  if (it == objects_.end() || it->second.graves == 0) return false;
  return S_ISDIR(st.st_mode) || st.st_nlink <= it->second.graves;
}

void PowerDisk::show(struct stat* st) const {
  const auto it = objects_.find(key_of(*st));
  if (it == objects_.end()) return;
  if (is_buried(*st)) {
    st->st_nlink = 0;
  } else {
    st->st_nlink -= it->second.graves;
  }
  if (it->second.ctime) st->st_ctim = *it->second.ctime;
}

void PowerDisk::present(struct stat* st) {
  const std::lock_guard lock(mutex_);
  show(st);
}

int PowerDisk::stat(int dir, const char* path, struct stat* st) {
  if (off_) return -EIO;
  const int r = ForwardingDisk::stat(dir, path, st);
  if (r == 0) present(st);
  return r;
}

int PowerDisk::open_handle(int mount, const std::string& handle, int flags) {
  if (off_) return -EIO;
  const int fd = ForwardingDisk::open_handle(mount, handle, flags);
  if (fd < 0) return fd;
  struct stat st {};
  ForwardingDisk::stat(fd, "", &st);
  const std::lock_guard lock(mutex_);
  if (!is_buried(st)) return fd;
  ForwardingDisk::close(fd);
  return -ESTALE;
}

ssize_t PowerDisk::pread(int fd, void* data, size_t size, uint64_t offset) {
  if (!off_ && before_operation) before_operation();
  return off_ ? -EIO : ForwardingDisk::pread(fd, data, size, offset);
}

int PowerDisk::list(int dir, const std::function<bool(const Entry&)>& fn) {
  return off_ ? -EIO : ForwardingDisk::list(dir, fn);
}

// --- changes

ssize_t PowerDisk::pwrite(int fd, const void* data, size_t size, uint64_t offset) {
  bool last;
  if (!begin(&last, "pwrite", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_data(fd, offset, size);
  const ssize_t n = ForwardingDisk::pwrite(fd, data, size, offset);
  return last ? -EIO : n;
}

int PowerDisk::transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) {
  if (!shares || how != Transfer::kShare) return -EOPNOTSUPP;
  std::string data(length, '\0');
  const ssize_t n = pread_full(from, data.data(), length, offset);
  if (n < 0) return static_cast<int>(n);
  if (static_cast<uint64_t>(n) < length) return -EINVAL;  // beyond its end
  // Atomic in a running system; after a cut no more than other data. Holes are not kept apart here.
  return pwrite_full(to, data.data(), length, offset);
}

int PowerDisk::truncate(int fd, uint64_t size) {
  bool last;
  if (!begin(&last, "truncate", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat st {};
  ForwardingDisk::stat(fd, "", &st);
  const auto old = static_cast<uint64_t>(st.st_size);
  save_data(fd, size, old > size ? old - size : 0);
  return end(last, ForwardingDisk::truncate(fd, size));
}

int PowerDisk::allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  bool last;
  if (!begin(&last, "allocate", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat st {};
  ForwardingDisk::stat(fd, "", &st);
  const auto old = static_cast<uint64_t>(st.st_size);
  const bool moves = (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0;
  const uint64_t stop = moves ? old + length : std::min(offset + length, old);
  save_data(fd, offset, stop > offset ? stop - offset : 0);
  return end(last, ForwardingDisk::allocate(fd, mode, offset, length));
}

int PowerDisk::datasync(int fd) {
  bool last;
  if (!begin(&last, "datasync", fd)) return -EIO;
  if (sync_fails()) return -EIO;
  const std::lock_guard lock(mutex_);
  make_durable(fd, false);
  return end(last, 0);
}

int PowerDisk::sync(int fd) {
  bool last;
  if (!begin(&last, "sync", fd)) return -EIO;
  if (sync_fails()) return -EIO;
  const std::lock_guard lock(mutex_);
  make_durable(fd, true);
  return end(last, 0);
}

int PowerDisk::syncfs(int) {
  bool last;
  if (!begin(&last, "syncfs", -1)) return -EIO;
  if (sync_fails()) return -EIO;
  settle();
  return end(last, 0);
}

int PowerDisk::chmod(int fd, mode_t mode) {
  bool last;
  if (!begin(&last, "chmod", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(fd);
  return end(last, ForwardingDisk::chmod(fd, mode));
}

int PowerDisk::chown(int fd, uid_t uid, gid_t gid) {
  bool last;
  if (!begin(&last, "chown", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(fd);
  return end(last, ForwardingDisk::chown(fd, uid, gid));
}

int PowerDisk::utimes(int fd, const struct timespec times[2]) {
  bool last;
  if (!begin(&last, "utimes", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(fd);
  return end(last, ForwardingDisk::utimes(fd, times));
}

int PowerDisk::set_xattr(int fd, const char* name, const std::string& value) {
  bool last;
  if (!begin(&last, "set_xattr", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(fd);
  return end(last, ForwardingDisk::set_xattr(fd, name, value));
}

int PowerDisk::remove_xattr(int fd, const char* name) {
  bool last;
  if (!begin(&last, "remove_xattr", fd)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(fd);
  return end(last, ForwardingDisk::remove_xattr(fd, name));
}

// --- changes of names

int PowerDisk::open(int dir, const char* path, int flags, mode_t mode) {
  if (off_) return -EIO;
  if ((flags & O_CREAT) == 0) return ForwardingDisk::open(dir, path, flags, mode);
  bool last;
  if (!begin(&last, "create", dir, path)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat st {};
  const bool there = ForwardingDisk::stat(dir, path, &st) == 0;
  const char* name;
  const Fd parent = directory_of(dir, path, &name);
  if (!there && parent) save_attributes(parent.get());
  const int fd = ForwardingDisk::open(dir, path, flags, mode);
  if (fd >= 0 && !there) made(parent.get(), name);
  if (last && fd >= 0) ForwardingDisk::close(fd);
  return end(last, fd);
}

int PowerDisk::mkdir(int dir, const char* path, mode_t mode) {
  bool last;
  if (!begin(&last, "mkdir", dir, path)) return -EIO;
  const std::lock_guard lock(mutex_);
  const char* name;
  const Fd parent = directory_of(dir, path, &name);
  if (parent) save_attributes(parent.get());
  const int r = ForwardingDisk::mkdir(dir, path, mode);
  if (r == 0) made(parent.get(), name);
  return end(last, r);
}

int PowerDisk::mknod(int dir, const char* name, mode_t mode, dev_t dev) {
  bool last;
  if (!begin(&last, "mknod", dir, name)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(dir);
  const int r = ForwardingDisk::mknod(dir, name, mode, dev);
  if (r == 0) made(dir, name);
  return end(last, r);
}

int PowerDisk::symlink(const char* target, int dir, const char* name) {
  bool last;
  if (!begin(&last, "symlink", dir, name)) return -EIO;
  const std::lock_guard lock(mutex_);
  save_attributes(dir);
  const int r = ForwardingDisk::symlink(target, dir, name);
  if (r == 0) made(dir, name);
  return end(last, r);
}

int PowerDisk::link(int fd, int dir, const char* name) {
  bool last;
  if (!begin(&last, "link", dir, name)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat st {};
  if (ForwardingDisk::stat(fd, "", &st) < 0) return end(last, -ENOENT);
  if (is_buried(st)) return end(last, -ENOENT);
  save_attributes(dir);
  save_attributes(fd);
  const int r = ForwardingDisk::link(fd, dir, name);
  if (r == 0) made(dir, name);
  return end(last, r);
}

int PowerDisk::unlink(int dir, const char* name, int flags) {
  bool last;
  if (!begin(&last, "unlink", dir, name)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat st {};
  if (const int e = ForwardingDisk::stat(dir, name, &st); e < 0) return end(last, e);
  const bool is_directory = S_ISDIR(st.st_mode);
  if (is_directory != ((flags & AT_REMOVEDIR) != 0) ||
      (is_directory && !directory_is_empty(posix_disk(), dir, name))) {
    // The kernel says why not.
    return end(last, ForwardingDisk::unlink(dir, name, flags));
  }
  save_attributes(dir);
  NameChange change{};
  change.kind = NameChange::kRemoved;
  change.names[0] = name;
  change.buried = key_of(st);
  change.grave = bury(dir, name, st);
  if (change.grave.empty()) return end(last, -EIO);
  save_name(std::move(change), dir, dir);
  return end(last, 0);
}

int PowerDisk::rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) {
  bool last;
  if (!begin(&last, "rename", from_dir, from)) return -EIO;
  const std::lock_guard lock(mutex_);
  struct stat moved {}, target {};
  if (const int e = ForwardingDisk::stat(from_dir, from, &moved); e < 0) return end(last, e);
  const bool over = ForwardingDisk::stat(to_dir, to, &target) == 0;
  NameChange change{};
  change.kind = (flags & RENAME_EXCHANGE) != 0 ? NameChange::kExchanged : NameChange::kRenamed;
  change.object = key_of(moved);
  change.names[0] = from;
  change.names[1] = to;
  save_attributes(from_dir);
  save_attributes(to_dir);
  if (over && flags == 0) {
    if (key_of(moved) == key_of(target)) return end(last, 0);
    if (S_ISDIR(moved.st_mode) != S_ISDIR(target.st_mode) ||
        (S_ISDIR(target.st_mode) && !directory_is_empty(posix_disk(), to_dir, to))) {
      return end(last, ForwardingDisk::rename(from_dir, from, to_dir, to, flags));
    }
    change.buried = key_of(target);
    change.grave = bury(to_dir, to, target);
  }
  if (over && change.kind == NameChange::kExchanged) change.other = key_of(target);
  const int r = ForwardingDisk::rename(from_dir, from, to_dir, to, flags);
  if (r < 0) {
    exhume(change, to_dir, to);
    return end(last, r);
  }
  save_name(std::move(change), from_dir, to_dir);
  return end(last, r);
}

// --- the volume

// The object behind FD was changed.
void PowerDisk::touch(int fd) {
  const std::lock_guard lock(mutex_);
  struct stat st {};
  Object* o = object(fd, &st);
  if (o == nullptr) return;
  if (distinct_ctimes || random_.chance(80)) {
    clock_.tv_nsec += 1000;
    if (clock_.tv_nsec >= 1'000'000'000) clock_ = {clock_.tv_sec + 1, 0};
    o->ctime = clock_;
  } else {
    // Just now: a change that follows may have the same.
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_nsec = 0;
    o->ctime = now;
  }
}

int PowerDisk::VolumeDisk::touched(int result, int fd) {
  if (result >= 0) power_.touch(fd);
  return result;
}

int PowerDisk::VolumeDisk::touched(int result, int dir, const char* name) {
  if (result < 0) return result;
  power_.touch(dir);
  const Fd fd(posix_disk(), posix_disk().open(dir, name, O_PATH | O_NOFOLLOW));
  if (fd) power_.touch(fd.get());
  return result;
}

int PowerDisk::VolumeDisk::open(int dir, const char* path, int flags, mode_t mode) {
  const int fd = ForwardingDisk::open(dir, path, flags, mode);
  return (flags & O_CREAT) != 0 ? touched(fd, dir, path) : fd;
}
ssize_t PowerDisk::VolumeDisk::pwrite(int fd, const void* data, size_t size, uint64_t offset) {
  const ssize_t n = ForwardingDisk::pwrite(fd, data, size, offset);
  if (n >= 0) power_.touch(fd);
  return n;
}
int PowerDisk::VolumeDisk::truncate(int fd, uint64_t size) {
  return touched(ForwardingDisk::truncate(fd, size), fd);
}
int PowerDisk::VolumeDisk::allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  return touched(ForwardingDisk::allocate(fd, mode, offset, length), fd);
}
int PowerDisk::VolumeDisk::chmod(int fd, mode_t mode) {
  return touched(ForwardingDisk::chmod(fd, mode), fd);
}
int PowerDisk::VolumeDisk::chown(int fd, uid_t uid, gid_t gid) {
  return touched(ForwardingDisk::chown(fd, uid, gid), fd);
}
int PowerDisk::VolumeDisk::utimes(int fd, const struct timespec times[2]) {
  return touched(ForwardingDisk::utimes(fd, times), fd);
}
int PowerDisk::VolumeDisk::set_xattr(int fd, const char* name, const std::string& value) {
  return touched(ForwardingDisk::set_xattr(fd, name, value), fd);
}
int PowerDisk::VolumeDisk::remove_xattr(int fd, const char* name) {
  return touched(ForwardingDisk::remove_xattr(fd, name), fd);
}
int PowerDisk::VolumeDisk::mkdir(int dir, const char* name, mode_t mode) {
  return touched(ForwardingDisk::mkdir(dir, name, mode), dir, name);
}
int PowerDisk::VolumeDisk::mknod(int dir, const char* name, mode_t mode, dev_t dev) {
  return touched(ForwardingDisk::mknod(dir, name, mode, dev), dir, name);
}
int PowerDisk::VolumeDisk::symlink(const char* target, int dir, const char* name) {
  return touched(ForwardingDisk::symlink(target, dir, name), dir, name);
}
int PowerDisk::VolumeDisk::link(int fd, int dir, const char* name) {
  return touched(ForwardingDisk::link(fd, dir, name), dir, name);
}
int PowerDisk::VolumeDisk::unlink(int dir, const char* name, int flags) {
  const Fd fd(posix_disk(), posix_disk().open(dir, name, O_PATH | O_NOFOLLOW));
  const int r = touched(ForwardingDisk::unlink(dir, name, flags), dir);
  return fd ? touched(r, fd.get()) : r;
}
int PowerDisk::VolumeDisk::rename(int from_dir, const char* from, int to_dir, const char* to,
                                  unsigned flags) {
  const Fd target(posix_disk(), posix_disk().open(to_dir, to, O_PATH | O_NOFOLLOW));
  const int r = ForwardingDisk::rename(from_dir, from, to_dir, to, flags);
  if (r < 0) return r;
  power_.touch(from_dir);
  if (target) power_.touch(target.get());
  return touched(r, to_dir, to);
}

}  // namespace clonefs::test
