#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fs/credentials.h"
#include "fs/fuse_session.h"
#include "fs/source_node.h"

namespace clonefs {
namespace {

// One request copies no more, so that the tracks of the target are not held for long; the caller
// goes on from there. A multiple of any block, so that extents can be shared.
constexpr size_t kMaxCopy = size_t{128} << 20;

constexpr size_t kLargeRead = size_t{128} << 10;
constexpr int kReadUncached = 0x80;  // RWF_DONTCACHE, Linux 6.14

ByteRange range_of(off_t offset, off_t length) {
  return {static_cast<uint64_t>(offset), static_cast<uint64_t>(length)};
}

}  // namespace

// O_RDWR for O_WRONLY: the kernel reads, through any handle, what a partly written page lacks, and
// so does the engine before a track is overwritten. The rest of the flags is the kernel's affair:
// it picks the offset of an append; a write-back is not aligned as O_DIRECT wants it; and with the
// writeback cache it sends an fsync for what is O_SYNC.
int SourceFile::backing_flags(int flags, const VolumeOptions& options) {
  int result = flags & ~(O_APPEND | O_DIRECT | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_NOFOLLOW);
  if (options.writeback) result &= ~(O_SYNC | O_DSYNC);
  if (options.no_atime) result |= O_NOATIME;
  if ((result & O_ACCMODE) == O_WRONLY) result = (result & ~O_ACCMODE) | O_RDWR;
  return result | O_NONBLOCK | O_CLOEXEC;
}

void SourceFile::choose_caching(fuse_req_t req, bool writeback, fuse_file_info* fi) {
  fi->keep_cache = 1;  // nobody else changes the file
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
  // Writes of several threads at a time. Not with the writeback cache: the kernel owns the mtime
  // there, and does not move it for these.
  if ((fi->flags & O_DIRECT) != 0 && !writeback && FuseSession::of(req).maps_direct_files()) {
    fi->direct_io = fi->parallel_direct_writes = 1;
  }
#else
  (void)req, (void)writeback;
#endif
}

SourceFile::SourceFile(SourceNode& node, UniqueFd fd, int flags, const struct stat& st)
    : node_(node),
      fd_(std::move(fd)),
      writable_((flags & O_ACCMODE) != O_RDONLY),
      readable_((flags & O_ACCMODE) != O_WRONLY) {
  if (writable_) node_.volume().writable.add(&node_, st.st_mtim);
}

SourceFile::~SourceFile() {
  if (!writable_) return;
  node_.restore_mtime(fd_.get());
  node_.volume().writable.remove(&node_);
}

void SourceFile::read(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  const Engine::Foreground foreground(node_.volume().engine());
  char* buffer = reply_space(size);
  // The kernel keeps what it reads ahead in the mount's cache: once is enough.
  std::atomic<bool>& uncached = node_.volume().reads_uncached;
  int flags = size >= kLargeRead && uncached ? kReadUncached : 0;
  size_t done = 0;
  while (done < size) {
    const iovec rest{buffer + done, size - done};
    const ssize_t got = preadv2(fd_.get(), &rest, 1, offset + static_cast<off_t>(done), flags);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EOPNOTSUPP && flags != 0) {
      uncached = false;
      flags = 0;
      continue;
    }
    if (got < 0 && done == 0) {
      fuse_reply_err(req, errno);
      return;
    }
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  fuse_reply_buf(req, buffer, done);
}

void SourceFile::write(fuse_req_t req, fuse_bufvec* data, off_t offset, fuse_file_info* fi) {
  const size_t size = fuse_buf_size(data);
  ssize_t written = 0;
  {
    const Change change = node_.volume().engine().change_data(
        node_.id(), readable_fd(), range_of(offset, static_cast<off_t>(size)));
    if (change.error() != 0) {
      written = -change.error();
    } else {
      fuse_bufvec to = FUSE_BUFVEC_INIT(size);
      to.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
      to.buf[0].fd = fd_.get();
      to.buf[0].pos = offset;
      // As the caller: set-id bits go as they do without us. A write-back has no caller.
      const ActAs caller(req, ActAs::What::kIds,
                         node_.volume().options().switch_ids && fi->writepage == 0);
      written = fuse_buf_copy(&to, data, static_cast<fuse_buf_copy_flags>(0));
      node_.mtime_moved();
    }
  }
  if (written < 0) {
    fuse_reply_err(req, static_cast<int>(-written));
  } else {
    fuse_reply_write(req, static_cast<size_t>(written));
  }
}

// Where closing a file tells nothing the kernel need not ask: after ENOSYS it saves the round trip,
// and goes on to write back, and to tell its own errors, at each close.
void SourceFile::flush(fuse_req_t req, fuse_file_info*) {
  int error = 0;
  if (!node_.volume().close_tells()) {
    error = ENOSYS;
  } else if (writable_) {
    node_.restore_mtime(fd_.get());
    const int copy = fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0);
    if (copy >= 0 && close(copy) != 0) error = errno;
  }
  fuse_reply_err(req, error);
}

