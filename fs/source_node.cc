#include "fs/source_node.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>

#include "engine/moment.h"
#include "fs/credentials.h"

namespace clonefs {
namespace {

// With set-id bits a write may take them away, and the kernel would go on showing the old mode.
double attr_timeout(const struct stat& st) {
  return S_ISREG(st.st_mode) && (st.st_mode & (S_ISUID | S_ISGID)) != 0 ? 0 : kLongTimeout;
}

}  // namespace

ino_t shown_ino(dev_t device, ino_t ino, dev_t volume_device) {
  if (device == volume_device) return ino;
  const uint64_t mark = (device * 0x9e3779b97f4a7c15u) >> 49;  // 15 bits: stays positive
  return ino ^ ((mark | 1) << 48);
}

SourceNode::SourceNode(SourceVolume& volume, const struct stat& st, HandleBytes handle,
                       std::shared_ptr<const HandleSpace> space)
    : volume_(volume),
      key_{st.st_dev, st.st_ino},
      handle_(std::move(handle)),
      space_(std::move(space)) {}

SourceNode::~SourceNode() {
  volume_.descriptors.remove(this);
  if (location_) location_->directory->forget(1);
}

FdUse SourceNode::use() {
  {
    std::lock_guard lock(mutex_);
    if (fd_) return FdUse(fd_);
  }
  UniqueFd fd(reopen());
  if (!fd) return FdUse(errno);
  if (!keeps_descriptor()) return FdUse(std::move(fd));
  auto shared = std::make_shared<const UniqueFd>(std::move(fd));
  volume_.descriptors.put(this, shared);
  return FdUse(std::move(shared));
}

int SourceNode::reopen() {
  return handle_.empty() ? reopen_by_name() : open_handle(*space_, handle_, O_PATH);
}

int SourceNode::reopen_by_name() {
  // A rename may be quicker, more than once.
  for (int attempt = 0; attempt < 100; ++attempt) {
    SourceDirectory* directory = nullptr;
    std::string name;
    {
      std::lock_guard lock(mutex_);
      if (fd_) return fcntl(fd_->get(), F_DUPFD_CLOEXEC, 0);
      if (!location_) break;
      directory = location_->directory;
      directory->remember();
      name = location_->name;
    }
    UniqueFd fd;
    int error = 0;
    {
      const FdUse dir = directory->use();
      error = dir.error();
      if (dir) {
        fd.reset(openat(dir.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (!fd) error = errno;
      }
    }
    const bool moved = !is_located_at(directory, name.c_str());
    directory->forget(1);
    struct stat st {};
    if (fd && fstat(fd.get(), &st) == 0 && key_ == NodeTable::Key{st.st_dev, st.st_ino}) {
      return fd.release();
    }
    if (!moved && error != 0 && error != ENOENT) {
      errno = error;
      return -1;
    }
  }
  errno = ESTALE;
  return -1;
}

void SourceNode::located_at(SourceDirectory* directory, const char* name) {
  std::unique_ptr<Location> old;
  {
    std::lock_guard lock(mutex_);
    if (location_ && location_->directory == directory && location_->name == name) return;
    directory->remember();
    old = std::exchange(location_, std::make_unique<Location>(Location{directory, name}));
  }
  if (old) old->directory->forget(1);
}

bool SourceNode::is_located_at(const SourceDirectory* directory, const char* name) {
  std::lock_guard lock(mutex_);
  return location_ && location_->directory == directory && location_->name == name;
}

int SourceNode::open_object(int flags) {
  if (!handle_.empty()) {
    std::unique_lock lock(mutex_);
    if (!fd_) {
      lock.unlock();
      return open_handle(*space_, handle_, flags);
    }
  }
  const FdUse fd = use();
  if (!fd) {
    errno = fd.error();
    return -1;
  }
  return ::open(ProcPath(fd.get()).get(), (flags & ~O_NOFOLLOW) | O_CLOEXEC);
}

void SourceNode::kernel_mtime_is(const timespec& mtime) {
  std::lock_guard lock(mutex_);
  kernel_mtime_ = mtime;
}

void SourceNode::restore_mtime(int fd) {
  if (!volume_.options().writeback || !mtime_moved_.load(std::memory_order_acquire)) return;
  // First the change, then the mark: who finds the mark taken away must be able to wait for what it
  // stood for, and the fence does.
  const Change change = volume_.engine().change_attributes(id());
  if (change.error() != 0 || !mtime_moved_.exchange(false)) return;
  FdUse object;
  if (fd < 0) object = use();
  if (!object) return;
  const ProcPath path(fd < 0 ? object.get() : fd);
  timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      // The kernel may set another one meanwhile, and that must not be the one that is overwritten.
      if (same_time(times[1], kernel_mtime_)) return;
      times[1] = kernel_mtime_;
    }
    utimensat(AT_FDCWD, path.get(), times, 0);
  }
}

void SourceNode::fill(fuse_entry_param* entry, const struct stat& st) const {
  entry->attr = st;
  entry->attr.st_ino = shown_ino(st.st_dev, st.st_ino, volume_.device());
  entry->attr_timeout = attr_timeout(st);
  entry->entry_timeout = kLongTimeout;
}

bool SourceNode::may_wait(uint32_t opcode) const {
  if (only_looks(opcode)) return false;
  switch (opcode) {
    case FUSE_OPEN:
    case FUSE_READ:
    case FUSE_LSEEK:
      return false;
    case FUSE_FLUSH:
      return volume_.close_tells();
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
      return true;
    default:  // changes
      return volume_.engine().changes_may_wait();
  }
}

int SourceNode::describe(fuse_entry_param* entry) {
  const FdUse fd = use();
  if (!fd) return fd.error();
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) return errno;
  fill(entry, st);
  return 0;
}

