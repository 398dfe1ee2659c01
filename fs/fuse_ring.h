// FuseRing: the requests of one FUSE connection through io_uring (Linux 6.14, where the administrator
// has set the module parameter enable_uring) instead of read(2) and write(2) on /dev/fuse. One queue
// for each processor: a request is served on the processor of its caller, in the caller's time slice.
//
// libfuse (3.18) has the like, but serves all of a queue in one thread: a request that waits (for a
// copy, a disk, the fence) holds up the others of its processor, and replies from other threads race
// with that thread's submissions. Here what may wait goes to workers, and only the queue's own thread
// touches its ring. libfuse goes on to parse requests and to build replies: this is its transport.
// The protocol: Documentation/filesystems/fuse/fuse-io-uring.rst of the kernel.
//
// FORGET, INTERRUPT and INIT always come through /dev/fuse.
//
// Thread safety: reply() and space() from any thread; the rest belongs to the session.
#pragma once

#include <fuse3/fuse_lowlevel.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "extents/result.h"

namespace clonefs {

class FuseRing {
 public:
  struct Callbacks {
    // Parses and serves a request; its reply comes through reply(), possibly later.
    std::function<void(const fuse_buf& request)> serve;
    // Whether the request may wait for anything but the processor.
    std::function<bool(uint32_t opcode, uint64_t nodeid)> may_wait;
    // The kernel has refused a queue: nothing can be served any more.
    std::function<void(int error)> failed;
  };

  // Before INIT is answered. LARGEST: bytes of data in one request or reply. Error: io_uring is not to
  // be had (ENOSYS, EPERM, ENOMEM): the connection goes on without.
  static Result<std::unique_ptr<FuseRing>> create(int fuse_fd, size_t largest, Callbacks callbacks);
  // After stop(), when nobody replies any more.
  ~FuseRing();

  // When INIT has been answered with FUSE_OVER_IO_URING: the kernel waits for it.
  void start();
  // Waits for the requests that are being served. Replies may come after it; nobody gets them.
  void stop();

  // Requests of one processor that can be under way at the same time.
  unsigned entries() const { return entries_; }

  // The reply IOV, a fuse_out_header and its data. False: not to a request of this ring.
  bool reply(const iovec* iov, int count);
  // Where the data of the reply to the request that the calling thread serves may be put, so that it
  // need not be copied; null: it serves none of a ring, or SIZE is too much.
  static char* space(size_t size);

 private:
  class Queue;
  struct Entry;
  class Requests;
  FuseRing(int fuse_fd, size_t largest, unsigned entries, Callbacks callbacks);

  const int fuse_fd_;
  const size_t largest_;
  const unsigned entries_;
  const Callbacks callbacks_;
  std::unique_ptr<Requests> requests_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace clonefs
