#include "fs/fuse_session.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "fs/own_mount.h"

extern char** environ;

namespace clonefs {

namespace {
constexpr uint32_t kMaxWrite = 1 << 20;
}

// From libfuse's table of functions to nodes and handles.
struct FuseDispatch {
  static FuseSession* session(fuse_req_t req) { return &FuseSession::of(req); }
  static Node* node(fuse_req_t req, fuse_ino_t ino) { return session(req)->node(ino); }

  template <class F>
  static void guard(fuse_req_t req, F&& serve) noexcept {
    try {
      serve();
    } catch (const std::bad_alloc&) {
      fuse_reply_err(req, ENOMEM);
    } catch (...) {
      fuse_reply_err(req, EIO);
    }
  }
  // SERVE gets the handle; a file that has none was opened by nobody.
  template <class F>
  static void with_handle(fuse_req_t req, const fuse_file_info* fi, F&& serve) noexcept {
    Handle* handle = handle_of(fi);
    if (handle == nullptr) {
      fuse_reply_err(req, EBADF);
    } else {
      guard(req, [&] { serve(*handle); });
    }
  }

  static bool ask(fuse_conn_info* conn, uint64_t capability, bool on = true) {
#if FUSE_USE_VERSION >= 317
    if (!on) {
      fuse_unset_feature_flag(conn, capability);
      return false;
    }
    return fuse_set_feature_flag(conn, capability);
#else
    if (!on || (conn->capable & capability) == 0) {
      conn->want &= ~static_cast<unsigned>(capability);
      return false;
    }
    conn->want |= static_cast<unsigned>(capability);
    return true;
#endif
  }

  static void init(void* userdata, fuse_conn_info* conn) noexcept {
    auto* self = static_cast<FuseSession*>(userdata);
    const FuseSessionOptions& options = self->options_;
    const auto want = [&](uint64_t capability) {
      if (ask(conn, capability, (options.without & capability) == 0)) return true;
      self->lacking_ |= capability;
      return false;
    };
    ask(conn, FUSE_CAP_WRITEBACK_CACHE, false);
    want(FUSE_CAP_DONT_MASK);  // default ACLs replace the umask: we apply it
    if (options.posix_acl) want(FUSE_CAP_POSIX_ACL);
    // With it the kernel cuts its cache off once more after an open with O_TRUNC has returned from
    // us (fuse_setattr with ATTR_OPEN), and another's write in between stays in the source only.
    ask(conn, FUSE_CAP_ATOMIC_O_TRUNC, false);
    want(FUSE_CAP_ASYNC_READ);
    want(FUSE_CAP_ASYNC_DIO);
    want(FUSE_CAP_PARALLEL_DIROPS);
    want(FUSE_CAP_READDIRPLUS);
    want(FUSE_CAP_READDIRPLUS_AUTO);
    want(FUSE_CAP_CACHE_SYMLINKS);
    // Locks stay in the kernel. File handles of the mount would outlive our nodes: none is better than
    // one that is stale at times.
    ask(conn, FUSE_CAP_POSIX_LOCKS, false);
    ask(conn, FUSE_CAP_FLOCK_LOCKS, false);
    ask(conn, FUSE_CAP_EXPORT_SUPPORT, false);
#ifdef FUSE_CAP_NO_EXPORT_SUPPORT
    want(FUSE_CAP_NO_EXPORT_SUPPORT);
#endif
    // Nobody else changes the files: what the cache holds is good.
    ask(conn, FUSE_CAP_AUTO_INVAL_DATA, false);
    // Requests through a pipe are slower than one more copy in memory.
    ask(conn, FUSE_CAP_SPLICE_READ, false);
    ask(conn, FUSE_CAP_SPLICE_WRITE, false);
    bool passthrough = false;
#ifdef CLONEFS_HAVE_PASSTHROUGH
    ask(conn, FUSE_CAP_PASSTHROUGH, false);
    if (options.passthrough && !options.writeback && want(FUSE_CAP_PASSTHROUGH)) {
      conn->max_backing_stack_depth = 1;
      passthrough = true;
    }
#endif
    self->passthrough_ = passthrough;
    self->writeback_ = options.writeback && want(FUSE_CAP_WRITEBACK_CACHE);
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
    self->maps_direct_files_ = want(FUSE_CAP_DIRECT_IO_ALLOW_MMAP);
#endif
    // Without it each write costs a request for security.capability. Nodes take set-id bits away
    // themselves; with passthrough an empty SETATTR tells them to (facts/fuse.md 3c).
    ask(conn, FUSE_CAP_HANDLE_KILLPRIV, false);
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
    want(FUSE_CAP_HANDLE_KILLPRIV_V2);
#endif  // else the kernel changes the mode itself, at the price of that request
    conn->max_write = kMaxWrite;
    conn->max_background = 128;
    conn->congestion_threshold = 96;
    conn->time_gran = 1;
    self->max_write_ = conn->max_write;
    self->make_ring();
  }

