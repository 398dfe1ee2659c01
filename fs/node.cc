#include "fs/node.h"

#include <linux/fuse.h>

#include <vector>

#include "fs/fuse_session.h"

namespace clonefs {

bool only_looks(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_STATFS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
      return true;
    default:
      return false;
  }
}

bool Node::may_wait(uint32_t) const {
  return true;
}

void Node::getattr(fuse_req_t req, Handle*) {
  fuse_entry_param entry{};
  if (const int error = describe(&entry); error != 0) {
    fuse_reply_err(req, error);
  } else {
    fuse_reply_attr(req, &entry.attr, entry.attr_timeout);
  }
}

// Control files are opened with O_TRUNC or touched by shells and editors; what cannot change says
// so.
void Node::setattr(fuse_req_t req, struct stat*, int, Handle*) {
  fuse_reply_err(req, EPERM);
}
void Node::access(fuse_req_t req, int) {
  fuse_reply_err(req, 0);
}
void Node::readlink(fuse_req_t req) {
  fuse_reply_err(req, EINVAL);
}

void Node::statfs(fuse_req_t req) {
  struct statvfs stats {};
  stats.f_namemax = 255;
  stats.f_bsize = stats.f_frsize = 4096;
  fuse_reply_statfs(req, &stats);
}

void Node::setxattr(fuse_req_t req, const char*, const char*, size_t, int) {
  fuse_reply_err(req, EOPNOTSUPP);
}
void Node::getxattr(fuse_req_t req, const char*, size_t) {
  fuse_reply_err(req, ENODATA);
}
void Node::listxattr(fuse_req_t req, size_t size) {
  if (size == 0) {
    fuse_reply_xattr(req, 0);
  } else {
    fuse_reply_buf(req, nullptr, 0);
  }
}
void Node::removexattr(fuse_req_t req, const char*) {
  fuse_reply_err(req, EOPNOTSUPP);
}

void Node::open(fuse_req_t req, fuse_file_info*) {
  fuse_reply_err(req, EACCES);
}
void Node::opendir(fuse_req_t req, fuse_file_info*) {
  fuse_reply_err(req, ENOTDIR);
}

void Node::lookup(fuse_req_t req, const char*) {
  fuse_reply_err(req, ENOTDIR);
}
void Node::mknod(fuse_req_t req, const char*, mode_t, dev_t) {
  fuse_reply_err(req, EPERM);
}
void Node::mkdir(fuse_req_t req, const char*, mode_t) {
  fuse_reply_err(req, EPERM);
}
void Node::symlink(fuse_req_t req, const char*, const char*) {
  fuse_reply_err(req, EPERM);
}
void Node::create(fuse_req_t req, const char*, mode_t, fuse_file_info*) {
  fuse_reply_err(req, EPERM);
}
void Node::tmpfile(fuse_req_t req, mode_t, fuse_file_info*) {
  fuse_reply_err(req, EOPNOTSUPP);
}
void Node::unlink(fuse_req_t req, const char*) {
  fuse_reply_err(req, EPERM);
}
void Node::rmdir(fuse_req_t req, const char*) {
  fuse_reply_err(req, EPERM);
}
void Node::rename(fuse_req_t req, const char*, Node* to, const char*, unsigned) {
  fuse_reply_err(req, to == this ? EPERM : EXDEV);
}
void Node::link(fuse_req_t req, Node*, const char*) {
  fuse_reply_err(req, EPERM);
}

void Handle::read(fuse_req_t req, size_t, off_t, fuse_file_info*) {
  fuse_reply_err(req, EBADF);
}
void Handle::write(fuse_req_t req, fuse_bufvec*, off_t, fuse_file_info*) {
  fuse_reply_err(req, EBADF);
}
void Handle::flush(fuse_req_t req, fuse_file_info*) {
  fuse_reply_err(req, 0);
}
void Handle::fsync(fuse_req_t req, bool, fuse_file_info*) {
  fuse_reply_err(req, 0);
}
void Handle::fallocate(fuse_req_t req, int, off_t, off_t) {
  fuse_reply_err(req, EOPNOTSUPP);
}
// Never ENOSYS: the kernel would not ask again for any file of the connection.
void Handle::lseek(fuse_req_t req, off_t, int) {
  fuse_reply_err(req, EINVAL);
}
void Handle::copy_file_range(fuse_req_t req, off_t, Handle*, off_t, size_t, int) {
  fuse_reply_err(req, EOPNOTSUPP);
}
void Handle::readdir(fuse_req_t req, size_t, off_t, fuse_file_info*) {
  fuse_reply_err(req, ENOTDIR);
}
void Handle::readdirplus(fuse_req_t req, size_t, off_t, fuse_file_info*) {
  fuse_reply_err(req, ENOTDIR);
}

char* reply_space(size_t size) {
  if (char* space = FuseRing::space(size); space != nullptr) return space;
  static thread_local std::vector<char> buffer;
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

// A reply that the kernel did not take gave it nothing: what it would have owned goes here.

void reply_entry(fuse_req_t req, Node* node) {
  fuse_entry_param entry{};
  if (const int error = node->describe(&entry); error != 0) {
    node->forget(1);
    fuse_reply_err(req, error);
    return;
  }
  entry.ino = nodeid_of(node);
  if (fuse_reply_entry(req, &entry) != 0) node->forget(1);
}

void reply_create(fuse_req_t req, Node* node, Handle* handle, fuse_file_info* fi) {
  fuse_entry_param entry{};
  if (const int error = node->describe(&entry); error != 0) {
    delete handle;
    node->forget(1);
    fuse_reply_err(req, error);
    return;
  }
  entry.ino = nodeid_of(node);
  reply_create(req, node, handle, fi, entry);
}

void reply_create(fuse_req_t req, Node* node, Handle* handle, fuse_file_info* fi,
                  const fuse_entry_param& entry) {
  set_handle(fi, handle);
  FuseSession& session = FuseSession::of(req);
  session.opened(handle);
  if (fuse_reply_create(req, &entry, fi) != 0) {
    session.released(handle);
    node->forget(1);
  }
}

void reply_open(fuse_req_t req, Handle* handle, fuse_file_info* fi) {
  set_handle(fi, handle);
  FuseSession& session = FuseSession::of(req);
  session.opened(handle);
  if (fuse_reply_open(req, fi) != 0) session.released(handle);
}

}  // namespace clonefs
