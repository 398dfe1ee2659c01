#include "fs/clone_node.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "engine/moment.h"
#include "fs/credentials.h"

namespace clonefs {

namespace {

// From a kernel newer than the headers of Debian 12.
struct BackingMap {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};
constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);
constexpr unsigned long kBackingClose = _IOW(229, 2, uint32_t);

[[maybe_unused]] int backing_open(FuseSession* session, int fd) {
  BackingMap map{fd, 0, 0};
  return ::ioctl(fuse_session_fd(session->raw()), kBackingOpen, &map);
}

void backing_close(FuseSession* session, int id) {
  auto number = static_cast<uint32_t>(id);
  ::ioctl(fuse_session_fd(session->raw()), kBackingClose, &number);
}

std::string fd_path(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

constexpr int kAttributes = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
                            FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
                            FUSE_SET_ATTR_CTIME;
// FUSE_SET_ATTR_KILL_SUID and _SGID, which libfuse 3.14 does not name.
constexpr int kKillSetIds = (1 << 11) | (1 << 12);

// What a write by someone without CAP_FSETID takes away. With HANDLE_KILLPRIV_V2 that is up to us.
void drop_set_ids(Disk& disk, int fd) {
  struct stat st {};
  if (disk.stat(fd, "", &st) != 0 || !S_ISREG(st.st_mode)) return;
  mode_t dropped = S_ISUID;
  if ((st.st_mode & S_IXGRP) != 0) dropped |= S_ISGID;
  if ((st.st_mode & dropped) != 0) disk.chmod(fd, st.st_mode & 07777 & ~dropped);
}

}  // namespace

CloneNode::CloneNode(CloneTree& tree, std::shared_ptr<Clone> clone, detail::FileRef ref,
                     uint64_t pool_ino, bool is_root)
    : KeyedNode(tree.nodes_),
      tree_(tree),
      clone_(std::move(clone)),
      ref_(std::move(ref)),
      pool_ino_(pool_ino),
      is_root_(is_root) {}

int CloneNode::read_attributes(struct stat* st) {
  // A failed clone's root is still there, to be looked at and removed.
  if (const int e = clone_->error(); e != 0 && !(is_root_ && e == EIO)) return e;
  const Fd fd = open_ref(O_PATH);
  if (!fd) return -fd.get();
  if (const int e = tree_.space_.disk->stat(fd.get(), "", st); e != 0) return -e;
  notice_passthrough(*st);
  clone_->present(st);
  st->st_ino |= tree_.options_.ino_bits;
  return 0;
}

bool CloneNode::may_wait(uint32_t opcode) const {
  return !only_looks(opcode);
}

int CloneNode::describe(fuse_entry_param* entry) {
  if (const int e = read_attributes(&entry->attr); e != 0) return e;
  entry->generation = 0;
  entry->attr_timeout = entry->entry_timeout = kLongTimeout;
  // Else changed through the other mount. That a clone is gone the kernel is told (ClonesMount).
  if (tree_.options_.read_only) entry->attr_timeout = entry->entry_timeout = 0;
  std::lock_guard lock(mutex_);
  if (opens_.passthrough > 0) entry->attr_timeout = 0;
  return 0;
}

bool CloneNode::notice_passthrough(const struct stat& pool) {
  std::lock_guard lock(mutex_);
  if (opens_.passthrough_writers == 0 || same_time(opens_.pool_ctime, pool.st_ctim)) return false;
  opens_.pool_ctime = pool.st_ctim;
  changed();
  return true;
}

void CloneNode::settle_passthrough(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) == 0 && notice_passthrough(st)) invalidate_attributes();
}

void CloneNode::invalidate_attributes() {
  FuseSession* session = tree_.session_;
  if (session == nullptr) return;
  // The node may be gone by then: the kernel does not know its number any more, or drops attributes
  // that it can ask for again.
  tree_.notifier_->post(
      [session, node = static_cast<Node*>(this)] { session->invalidate_attributes(node); });
}