  // Where there may be a ring libfuse replies through these. (Requests are read by RequestLoop.)
  static ssize_t receive(int fd, void* buffer, size_t size, void*) { return ::read(fd, buffer, size); }
  static ssize_t send(int fd, iovec* iov, int count, void* userdata) {
    return static_cast<FuseSession*>(userdata)->send(fd, iov, count);
  }

  static void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
    guard(req, [&] { node(req, parent)->lookup(req, name); });
  }
  static void forget_one(fuse_req_t req, fuse_ino_t ino, uint64_t count) noexcept {
    if (ino == FUSE_ROOT_ID || ino == 0) return;
    try {
      node(req, ino)->forget(count);
    } catch (...) {  // a destructor's mistake must not end the daemon
    }
  }
  static void forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
    forget_one(req, ino, count);
    fuse_reply_none(req);
  }
  static void forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
    for (size_t i = 0; i < count; ++i) forget_one(req, forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
  }
  static void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
    guard(req, [&] { node(req, ino)->getattr(req, handle_of(fi)); });
  }
  static void setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set,
                      fuse_file_info* fi) {
    guard(req, [&] { node(req, ino)->setattr(req, attr, to_set, handle_of(fi)); });
  }
  static void readlink(fuse_req_t req, fuse_ino_t ino) {
    guard(req, [&] { node(req, ino)->readlink(req); });
  }
  static void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                    dev_t device) {
    guard(req, [&] { node(req, parent)->mknod(req, name, mode, device); });
  }
  static void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
    guard(req, [&] { node(req, parent)->mkdir(req, name, mode); });
  }
  static void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
    guard(req, [&] { node(req, parent)->unlink(req, name); });
  }
  static void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
    guard(req, [&] { node(req, parent)->rmdir(req, name); });
  }
  static void symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
    guard(req, [&] { node(req, parent)->symlink(req, target, name); });
  }
  static void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                     const char* new_name, unsigned flags) {
    guard(req,
          [&] { node(req, parent)->rename(req, name, node(req, new_parent), new_name, flags); });
  }
  static void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
    guard(req, [&] { node(req, parent)->link(req, node(req, ino), name); });
  }
  static void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
    fi->fh = 0;
    guard(req, [&] { node(req, ino)->open(req, fi); });
  }
  static void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                     fuse_file_info* fi) {
    fi->fh = 0;
    guard(req, [&] { node(req, parent)->create(req, name, mode, fi); });
  }
  static void tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, fuse_file_info* fi) {
    fi->fh = 0;
    guard(req, [&] { node(req, parent)->tmpfile(req, mode, fi); });
  }
  static void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
    fi->fh = 0;
    guard(req, [&] { node(req, ino)->opendir(req, fi); });
  }
  static void read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.read(req, size, offset, fi); });
  }
  static void write_buf(fuse_req_t req, fuse_ino_t, fuse_bufvec* data, off_t offset,
                        fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.write(req, data, offset, fi); });
  }
  static void flush(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.flush(req, fi); });
  }
  static void release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
    guard(req, [&] {
      session(req)->released(handle_of(fi));
      fuse_reply_err(req, 0);
    });
  }
  static void fsync(fuse_req_t req, fuse_ino_t, int data_only, fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.fsync(req, data_only != 0, fi); });
  }
  static void readdir(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.readdir(req, size, offset, fi); });
  }
  static void readdirplus(fuse_req_t req, fuse_ino_t, size_t size, off_t offset,
                          fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.readdirplus(req, size, offset, fi); });
  }
  static void statfs(fuse_req_t req, fuse_ino_t ino) {
    guard(req, [&] { node(req, ino == 0 ? FUSE_ROOT_ID : ino)->statfs(req); });
  }
  static void setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value,
                       size_t size, int flags) {
    guard(req, [&] { node(req, ino)->setxattr(req, name, value, size, flags); });
  }
  static void getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, size_t size) {
    guard(req, [&] { node(req, ino)->getxattr(req, name, size); });
  }
  static void listxattr(fuse_req_t req, fuse_ino_t ino, size_t size) {
    guard(req, [&] { node(req, ino)->listxattr(req, size); });
  }
  static void removexattr(fuse_req_t req, fuse_ino_t ino, const char* name) {
    guard(req, [&] { node(req, ino)->removexattr(req, name); });
  }
  static void access(fuse_req_t req, fuse_ino_t ino, int mask) {
    guard(req, [&] { node(req, ino)->access(req, mask); });
  }
  static void fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length,
                        fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.fallocate(req, mode, offset, length); });
  }
  static void copy_file_range(fuse_req_t req, fuse_ino_t, off_t offset, fuse_file_info* fi,
                              fuse_ino_t, off_t to_offset, fuse_file_info* to_fi, size_t length,
                              int flags) {
    with_handle(req, fi, [&](Handle& handle) {
      with_handle(req, to_fi, [&](Handle& to) {
        handle.copy_file_range(req, offset, &to, to_offset, length, flags);
      });
    });
  }
  static void lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* fi) {
    with_handle(req, fi, [&](Handle& handle) { handle.lseek(req, offset, whence); });
  }

  static fuse_lowlevel_ops operations() {
    fuse_lowlevel_ops ops{};
    ops.init = init;
    ops.lookup = lookup;
    ops.forget = forget;
    ops.forget_multi = forget_multi;
    ops.getattr = getattr;
    ops.setattr = setattr;
    ops.readlink = readlink;
    ops.mknod = mknod;
    ops.mkdir = mkdir;
    ops.unlink = unlink;
    ops.rmdir = rmdir;
    ops.symlink = symlink;
    ops.rename = rename;
    ops.link = link;
    ops.open = open;
    ops.create = create;
#if FUSE_USE_VERSION >= 317
    ops.tmpfile = tmpfile;
#endif
    ops.opendir = opendir;
    ops.read = read;
    ops.write_buf = write_buf;
    ops.flush = flush;
    ops.release = release;
    ops.releasedir = release;
    ops.fsync = fsync;
    ops.fsyncdir = fsync;
    ops.readdir = readdir;
    ops.readdirplus = readdirplus;
    ops.statfs = statfs;
    ops.setxattr = setxattr;
    ops.getxattr = getxattr;
    ops.listxattr = listxattr;
    ops.removexattr = removexattr;
    ops.access = access;
    ops.fallocate = fallocate;
    ops.copy_file_range = copy_file_range;
    ops.lseek = lseek;
    return ops;
  }
};