void SourceFile::fsync(fuse_req_t req, bool data_only, fuse_file_info*) {
  const Engine::Foreground foreground(node_.volume().engine());
  if (!data_only) node_.restore_mtime(fd_.get());
  const int result = data_only ? fdatasync(fd_.get()) : ::fsync(fd_.get());
  fuse_reply_err(req, result == 0 ? 0 : errno);
}

void SourceFile::fallocate(fuse_req_t req, int mode, off_t offset, off_t length) {
  int error = 0;
  {
    const Change change =
        node_.volume().engine().change_data(node_.id(), readable_fd(), range_of(offset, length));
    error = change.error();
    if (error == 0) {
      const ActAs caller(req, ActAs::What::kIds, node_.volume().options().switch_ids);
      if (::fallocate(fd_.get(), mode, offset, length) != 0) error = errno;
      node_.mtime_moved();
    }
  }
  fuse_reply_err(req, error);
}

// Where nobody has the file open for writing, the source knows its holes. Else pages that the
// kernel has not written back yet may lie in what is a hole there: then all up to the size that
// applications see is data.
void SourceFile::lseek(fuse_req_t req, off_t offset, int whence) {
  if (!node_.volume().options().writeback || !node_.volume().writable.contains(&node_)) {
    seek_source(req, offset, whence);
    return;
  }
  node_.volume().ask_size(&node_, [this, req, offset, whence](int64_t size) {
    if (size >= 0 && offset >= 0 && offset < size) {
      fuse_reply_lseek(req, whence == SEEK_HOLE ? size : offset);
    } else if (size >= 0) {
      fuse_reply_err(req, ENXIO);
    } else if (!node_.volume().writable.contains(&node_)) {
      seek_source(req, offset, whence);  // the last writer has gone meanwhile
    } else {
      fuse_reply_err(req, EINVAL);
    }
  });
}

void SourceFile::seek_source(fuse_req_t req, off_t offset, int whence) {
  const off_t result = ::lseek(fd_.get(), offset, whence);
  if (result < 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_lseek(req, result);
  }
}

void SourceFile::copy_file_range(fuse_req_t req, off_t offset, Handle* to, off_t to_offset,
                                 size_t length, int flags) {
  auto* target = dynamic_cast<SourceFile*>(to);
  if (target == nullptr || !readable_) {
    fuse_reply_err(req, EXDEV);
    return;
  }
  length = std::min(length, kMaxCopy);
  ssize_t copied = 0;
  {
    const Change change = node_.volume().engine().change_data(
        target->node_.id(), target->readable_fd(), range_of(to_offset, static_cast<off_t>(length)));
    if (change.error() != 0) {
      copied = -change.error();
    } else {
      const ActAs caller(req, ActAs::What::kIds, node_.volume().options().switch_ids);
      copied = ::copy_file_range(fd_.get(), &offset, target->fd(), &to_offset, length,
                                 static_cast<unsigned>(flags));
      if (copied < 0) copied = -errno;
      target->node_.mtime_moved();
    }
  }
  if (copied == -ENOSYS || copied == -EXDEV) copied = -EOPNOTSUPP;  // the kernel copies itself then
  if (copied < 0) {
    fuse_reply_err(req, static_cast<int>(-copied));
  } else {
    fuse_reply_write(req, static_cast<size_t>(copied));
  }
}

void FlushHandle::fsync(fuse_req_t req, bool, fuse_file_info*) {
  node_.restore_mtime(-1);
  fuse_reply_err(req, 0);
}

}  // namespace clonefs