void SourceNode::reply_attributes(fuse_req_t req, int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0) {
    fuse_reply_err(req, errno);
    return;
  }
  fuse_entry_param entry{};
  fill(&entry, st);
  fuse_reply_attr(req, &entry.attr, entry.attr_timeout);
}

void SourceNode::getattr(fuse_req_t req, Handle* handle) {
  if (auto* file = dynamic_cast<SourceFile*>(handle)) {
    reply_attributes(req, file->fd());
    return;
  }
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
  } else {
    reply_attributes(req, fd.get());
  }
}

int SourceNode::set_attributes(fuse_req_t req, const struct stat& attr, int to_set,
                               SourceFile* file, int path_fd) {
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) {
    UniqueFd opened;
    int fd = file != nullptr ? file->fd() : -1;
    int readable = file != nullptr ? file->readable_fd() : -1;
    if (file == nullptr) {
      opened.reset(open_object(O_RDWR));
      readable = opened.get();
      if (!opened && (errno == EACCES || errno == EPERM)) opened.reset(open_object(O_WRONLY));
      if (!opened) return errno;
      fd = opened.get();
    }
    const Change change =
        volume_.engine().change_size(id(), readable, static_cast<uint64_t>(attr.st_size));
    if (change.error() != 0) return change.error();
    // As the caller: set-id bits go as they do without us.
    const ActAs caller(req, ActAs::What::kIds, volume_.options().switch_ids);
    if (ftruncate(fd, attr.st_size) != 0) return errno;
  }
  constexpr int kTimes =
      FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;
  constexpr int kOthers = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | kTimes;
  if ((to_set & kOthers) == 0) return 0;

  const Change change = volume_.engine().change_attributes(id());
  if (change.error() != 0) return change.error();
  // The kernel has checked the caller's right (default_permissions) and dropped a set-gid bit that
  // the caller may not give.
  if ((to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    const uid_t uid = (to_set & FUSE_SET_ATTR_UID) != 0 ? attr.st_uid : static_cast<uid_t>(-1);
    const gid_t gid = (to_set & FUSE_SET_ATTR_GID) != 0 ? attr.st_gid : static_cast<gid_t>(-1);
    if (fchownat(path_fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  }
  if ((to_set & FUSE_SET_ATTR_MODE) != 0 &&
      chmod(ProcPath(path_fd).get(), attr.st_mode & 07777) != 0) {
    return errno;
  }
  if ((to_set & kTimes) != 0) {
    timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    if ((to_set & FUSE_SET_ATTR_ATIME_NOW) != 0) {
      times[0].tv_nsec = UTIME_NOW;
    } else if ((to_set & FUSE_SET_ATTR_ATIME) != 0) {
      times[0] = attr.st_atim;
    }
    if ((to_set & FUSE_SET_ATTR_MTIME_NOW) != 0) {
      times[1].tv_nsec = UTIME_NOW;
    } else if ((to_set & FUSE_SET_ATTR_MTIME) != 0) {
      times[1] = attr.st_mtim;
    }
    const bool sets_mtime = times[1].tv_nsec != UTIME_OMIT;
    if (sets_mtime) {
      if (times[1].tv_nsec != UTIME_NOW) kernel_mtime_is(times[1]);
      mtime_moved_ = false;
    }
    if (utimensat(AT_FDCWD, ProcPath(path_fd).get(), times, 0) != 0) return errno;
    struct stat st {};
    if (sets_mtime && times[1].tv_nsec == UTIME_NOW && fstat(path_fd, &st) == 0) {
      kernel_mtime_is(st.st_mtim);
    }
  }
  return 0;
}

void SourceNode::setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) {
  auto* file = dynamic_cast<SourceFile*>(handle);
  FdUse path;
  if (file == nullptr) path = use();
  if (!path) {
    fuse_reply_err(req, path.error());
    return;
  }
  const int fd = file != nullptr ? file->fd() : path.get();
  if (const int error = set_attributes(req, *attr, to_set, file, fd); error != 0) {
    fuse_reply_err(req, error);
  } else {
    reply_attributes(req, fd);
  }
}

void SourceNode::readlink(fuse_req_t req) {
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
    return;
  }
  char target[PATH_MAX + 1];
  const ssize_t length = readlinkat(fd.get(), "", target, sizeof target);
  if (length < 0) {
    fuse_reply_err(req, errno);
  } else if (static_cast<size_t>(length) == sizeof target) {
    fuse_reply_err(req, ENAMETOOLONG);
  } else {
    target[length] = '\0';
    fuse_reply_readlink(req, target);
  }
}