FuseSession::FuseSession(Node* root, FuseSessionOptions options)
    : root_(root), options_(std::move(options)) {}

Result<std::unique_ptr<FuseSession>> FuseSession::create(Node* root, FuseSessionOptions options) {
  std::unique_ptr<FuseSession> self(new FuseSession(root, std::move(options)));
  static const fuse_lowlevel_ops ops = FuseDispatch::operations();

  char* opts = nullptr;
  bool ok = fuse_opt_add_opt(&opts, "default_permissions") == 0 &&
            fuse_opt_add_opt(&opts, "subtype=clonefs") == 0 &&
            fuse_opt_add_opt_escaped(&opts, ("fsname=" + self->options_.source).c_str()) == 0;
  for (const std::string& option : self->options_.mount_options) {
    ok = ok && fuse_opt_add_opt(&opts, option.c_str()) == 0;
  }
  fuse_args args = FUSE_ARGS_INIT(0, nullptr);
  ok = ok && fuse_opt_add_arg(&args, "clonefs") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
       fuse_opt_add_arg(&args, opts) == 0;
  if (ok) self->session_ = fuse_session_new(&args, &ops, sizeof ops, self.get());
  const std::string text = opts == nullptr ? "" : opts;
  fuse_opt_free_args(&args);
  free(opts);
  if (self->session_ == nullptr) {
    return Error{EINVAL, "FUSE does not take the mount options " + text};
  }
  RequestLoop::Callbacks callbacks;
  callbacks.seen = [session = self.get()](const void* request, size_t size) {
    session->look_for_init(request, size);
  };
  callbacks.may_wait = [session = self.get()](uint32_t opcode, uint64_t ino) {
    return session->may_wait(opcode, ino);
  };
  self->loop_ = std::make_unique<RequestLoop>(self->session_, kMaxWrite, self->options_.threads,
                                              std::move(callbacks));
  return self;
}

FuseSession::~FuseSession() {
  if (session_ == nullptr) return;
  if (mounted_) fuse_session_unmount(session_);
  close_handles();
  fuse_session_destroy(session_);
}

