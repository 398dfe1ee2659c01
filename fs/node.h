// Nodes and handles: what stands behind a FUSE nodeid and behind an open file or directory. Both
// mounts, the control files and the views of clones are made of them; fs/fuse_session.h dispatches.
//
// Each method gets the request and replies to it exactly once, itself; after that it touches neither
// the node nor the handle, which the kernel may have let go of by then. What a kind of node does not
// do, it leaves to the default, which replies with the fitting errno. An exception that leaves a
// method before it has replied is replied to as EIO (ENOMEM for std::bad_alloc).
//
// Lookup counts: a Node* that a lookup hands out carries one count for whoever gets it; reply_entry
// and reply_create pass that count on to the kernel, which gives it back with FORGET. The kernel
// never forgets a node that is in use by a request or an open file.
//
// Thread safety: any method may run in any number of threads at once.
#pragma once

#include <fuse3/fuse_lowlevel.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdint>

namespace clonefs {

class Handle;

// Timeout of what only changes through the kernel.
inline constexpr double kLongTimeout = 86400;

class Node {
 public:
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node() = default;

  // One more count. Only for a caller that knows that the node lives.
  void remember(uint64_t count = 1) { lookups_.fetch_add(count, std::memory_order_relaxed); }
  // COUNT lookups less; at none the node is gone. A kind of node that is also found through a table
  // overrides this, so that it is not found at the moment it goes.
  virtual void forget(uint64_t count) {
    if (lookups_.fetch_sub(count, std::memory_order_acq_rel) == count) delete this;
  }
  uint64_t lookups() const { return lookups_.load(std::memory_order_acquire); }

  // Whether a request OPCODE (linux/fuse.h) to this node, or to a file open of it, may wait for
  // anything but the processor and the source's own disk. Those that don't may be served where they
  // hold up others.
  virtual bool may_wait(uint32_t opcode) const;  // default: yes

  // Attributes, generation and timeouts for a reply; `ino` is set by the caller. 0 or an errno.
  virtual int describe(fuse_entry_param* entry) = 0;

  // HANDLE: the open file the request came through, or null.
  virtual void getattr(fuse_req_t req, Handle* handle);  // default: from describe
  virtual void setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle);
  virtual void access(fuse_req_t req, int mask);
  virtual void readlink(fuse_req_t req);
  virtual void statfs(fuse_req_t req);

  virtual void setxattr(fuse_req_t req, const char* name, const char* value, size_t size,
                        int flags);
  virtual void getxattr(fuse_req_t req, const char* name, size_t size);
  virtual void listxattr(fuse_req_t req, size_t size);
  virtual void removexattr(fuse_req_t req, const char* name);

  // Sets fi->fh with set_handle and replies with reply_open.
  virtual void open(fuse_req_t req, fuse_file_info* fi);
  virtual void opendir(fuse_req_t req, fuse_file_info* fi);

  // Directories.
  virtual void lookup(fuse_req_t req, const char* name);
  virtual void mknod(fuse_req_t req, const char* name, mode_t mode, dev_t device);
  virtual void mkdir(fuse_req_t req, const char* name, mode_t mode);
  virtual void symlink(fuse_req_t req, const char* target, const char* name);
  virtual void create(fuse_req_t req, const char* name, mode_t mode, fuse_file_info* fi);
  virtual void tmpfile(fuse_req_t req, mode_t mode, fuse_file_info* fi);
  virtual void unlink(fuse_req_t req, const char* name);
  virtual void rmdir(fuse_req_t req, const char* name);
  // TO and TARGET may be of another kind than this: EXDEV then.
  virtual void rename(fuse_req_t req, const char* name, Node* to, const char* new_name,
                      unsigned flags);
  // A new name NAME in this directory for TARGET.
  virtual void link(fuse_req_t req, Node* target, const char* name);

 protected:
  std::atomic<uint64_t> lookups_{1};  // the maker's
};

// An open file or directory: what fi->fh points to. Deleted when the kernel releases it; the
// destructor does what there is to do then, and the release is replied to after it.
class Handle {
 public:
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  virtual ~Handle() = default;

  virtual void read(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi);
  // DATA is in memory, in one piece.
  virtual void write(fuse_req_t req, fuse_bufvec* data, off_t offset, fuse_file_info* fi);
  virtual void flush(fuse_req_t req, fuse_file_info* fi);                  // default: done
  virtual void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi);  // default: done
  virtual void fallocate(fuse_req_t req, int mode, off_t offset, off_t length);
  virtual void lseek(fuse_req_t req, off_t offset, int whence);
  // This is the one that is read.
  virtual void copy_file_range(fuse_req_t req, off_t offset, Handle* to, off_t to_offset,
                               size_t length, int flags);

  // Directories. fsync is fsyncdir.
  virtual void readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi);
  virtual void readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi);
};

// Whether OPCODE only looks at names and attributes.
bool only_looks(uint32_t opcode);

inline Handle* handle_of(const fuse_file_info* fi) {
  return fi == nullptr || fi->fh == 0 ? nullptr : reinterpret_cast<Handle*>(fi->fh);
}
inline void set_handle(fuse_file_info* fi, Handle* handle) {
  fi->fh = reinterpret_cast<uint64_t>(handle);
}
inline fuse_ino_t nodeid_of(Node* node) {
  return reinterpret_cast<fuse_ino_t>(node);
}

// SIZE bytes of the calling thread for the data of a reply: good until it replies.
char* reply_space(size_t size);

// Describes NODE and replies with it. Takes over the caller's lookup of it, also on failure.
void reply_entry(fuse_req_t req, Node* node);
// The same for create: takes over HANDLE as well (and puts it into fi).
void reply_create(fuse_req_t req, Node* node, Handle* handle, fuse_file_info* fi);
void reply_create(fuse_req_t req, Node* node, Handle* handle, fuse_file_info* fi,
                  const fuse_entry_param& entry);  // where it is described already
// Replies to open or opendir; takes over HANDLE.
void reply_open(fuse_req_t req, Handle* handle, fuse_file_info* fi);

}  // namespace clonefs