void SourceNode::statfs(fuse_req_t req) {
  const FdUse fd = use();
  struct statvfs stats {};
  if (!fd) {
    fuse_reply_err(req, fd.error());
  } else if (fstatvfs(fd.get(), &stats) != 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_statfs(req, &stats);
  }
}

void SourceNode::setxattr(fuse_req_t req, const char* name, const char* value, size_t size,
                          int flags) {
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
    return;
  }
  const ProcPath path(fd.get());
  int error = 0;
  {
    const Change change = volume_.engine().change_attributes(id());
    error = change.error();
    if (error == 0) {
      const bool is_acl = std::string_view(name).starts_with("system.posix_acl_");
      const bool as_caller = is_acl && volume_.options().switch_ids;
      bool done = false;
      if (as_caller) {  // an ACL sets the mode: a set-gid bit goes as it does without us
        const ActAs caller(req, ActAs::What::kCreate, true);
        done = ::setxattr(path.get(), name, value, size, flags) == 0;
        error = done ? 0 : errno;
      }
      // The kernel has checked; a caller with CAP_FOWNER is not the owner.
      if (!done && (!as_caller || error == EPERM)) {
        error = ::setxattr(path.get(), name, value, size, flags) == 0 ? 0 : errno;
      }
    }
  }
  fuse_reply_err(req, error);
}

void SourceNode::getxattr(fuse_req_t req, const char* name, size_t size) {
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
    return;
  }
  std::string value(size, '\0');
  const ssize_t length = ::getxattr(ProcPath(fd.get()).get(), name, value.data(), size);
  if (length < 0) {
    fuse_reply_err(req, errno);
  } else if (size == 0) {
    fuse_reply_xattr(req, static_cast<size_t>(length));
  } else {
    fuse_reply_buf(req, value.data(), static_cast<size_t>(length));
  }
}

void SourceNode::listxattr(fuse_req_t req, size_t size) {
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
    return;
  }
  const ProcPath path(fd.get());
  std::string names(XATTR_LIST_MAX, '\0');
  const ssize_t length = ::listxattr(path.get(), names.data(), names.size());
  if (length < 0) {
    fuse_reply_err(req, errno);
    return;
  }
  names.resize(static_cast<size_t>(length));
  names = names_shown_to(req, std::move(names));
  if (size == 0) {
    fuse_reply_xattr(req, names.size());
  } else if (names.size() > size) {
    fuse_reply_err(req, ERANGE);
  } else {
    fuse_reply_buf(req, names.data(), names.size());
  }
}

void SourceNode::removexattr(fuse_req_t req, const char* name) {
  const FdUse fd = use();
  if (!fd) {
    fuse_reply_err(req, fd.error());
    return;
  }
  int error = 0;
  {
    const Change change = volume_.engine().change_attributes(id());
    error = change.error();
    if (error == 0 && ::removexattr(ProcPath(fd.get()).get(), name) != 0) error = errno;
  }
  fuse_reply_err(req, error);
}

void SourceNode::open(fuse_req_t req, fuse_file_info* fi) {
  SourceFile::choose_caching(req, volume_.options().writeback, fi);
  if (volume_.self->is_helper(fuse_req_ctx(req)->pid)) {
    reply_open(req, new FlushHandle(*this), fi);
    return;
  }
  int flags = SourceFile::backing_flags(fi->flags, volume_.options());
  UniqueFd fd(open_object(flags));
  if (!fd && (errno == EACCES || errno == EPERM)) {
    // An ordinary user's daemon, and a file that the user may write but not read, or O_NOATIME.
    flags = (flags & ~(O_ACCMODE | O_NOATIME)) | (fi->flags & O_ACCMODE);
    fd.reset(open_object(flags));
    // The kernel would read through this handle what a partial page lacks.
    if ((flags & O_ACCMODE) == O_WRONLY) fi->direct_io = 1;
  }
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) != 0) {
    fuse_reply_err(req, errno);
    return;
  }
  auto file = std::make_unique<SourceFile>(*this, std::move(fd), flags, st);
  if ((fi->flags & O_TRUNC) != 0) {
    int error = 0;
    {
      const Change change = volume_.engine().change_size(id(), file->readable_fd(), 0);
      error = change.error();
      if (error == 0) {
        const ActAs caller(req, ActAs::What::kIds, volume_.options().switch_ids);
        if (ftruncate(file->fd(), 0) != 0) error = errno;
        mtime_moved();
      }
    }
    if (error != 0) {
      fuse_reply_err(req, error);
      return;
    }
  }
  reply_open(req, file.release(), fi);
}

}  // namespace clonefs