int CloneNode::refuse_change() const {
  if (tree_.options_.read_only) return EROFS;
  return clone_->refuses_change();
}

int CloneNode::before_names_change(uint64_t victim) {
  const int e = refuse_change();
  return e != 0 ? e : -clone_->about_to_change(pool_ino_, victim);
}

void CloneNode::setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) {
  int e = refuse_change();
  if (e == 0 && (to_set & FUSE_SET_ATTR_SIZE) != 0) {
    e = truncate(static_cast<uint64_t>(attr->st_size), handle);
    if (e == 0) changed();
  }
  // Nothing to set: a write by passthrough is about to begin, for which set-id bits have to go.
  if (e == 0 && ((to_set & kAttributes) == 0 || (to_set & kKillSetIds) != 0)) {
    const Fd fd = open_ref(O_PATH);
    if (fd) drop_set_ids(*tree_.space_.disk, fd.get());
  }
  if (e == 0) e = apply_attributes(*attr, to_set);
  if (e != 0) {
    fuse_reply_err(req, e);
  } else {
    getattr(req, handle);
  }
}

int CloneNode::truncate(uint64_t size, Handle* handle) {
  if (auto* open = dynamic_cast<CloneFileHandle*>(handle); open != nullptr && open->write_) {
    return -open->file_->truncate(size);
  }
  Fd fd;
  if (const int e = open_data(true, &fd); e != 0) return e;
  auto file = tree_.engine_.open_clone_file(clone_, fd.get(), pool_ino_);
  return file ? -(*file)->truncate(size) : file.error().code;
}

