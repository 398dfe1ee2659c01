// FuseSession: one FUSE connection and its worker threads. The live mount and the clones mount are
// two of them with different options; what they show is the tree of nodes behind their root.
//
// Thread safety: run() belongs to one thread; the rest may be called from any thread.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "extents/result.h"
#include "fs/fuse_ring.h"
#include "fs/node.h"
#include "fs/request_loop.h"

namespace clonefs {

struct FuseSessionOptions {
  std::string source;  // shown as the device in the mount table
  // Mount options, such as "allow_other", "dev", "suid", "ro". subtype, fsname and max_read are set
  // by the session.
  std::vector<std::string> mount_options;
  bool writeback = false;    // FUSE_WRITEBACK_CACHE; excludes passthrough
  bool passthrough = false;  // ask for FUSE_PASSTHROUGH
  bool posix_acl = true;     // ACLs are checked by the kernel; implies default_permissions
  unsigned threads = 64;     // at most, for requests that may wait
  uint64_t without = 0;      // capabilities of FUSE to do without, as on an older kernel (tests)
};

class FuseSession {
 public:
  // ROOT outlives the session.
  static Result<std::unique_ptr<FuseSession>> create(Node* root, FuseSessionOptions options);
  // Unmounts if mounted. Files that are open still, by users who were cut off, are released here.
  ~FuseSession();

  Status mount(const std::string& mountpoint);
  // Serves until the mount is unmounted (by anyone) or stop() is called. Returns 0 or an errno.
  int run();
  // Makes run() return; the mount stays until unmount().
  void stop();
  // Asks the kernel to take the mount away; LAZY: also when it is busy (it goes when the last user
  // does). Error: EBUSY. As an ordinary user through fusermount3.
  Status unmount(bool lazy);

  const std::string& mountpoint() const { return mountpoint_; }
  // What was negotiated; known when the first request is served.
  bool passthrough() const { return passthrough_.load(); }
  bool writeback() const { return writeback_.load(); }
  // A file that is opened for direct I/O can be mapped shared all the same (Linux 6.6).
  bool maps_direct_files() const { return maps_direct_files_.load(); }
  uint32_t max_write() const { return max_write_.load(); }
  // What the kernel or libfuse lacks and what is done instead, a line each; known as passthrough().
  std::vector<std::string> lacks() const;
  bool over_io_uring() const { return ring_.load() != nullptr; }
  // Over io_uring: the requests of one processor that can be waiting for their replies; more wait in
  // the kernel.
  unsigned ring_entries() const {
    const FuseRing* ring = ring_;
    return ring == nullptr ? 0 : ring->entries();
  }

  // Notifications to the kernel. Never from a thread that serves a request. Errors are ignored: the
  // kernel may have forgotten already.
  void invalidate_attributes(Node* node);
  // What PARENT's NAME leads to, with all beneath it. Waits while the kernel changes PARENT.
  void invalidate_name(Node* parent, const std::string& name);
  fuse_session* raw() { return session_; }

  // The open files: what the replies to open and the releases tell.
  static FuseSession& of(fuse_req_t req) {
    return *static_cast<FuseSession*>(fuse_req_userdata(req));
  }
  void opened(Handle* handle);
  void released(Handle* handle);  // deletes it
  // What is still open, when run() has ended.
  void close_handles();
  bool has_handles();

  // After mount, while run() serves, as root: no write throttling by this mount's own small share of dirty pages
  // (facts/fuse.md 3g), larger read-ahead. What can't be set is left as it is.
  void tune(const std::string& mountpoint);

 private:
  friend struct FuseDispatch;
  FuseSession(Node* root, FuseSessionOptions options);
  Node* node(fuse_ino_t ino) const {
    return ino == FUSE_ROOT_ID ? root_ : reinterpret_cast<Node*>(ino);
  }
  fuse_ino_t nodeid(Node* node) const { return node == root_ ? FUSE_ROOT_ID : nodeid_of(node); }

  void look_for_init(const void* buffer, size_t size);
  bool may_wait(uint32_t opcode, uint64_t ino) const;
  void make_ring();
  ssize_t send(int fd, iovec* iov, int count);

  Node* const root_;
  const FuseSessionOptions options_;
  fuse_session* session_ = nullptr;
  std::string mountpoint_;
  std::atomic<bool> mounted_{false};
  std::atomic<bool> passthrough_{false};
  std::atomic<bool> writeback_{false};
  std::atomic<bool> maps_direct_files_{false};
  std::atomic<uint32_t> max_write_{0};
  std::atomic<uint64_t> lacking_{0};        // capabilities that were asked for in vain
  std::atomic<bool> throttled_{false};      // the share of dirty pages could not be raised
  std::atomic<uint64_t> init_unique_{0};  // the number of INIT, while it is not answered
  std::atomic<bool> ring_offered_{false};  // by the kernel, in INIT
  std::unique_ptr<RequestLoop> loop_;
  std::unique_ptr<FuseRing> ring_owner_;
  std::atomic<FuseRing*> ring_{nullptr};  // it, set before INIT is answered
  std::mutex handles_mutex_;
  std::unordered_set<Handle*> handles_;
};

}  // namespace clonefs