bool FuseSession::has_handles() {
  const std::lock_guard lock(handles_mutex_);
  return !handles_.empty();
}

void FuseSession::close_handles() {
  std::lock_guard lock(handles_mutex_);
  for (Handle* handle : handles_) delete handle;
  handles_.clear();
}

void FuseSession::opened(Handle* handle) {
  std::lock_guard lock(handles_mutex_);
  handles_.insert(handle);
}

void FuseSession::released(Handle* handle) {
  {
    std::lock_guard lock(handles_mutex_);
    handles_.erase(handle);
  }
  delete handle;
}

Status FuseSession::mount(const std::string& mountpoint) {
  errno = 0;
  if (fuse_session_mount(session_, mountpoint.c_str()) != 0) {
    // libfuse printed the detail; fusermount3 leaves no errno.
    const int code = errno != 0 ? errno : EPERM;
    return Error{code, "cannot mount at " + mountpoint + ": " + std::strerror(code)};
  }
  mountpoint_ = mountpoint;
  mounted_ = true;
  fuse_custom_io io{};
  io.read = FuseDispatch::receive;
  io.writev = FuseDispatch::send;
  const int fd = fuse_session_fd(session_);
#if FUSE_USE_VERSION >= 317
  const int error = fuse_session_custom_io(session_, &io, sizeof io, fd);
#else
  const int error = fuse_session_custom_io(session_, &io, fd);
#endif
  if (error != 0) {
    return Error{-error, "libfuse takes no transport of ours"};
  }
  return {};
}

// --- io_uring: it is negotiated in INIT, of which libfuse before 3.18 knows nothing ---------------

namespace {
constexpr uint32_t kInitExtended = 1u << 30;            // FUSE_INIT_EXT
constexpr uint32_t kOverIoUring = 1u << (41 - 32);      // FUSE_OVER_IO_URING, in flags2
}  // namespace

void FuseSession::look_for_init(const void* buffer, size_t size) {
  if (max_write_.load(std::memory_order_relaxed) != 0) return;  // INIT was served
  struct {
    fuse_in_header head;
    fuse_init_in init;
  } request{};
  if (size < sizeof request) return;
  std::memcpy(&request, buffer, sizeof request);
  if (request.head.opcode != FUSE_INIT) return;
  init_unique_ = request.head.unique;
  ring_offered_ = (request.init.flags & kInitExtended) != 0 && (request.init.flags2 & kOverIoUring) != 0;
}

bool FuseSession::may_wait(uint32_t opcode, uint64_t ino) const {
  return (ino == 0 ? root_ : node(ino))->may_wait(opcode);
}

void FuseSession::make_ring() {
  if (!ring_offered_) return;
  FuseRing::Callbacks callbacks;
  callbacks.serve = [this](const fuse_buf& request) { fuse_session_process_buf(session_, &request); };
  callbacks.may_wait = [this](uint32_t opcode, uint64_t ino) { return may_wait(opcode, ino); };
  callbacks.failed = [this](int error) {
    spdlog::error("{}: the kernel refuses its requests to io_uring: {}", mountpoint_, std::strerror(error));
    fuse_session_exit(session_);
  };
  auto ring = FuseRing::create(fuse_session_fd(session_), max_write_, std::move(callbacks));
  if (ring) {
    ring_owner_ = std::move(*ring);
    ring_ = ring_owner_.get();
  } else {
    spdlog::warn("{}: no io_uring ({}); requests come through /dev/fuse", mountpoint_, ring.error().message);
  }
}

ssize_t FuseSession::send(int fd, iovec* iov, int count) {
  fuse_out_header head;
  std::memcpy(&head, iov[0].iov_base, sizeof head);
  FuseRing* ring = ring_;
  if (ring == nullptr) return ::writev(fd, iov, count);
  if (head.unique != 0 && ring->reply(iov, count)) return head.len;
  if (head.unique != init_unique_ || head.error != 0) return ::writev(fd, iov, count);

  fuse_init_out init{};
  std::vector<char> answer(head.len);
  size_t at = 0;
  for (int i = 0; i < count; at += iov[i++].iov_len) {
    std::memcpy(answer.data() + at, iov[i].iov_base, iov[i].iov_len);
  }
  if (head.len != sizeof head + sizeof init) return ::writev(fd, iov, count);
  std::memcpy(&init, answer.data() + sizeof head, sizeof init);
  init.flags |= kInitExtended;
  init.flags2 |= kOverIoUring;
  std::memcpy(answer.data() + sizeof head, &init, sizeof init);
  init_unique_ = 0;
  const ssize_t sent = ::write(fd, answer.data(), answer.size());
  if (sent > 0) ring->start();
  return sent;
}