int CloneNode::apply_attributes(const struct stat& attr, int to_set) {
  Disk& disk = *tree_.space_.disk;
  const Fd fd = open_ref(O_PATH);
  if (!fd) return -fd.get();
  int e = 0;
  bool any = false;
  if ((to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    e = disk.chown(fd.get(),
                   (to_set & FUSE_SET_ATTR_UID) != 0 ? attr.st_uid : static_cast<uid_t>(-1),
                   (to_set & FUSE_SET_ATTR_GID) != 0 ? attr.st_gid : static_cast<gid_t>(-1));
    any = true;
  }
  if (e == 0 && (to_set & FUSE_SET_ATTR_MODE) != 0) {
    e = disk.chmod(fd.get(), attr.st_mode & 07777);
    any = true;
  }
  if (e == 0 && any) changed();
  if (e == 0 && (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) != 0) {
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
    e = disk.utimes(fd.get(), times);
    if (e == 0) clone_->changed(pool_ino_, times);
  }
  return -e;
}

void CloneNode::readlink(fuse_req_t req) {
  if (const int e = clone_->error(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const Fd fd = open_ref(O_PATH | O_NOFOLLOW);
  std::string target;
  const ssize_t n = fd ? tree_.space_.disk->readlink(fd.get(), &target) : fd.get();
  if (n < 0) {
    fuse_reply_err(req, static_cast<int>(-n));
  } else {
    fuse_reply_readlink(req, target.c_str());
  }
}

void CloneNode::statfs(fuse_req_t req) {
  struct statvfs st {};
  if (const int e = tree_.space_.disk->statvfs(tree_.pool_.get(), &st); e != 0) {
    fuse_reply_err(req, -e);
  } else {
    fuse_reply_statfs(req, &st);
  }
}

void CloneNode::setxattr(fuse_req_t req, const char* name, const char* value, size_t size,
                         int flags) {
  int e = refuse_change();
  if (e == 0) {
    const Fd fd = open_ref(O_PATH);
    if (!fd) {
      e = -fd.get();
    } else if (::setxattr(fd_path(fd.get()).c_str(), name, value, size, flags) != 0) {
      e = errno;
    } else {
      changed();
    }
  }
  fuse_reply_err(req, e);
}

void CloneNode::removexattr(fuse_req_t req, const char* name) {
  int e = refuse_change();
  if (e == 0) {
    const Fd fd = open_ref(O_PATH);
    e = fd ? -tree_.space_.disk->remove_xattr(fd.get(), name) : -fd.get();
    if (e == 0) changed();
  }
  fuse_reply_err(req, e);
}

namespace {

// What getxattr and listxattr have in common: VALUE or the errno -N.
void reply_xattr(fuse_req_t req, ssize_t n, const std::string& value, size_t size) {
  if (n < 0) {
    fuse_reply_err(req, static_cast<int>(-n));
  } else if (size == 0) {
    fuse_reply_xattr(req, value.size());
  } else if (value.size() > size) {
    fuse_reply_err(req, ERANGE);
  } else {
    fuse_reply_buf(req, value.data(), value.size());
  }
}

}  // namespace

void CloneNode::getxattr(fuse_req_t req, const char* name, size_t size) {
  ssize_t n = -clone_->error();
  std::string value;
  if (n == 0) {
    const Fd fd = open_ref(O_PATH);
    n = fd ? tree_.space_.disk->get_xattr(fd.get(), name, &value) : fd.get();
  }
  reply_xattr(req, n, value, size);
}

void CloneNode::listxattr(fuse_req_t req, size_t size) {
  ssize_t n = -clone_->error();
  std::string names;
  if (n == 0) {
    const Fd fd = open_ref(O_PATH);
    n = fd ? tree_.space_.disk->list_xattr(fd.get(), &names) : fd.get();
  }
  reply_xattr(req, n, names_shown_to(req, std::move(names)), size);
}

// --- names ---------------------------------------------------------------------------------------

void CloneNode::lookup(fuse_req_t req, const char* name) {
  if (const int e = clone_->error(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const Fd dir = open_ref(O_PATH);
  if (!dir) {
    fuse_reply_err(req, -dir.get());
    return;
  }
  const Fd fd(*tree_.space_.disk, tree_.space_.disk->open(dir.get(), name, O_PATH | O_NOFOLLOW));
  CloneNode* node = nullptr;
  if (const int e = fd ? tree_.node_of(clone_, fd.get(), &node) : -fd.get(); e != 0) {
    fuse_reply_err(req, e);
  } else {
    reply_entry(req, node);
  }
}

void CloneNode::reply_made(fuse_req_t req, int dir, const char* name, int result) {
  if (result < 0) {
    fuse_reply_err(req, -result);
    return;
  }
  changed();
  Disk& disk = *tree_.space_.disk;
  const Fd fd(disk, disk.open(dir, name, O_PATH | O_NOFOLLOW));
  CloneNode* node = nullptr;
  if (const int e = fd ? tree_.node_of(clone_, fd.get(), &node) : -fd.get(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  node->changed();
  reply_entry(req, node);
}

void CloneNode::mknod(fuse_req_t req, const char* name, mode_t mode, dev_t device) {
  if (const int e = before_names_change(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const Fd dir = open_ref(O_PATH);
  int result = dir.get();
  if (dir) {
    const ActAs caller(req, ActAs::What::kCreate, tree_.options_.switch_ids);
    result = tree_.space_.disk->mknod(dir.get(), name, mode, device);
  }
  reply_made(req, dir.get(), name, result < 0 ? result : 0);
}

void CloneNode::mkdir(fuse_req_t req, const char* name, mode_t mode) {
  if (const int e = before_names_change(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const Fd dir = open_ref(O_PATH);
  int result = dir.get();
  if (dir) {
    const ActAs caller(req, ActAs::What::kCreate, tree_.options_.switch_ids);
    result = tree_.space_.disk->mkdir(dir.get(), name, mode);
  }
  reply_made(req, dir.get(), name, result < 0 ? result : 0);
}

void CloneNode::symlink(fuse_req_t req, const char* target, const char* name) {
  if (const int e = before_names_change(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const Fd dir = open_ref(O_PATH);
  int result = dir.get();
  if (dir) {
    const ActAs caller(req, ActAs::What::kCreate, tree_.options_.switch_ids);
    result = tree_.space_.disk->symlink(target, dir.get(), name);
  }
  reply_made(req, dir.get(), name, result < 0 ? result : 0);
}

void CloneNode::link(fuse_req_t req, Node* target, const char* name) {
  auto* from = dynamic_cast<CloneNode*>(target);
  int result = -before_names_change();
  if (result == 0 &&
      (from == nullptr || &from->tree_ != &tree_ || from->clone_->slot() != clone_->slot())) {
    result = -EXDEV;
  }
  Fd dir;
  if (result == 0) {
    dir = open_ref(O_PATH);
    const Fd fd = from->open_ref(O_PATH);
    result = !dir ? dir.get() : !fd ? fd.get() : tree_.space_.disk->link(fd.get(), dir.get(), name);
  }
  reply_made(req, dir.get(), name, result);
}

void CloneNode::remove(fuse_req_t req, const char* name, int flags) {
  int e = refuse_change();
  if (e == 0) {
    Disk& disk = *tree_.space_.disk;
    const Fd dir = open_ref(O_PATH);
    struct stat st {};
    const bool known = dir && disk.stat(dir.get(), name, &st) == 0;
    if (dir) e = before_names_change(known ? st.st_ino : 0);
    if (e == 0) e = dir ? -disk.unlink(dir.get(), name, flags) : -dir.get();
    if (e == 0) {
      changed();
      if (known && st.st_nlink > 1 && !S_ISDIR(st.st_mode)) clone_->changed(st.st_ino);
    }
  }
  fuse_reply_err(req, e);
}

void CloneNode::unlink(fuse_req_t req, const char* name) {
  remove(req, name, 0);
}
void CloneNode::rmdir(fuse_req_t req, const char* name) {
  remove(req, name, AT_REMOVEDIR);
}

void CloneNode::rename(fuse_req_t req, const char* name, Node* to, const char* new_name,
                       unsigned flags) {
  auto* target = dynamic_cast<CloneNode*>(to);
  int e = refuse_change();
  if (e == 0 &&
      (target == nullptr || &target->tree_ != &tree_ || target->clone_->slot() != clone_->slot())) {
    e = EXDEV;
  }
  if (e == 0) {
    Disk& disk = *tree_.space_.disk;
    const Fd from_dir = open_ref(O_PATH);
    const Fd to_dir = target->open_ref(O_PATH);
    if (!from_dir || !to_dir) {
      e = !from_dir ? -from_dir.get() : -to_dir.get();
    } else {
      struct stat moved {};
      struct stat replaced {};
      const bool has_moved = disk.stat(from_dir.get(), name, &moved) == 0;
      const bool has_replaced = disk.stat(to_dir.get(), new_name, &replaced) == 0;
      e = before_names_change(has_moved ? moved.st_ino : 0);
      if (e == 0) e = target->before_names_change(has_replaced ? replaced.st_ino : 0);
      if (e == 0) e = -disk.rename(from_dir.get(), name, to_dir.get(), new_name, flags);
      if (e == 0) {
        changed();
        if (target != this) target->changed();
        if (has_moved) clone_->changed(moved.st_ino);
        if (has_replaced && (flags != 0 || replaced.st_nlink > 1)) {
          clone_->changed(replaced.st_ino);
        }
      }
    }
  }
  fuse_reply_err(req, e);
}

// --- files ---------------------------------------------------------------------------------------

int CloneNode::open_data(bool write, Fd* fd) const {
  *fd = open_ref((write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_NOATIME);
  if (fd->get() == -EPERM) *fd = open_ref((write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK);
  // A file that its owner may write but not read, served without privileges.
  if (fd->get() == -EACCES && write) *fd = open_ref(O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  return *fd ? 0 : -fd->get();
}

void CloneNode::open(fuse_req_t req, fuse_file_info* fi) {
  const bool write = (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC) != 0;
  int e = write ? refuse_change() : clone_->error();
  Fd fd;
  if (e == 0) e = open_data(write, &fd);
  Handle* handle = nullptr;
  if (e == 0) e = make_handle(req, std::move(fd), fi, &handle);
  if (e != 0) {
    fuse_reply_err(req, e);
  } else {
    reply_open(req, handle, fi);
  }
}

int CloneNode::make_handle(fuse_req_t req, Fd fd, fuse_file_info* fi, Handle** handle) {
  const bool write = (fi->flags & O_ACCMODE) != O_RDONLY;
  auto use = clone_->use(write);
  if (use == nullptr) return ESTALE;
  if (const int e = write ? clone_->refuses_change() : 0; e != 0) return e;  // since it was asked
  auto file = tree_.engine_.open_clone_file(clone_, fd.get(), pool_ino_);
  if (!file) return file.error().code;
  if ((fi->flags & O_TRUNC) != 0) {
    if (const int e = (*file)->truncate(0); e != 0) return -e;
    if (fuse_req_ctx(req)->uid != 0) drop_set_ids(*tree_.space_.disk, fd.get());
    changed();
  }
  if (!write) fi->noflush = 1;  // its close tells us nothing
  const bool passthrough = begin_open(**file, fd.get(), write, fi);
  if (passthrough && write) {
    // What is written from now on is not seen.
    if (const int e = clone_->about_to_change(pool_ino_); e != 0) {
      end_open(true, true);
      return -e;
    }
  }
  *handle = new CloneFileHandle(this, std::move(fd), std::move(*file), std::move(use), passthrough,
                                write);
  return 0;
}

bool CloneNode::begin_open(const CloneFile& file, int fd, bool write, fuse_file_info* fi) {
  std::lock_guard lock(mutex_);
  if (tree_.options_.read_only) fi->direct_io = 1;
#ifdef CLONEFS_HAVE_PASSTHROUGH
  FuseSession* session = tree_.session_;
  if (session != nullptr && session->passthrough() && opens_.cached == 0) {
    if (opens_.passthrough == 0 && file.drained()) {
      const int id = backing_open(session, fd);
      opens_.backing_id = std::max(id, 0);
    }
    if (opens_.backing_id > 0) {
      opens_.passthrough++;
      struct stat st {};
      if (write && opens_.passthrough_writers++ == 0 && tree_.space_.disk->stat(fd, "", &st) == 0)
        opens_.pool_ctime = st.st_ctim;
      opens_.was_passthrough = true;
      fi->backing_id = opens_.backing_id;
      fi->keep_cache = 0;
      // From now on they are asked for each time: mapped writes move them unseen.
      if (write) invalidate_attributes();
      return true;
    }
  }
#else
  (void)file;
  (void)fd;
#endif
  fi->keep_cache = !opens_.was_passthrough && (fi->flags & O_TRUNC) == 0;
  opens_.cached++;
  if (write) opens_.cached_writers++;
  return false;
}

void CloneNode::end_open(bool passthrough, bool write) {
  std::lock_guard lock(mutex_);
  if (passthrough && write) opens_.passthrough_writers--;
  if (!passthrough) {
    opens_.cached--;
    if (write) opens_.cached_writers--;
  } else if (--opens_.passthrough == 0) {
    if (FuseSession* session = tree_.session_; session != nullptr) {
      backing_close(session, opens_.backing_id);
    }
    opens_.backing_id = 0;
  }
}

void CloneNode::create(fuse_req_t req, const char* name, mode_t mode, fuse_file_info* fi) {
  int e = before_names_change();
  Fd dir;
  Fd fd;
  Disk& disk = *tree_.space_.disk;
  if (e == 0) {
    dir = open_ref(O_PATH);
    e = dir ? 0 : -dir.get();
  }
  if (e == 0) {
    const ActAs caller(req, ActAs::What::kCreate, tree_.options_.switch_ids);
    const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | (fi->flags & O_EXCL);
    fd = Fd(disk, disk.open(dir.get(), name, flags, mode));
    e = fd ? 0 : -fd.get();
  }
  CloneNode* node = nullptr;
  if (e == 0) {
    changed();
    e = tree_.node_of(clone_, fd.get(), &node);
  }
  Handle* handle = nullptr;
  if (e == 0) {
    node->changed();
    e = node->make_handle(req, std::move(fd), fi, &handle);
    if (e != 0) node->forget(1);
  }
  if (e != 0) {
    fuse_reply_err(req, e);
  } else {
    reply_create(req, node, handle, fi);
  }
}

void CloneNode::tmpfile(fuse_req_t req, mode_t mode, fuse_file_info* fi) {
  int e = refuse_change();
  Fd fd;
  if (e == 0) {
    const Fd dir = open_ref(O_PATH);
    if (dir) {
      const ActAs caller(req, ActAs::What::kCreate, tree_.options_.switch_ids);
      fd = Fd(
          *tree_.space_.disk,
          tree_.space_.disk->open(dir.get(), ".", O_RDWR | O_TMPFILE | (fi->flags & O_EXCL), mode));
      e = fd ? 0 : -fd.get();
    } else {
      e = -dir.get();
    }
  }
  CloneNode* node = nullptr;
  if (e == 0) e = tree_.node_of(clone_, fd.get(), &node);
  Handle* handle = nullptr;
  if (e == 0) {
    node->changed();
    e = node->make_handle(req, std::move(fd), fi, &handle);
    if (e != 0) node->forget(1);
  }
  if (e != 0) {
    fuse_reply_err(req, e);
  } else {
    reply_create(req, node, handle, fi);
  }
}

CloneFileHandle::~CloneFileHandle() {
  if (passthrough_ && write_) node_->settle_passthrough(fd_.get());
  node_->end_open(passthrough_, write_);
}

void CloneFileHandle::read(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  if (const int e = error(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  char* buffer = reply_space(size);
  size_t done = 0;
  ssize_t n = 0;
  while (done < size) {  // a short read would be taken for the end of the file
    n = file_->read(buffer + done, size - done, static_cast<uint64_t>(offset) + done);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  if (n < 0 && done == 0) {
    fuse_reply_err(req, static_cast<int>(-n));
  } else {
    fuse_reply_buf(req, buffer, done);
  }
}

void CloneFileHandle::write(fuse_req_t req, fuse_bufvec* data, off_t offset, fuse_file_info*) {
  if (const int e = node_->refuse_change(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  const ssize_t n = file_->write(data->buf[0].mem, fuse_buf_size(data), static_cast<uint64_t>(offset));
  if (n < 0) {
    fuse_reply_err(req, static_cast<int>(-n));
    return;
  }
  if (fuse_req_ctx(req)->uid != 0) drop_set_ids(*node_->tree_.space_.disk, fd_.get());
  node_->changed();
  fuse_reply_write(req, static_cast<size_t>(n));
}

void CloneFileHandle::flush(fuse_req_t req, fuse_file_info*) {
  if (passthrough_ && write_) node_->settle_passthrough(fd_.get());
  fuse_reply_err(req, 0);
}

void CloneFileHandle::fsync(fuse_req_t req, bool data_only, fuse_file_info*) {
  fuse_reply_err(req, -file_->sync(data_only));
}

void CloneFileHandle::fallocate(fuse_req_t req, int mode, off_t offset, off_t length) {
  int e = node_->refuse_change();
  if (e == 0) {
    e = -file_->allocate(mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
    if (e == 0 && fuse_req_ctx(req)->uid != 0) drop_set_ids(*node_->tree_.space_.disk, fd_.get());
    if (e == 0) node_->changed();
  }
  fuse_reply_err(req, e);
}

void CloneFileHandle::lseek(fuse_req_t req, off_t offset, int whence) {
  if (const int e = error(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  bool all_data = false;
  {
    // Mapped pages may be dirty in the kernel alone: nothing is known to be a hole then.
    std::lock_guard lock(node_->mutex_);
    all_data = node_->opens_.cached_writers > 0;
  }
  int64_t result = 0;
  if (all_data) {
    struct stat st {};
    if (::fstat(fd_.get(), &st) != 0) {
      result = -errno;
    } else if (offset < 0 || offset >= st.st_size) {
      result = -ENXIO;
    } else {
      result = whence == SEEK_DATA ? offset : st.st_size;
    }
  } else {
    result = offset < 0 ? -ENXIO : file_->seek(static_cast<uint64_t>(offset), whence);
  }
  if (result < 0) {
    fuse_reply_err(req, static_cast<int>(-result));
  } else {
    fuse_reply_lseek(req, result);
  }
}

// --- directories ---------------------------------------------------------------------------------

void CloneNode::opendir(fuse_req_t req, fuse_file_info* fi) {
  if (const int e = clone_->error(); e != 0) {
    fuse_reply_err(req, e);
    return;
  }
  auto use = clone_->use();
  if (use == nullptr) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  Fd fd = open_ref(O_RDONLY | O_DIRECTORY | O_NOATIME);
  if (fd.get() == -EPERM) fd = open_ref(O_RDONLY | O_DIRECTORY);
  if (!fd) {
    fuse_reply_err(req, -fd.get());
    return;
  }
  DIR* directory = ::fdopendir(fd.get());
  if (directory == nullptr) {
    fuse_reply_err(req, errno);
    return;
  }
  fd.release();
  // Where nothing changes but through this mount, the kernel may keep the listing.
  fi->cache_readdir = fi->keep_cache = tree_.options_.read_only ? 0 : 1;
  reply_open(req, new CloneDirHandle(this, std::move(use), directory), fi);
}

void CloneDirHandle::fsync(fuse_req_t req, bool data_only, fuse_file_info*) {
  const int fd = ::dirfd(directory_);
  fuse_reply_err(req, (data_only ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno);
}

void CloneDirHandle::list(fuse_req_t req, size_t size, off_t offset, bool plus) {
  std::vector<char> buffer(size);
  // Replied to without the lock: once the kernel has the reply, this may be released.
  if (const int e = fill(req, offset, plus, &buffer); e != 0) {
    fuse_reply_err(req, e);
  } else {
    fuse_reply_buf(req, buffer.data(), buffer.size());
  }
}

int CloneDirHandle::fill(fuse_req_t req, off_t offset, bool plus, std::vector<char>* buffer) {
  if (const int e = node_->clone_->error(); e != 0) return e;
  CloneTree& tree = node_->tree_;
  Disk& disk = *tree.space_.disk;
  std::lock_guard lock(mutex_);
  if (offset == 0) {
    ::rewinddir(directory_);
  } else if (offset != position_) {
    ::seekdir(directory_, offset);
  }
  position_ = offset;
  size_t used = 0;
  while (true) {
    errno = 0;
    const dirent* found = ::readdir(directory_);
    if (found == nullptr) {
      if (errno != 0 && used == 0) return errno;
      break;
    }
    fuse_entry_param entry{};
    entry.attr.st_mode = DTTOIF(found->d_type);
    entry.attr.st_ino = node_->clone_->present_ino(found->d_ino) | tree.options_.ino_bits;
    const bool dots = std::strcmp(found->d_name, ".") == 0 || std::strcmp(found->d_name, "..") == 0;
    CloneNode* child = nullptr;
    if (plus && !dots) {
      const Fd fd(disk, disk.open(::dirfd(directory_), found->d_name, O_PATH | O_NOFOLLOW));
      if (fd && tree.node_of(node_->clone_, fd.get(), &child) == 0) {
        if (child->describe(&entry) == 0) {
          entry.ino = nodeid_of(child);
        } else {
          child->forget(1);
          child = nullptr;
        }
      }
    }
    char* place = buffer->data() + used;
    const size_t left = buffer->size() - used;
    const size_t length =
        plus ? fuse_add_direntry_plus(req, place, left, found->d_name, &entry, found->d_off)
             : fuse_add_direntry(req, place, left, found->d_name, &entry.attr, found->d_off);
    if (length > left) {
      if (child != nullptr) child->forget(1);
      ::seekdir(directory_, position_);
      break;
    }
    used += length;
    position_ = found->d_off;
  }
  buffer->resize(used);
  return 0;
}

}  // namespace clonefs
