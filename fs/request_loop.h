// RequestLoop: reads requests from /dev/fuse and has them served.
//
// One thread reads, and serves what is quick at once: to pass a request on to another thread, on
// another processor perhaps, costs several times what most requests take; for the same reason it looks
// for the next one for a moment before it sleeps. What may wait (for a copy, the fence, fsync), and
// kinds that were slow lately, goes to workers. A reader that hangs in a request all the same (a source
// that does not answer) is replaced within a fifth of a second.
//
// Thread safety: run() belongs to one thread; stop() from any.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/slow_kinds.h"
#include "fs/worker_pool.h"

namespace clonefs {

class RequestLoop {
 public:
  struct Callbacks {
    // What was read, before it is served.
    std::function<void(const void* request, size_t size)> seen;
    // Whether the request may wait for anything but the processor.
    std::function<bool(uint32_t opcode, uint64_t nodeid)> may_wait;
  };
  // LARGEST: bytes of data in one request. WORKERS: at most.
  RequestLoop(fuse_session* session, size_t largest, unsigned workers, Callbacks callbacks);
  ~RequestLoop();

  // Until the mount is gone or stop(). 0 or an errno. Waits for the requests that are being served.
  int run();
  void stop();

 private:
  struct Reader;
  struct Buffer {
    std::unique_ptr<char[]> memory;
    size_t size = 0;  // of the request
  };
  static constexpr unsigned kReaders = 64;  // that hang, but one

  void read(Reader& self);
  ssize_t receive(char* to);
  bool take(Reader& self, Buffer& buffer);
  void serve(const Buffer& buffer);
  Buffer buffer();
  void give_back(Buffer buffer);
  void start_reader();
  void look_after_reader();

  fuse_session* const session_;
  const size_t buffer_size_;
  const Callbacks callbacks_;
  WorkerPool workers_;
  SlowKinds slow_;

  std::mutex buffers_mutex_;
  std::vector<Buffer> buffers_;

  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<std::unique_ptr<Reader>> readers_;  // the last one is in charge
  std::atomic<int> error_{0};
};

}  // namespace clonefs