int FuseSession::run() {
  const int result = loop_->run();
  if (ring_owner_) ring_owner_->stop();
  return result;
}

void FuseSession::stop() {
  loop_->stop();
}

namespace {

int run_fusermount(const std::string& mountpoint, bool lazy) {
  std::string path = mountpoint;
  char program[] = "fusermount3", unmount[] = "-u", quiet[] = "-q", later[] = "-z", end[] = "--";
  char* const argv[] = {program, unmount, quiet, lazy ? later : quiet, end, path.data(), nullptr};
  pid_t pid = 0;
  if (const int error = posix_spawnp(&pid, program, nullptr, nullptr, argv, environ); error != 0) {
    return error;
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return errno;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

bool write_value(const std::string& path, const char* value) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = write(fd, value, std::strlen(value)) > 0;
  close(fd);
  return done;
}

}  // namespace

Status FuseSession::unmount(bool lazy) {
  if (!mounted_) return {};
  int error = 0;
  if (geteuid() == 0) {
    if (umount2(mountpoint_.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) != 0) error = errno;
  } else {
    error = run_fusermount(mountpoint_, lazy);
  }
  if (error == EINVAL) error = 0;  // somebody else took it away
  if (error != 0) return Error::from_errno(error, "cannot unmount " + mountpoint_);
  return {};
}

std::vector<std::string> FuseSession::lacks() const {
  struct Lacking {
    uint64_t capability;
    const char* text;
  };
  static const std::vector<Lacking> texts = {  // none with an old libfuse
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
      {FUSE_CAP_HANDLE_KILLPRIV_V2,
       "no HANDLE_KILLPRIV_V2 (Linux 5.12): each write asks for security.capability first"},
#endif
#ifdef FUSE_CAP_NO_EXPORT_SUPPORT
      {FUSE_CAP_NO_EXPORT_SUPPORT,
       "no NO_EXPORT_SUPPORT (Linux 6.8): there are file handles, and they become stale"},
#endif
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
      {FUSE_CAP_DIRECT_IO_ALLOW_MMAP,
       "no DIRECT_IO_ALLOW_MMAP (Linux 6.6): O_DIRECT writes to one file run one after the other"},
#endif
#ifdef CLONEFS_HAVE_PASSTHROUGH
      {FUSE_CAP_PASSTHROUGH, "no PASSTHROUGH (Linux 6.9): the daemon reads and writes drained clones"},
#endif
  };
  std::vector<std::string> lines;
  for (const Lacking& entry : texts) {
    if ((lacking_ & entry.capability) != 0) lines.emplace_back(entry.text);
  }
  if (throttled_) {
    lines.emplace_back("dirty pages limited to this mount's small share (strict_limit: Linux 6.2 and "
                       "root): large buffered writes wait for the daemon sooner");
  }
#ifndef CLONEFS_HAVE_PASSTHROUGH
  lines.emplace_back("a libfuse before 3.17: no O_TMPFILE, and the daemon reads and writes drained clones");
#endif
  return lines;
}

void FuseSession::invalidate_attributes(Node* node) {
  // Attributes alone (-1): to drop pages the kernel may wait for one that is being read.
  fuse_lowlevel_notify_inval_inode(session_, nodeid(node), -1, 0);
}

void FuseSession::invalidate_name(Node* parent, const std::string& name) {
  fuse_lowlevel_notify_inval_entry(session_, nodeid(parent), name.c_str(), name.size());
}

void FuseSession::tune(const std::string& mountpoint) {
  struct statx st {};
  if (statx(AT_FDCWD, mountpoint.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &st) != 0) return;
  const std::string bdi = "/sys/class/bdi/" + std::to_string(st.stx_dev_major) + ":" +
                          std::to_string(st.stx_dev_minor) + "/";
  if (options_.writeback) {
    const bool loose = write_value(bdi + "strict_limit", "0");
    throttled_ = !write_value(bdi + "max_ratio", "100") || !loose;
  }
  // The answer to INIT sets the read-ahead: who gets an answer to another request comes after it.
  (void)on_own_mount([&]() -> Status {
    struct statfs asked {};
    ::statfs(mountpoint.c_str(), &asked);
    return {};
  });
  write_value(bdi + "read_ahead_kb", "512");  // more is slower when the source is fast
}

}  // namespace clonefs
