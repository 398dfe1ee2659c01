#include "fs/request_loop.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "fs/daemon_log.h"

namespace clonefs {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};
constexpr std::chrono::microseconds kLookOut{20};
constexpr size_t kHeaders = 4096;  // a request is not larger than its data and this
constexpr size_t kSpareBuffers = 8;
constexpr uint32_t kLarge = 128 << 10;

// Interrupts a read from /dev/fuse.
constexpr int kSignal = SIGUSR1;

// Those that belong to no node, or that nobody may wait for.
bool is_always_quick(uint32_t opcode) {
  switch (opcode) {
    case FUSE_INIT:
    case FUSE_DESTROY:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
    case FUSE_NOTIFY_REPLY:
      return true;
    default:
      return false;
  }
}

// Read ahead or written back by the kernel: much to copy, and few wait for it.
bool is_bulk(const fuse_in_header& head, const char* argument, size_t size) {
  if (head.opcode == FUSE_WRITE) {
    fuse_write_in write;
    if (size < sizeof write) return false;
    std::memcpy(&write, argument, sizeof write);
    return (write.write_flags & FUSE_WRITE_CACHE) != 0 && write.size >= kLarge;
  }
  if (head.opcode == FUSE_READ) {
    fuse_read_in read;
    if (size < sizeof read) return false;
    std::memcpy(&read, argument, sizeof read);
    return read.size >= kLarge;
  }
  return false;
}

}  // namespace

struct RequestLoop::Reader {
  std::thread thread;
  std::atomic<bool> in_charge{true};
  std::atomic<bool> done{false};
  std::atomic<uint64_t> served{0};  // requests; odd: one is being served
  std::atomic<uint32_t> opcode{0};  // the last one's
  uint64_t seen = 0;                // `served` at the last tick
};

RequestLoop::RequestLoop(fuse_session* session, size_t largest, unsigned workers,
                         Callbacks callbacks)
    : session_(session),
      buffer_size_(largest + kHeaders),
      callbacks_(std::move(callbacks)),
      workers_(workers, [] { pthread_setname_np(pthread_self(), "fuse-worker"); }) {
  struct sigaction interrupt {};  // without SA_RESTART
  interrupt.sa_handler = [](int) {};
  ::sigaction(kSignal, &interrupt, nullptr);
}

RequestLoop::~RequestLoop() = default;

int RequestLoop::run() {
  const int fd = fuse_session_fd(session_);
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) return errno;
  start_reader();
  {
    std::unique_lock lock(mutex_);
    while (fuse_session_exited(session_) == 0) {
      ended_.wait_for(lock, kTick);
      look_after_reader();
    }
  }
  // A signal that comes just before the read is lost.
  for (const auto& reader : readers_) {
    while (!reader->done) {
      ::pthread_kill(reader->thread.native_handle(), kSignal);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    reader->thread.join();
  }
  workers_.stop();
  return error_;
}

void RequestLoop::stop() {
  fuse_session_exit(session_);
  std::lock_guard lock(mutex_);
  ended_.notify_all();
}

// With mutex_, or before there are others.
void RequestLoop::start_reader() {
  auto reader = std::make_unique<Reader>();
  Reader& self = *reader;
  readers_.push_back(std::move(reader));
  self.thread = std::thread([this, &self] {
    pthread_setname_np(pthread_self(), "fuse-reader");
    read(self);
    self.done = true;
  });
}

void RequestLoop::look_after_reader() {
  Reader& reader = *readers_.back();
  const uint64_t now = reader.served;
  const bool hangs = now % 2 == 1 && now == reader.seen;
  reader.seen = now;
  std::erase_if(readers_, [&](const auto& r) {
    if (r.get() == &reader || !r->done) return false;
    r->thread.join();
    return true;
  });
  if (!hangs || readers_.size() >= kReaders) return;
  slow_.was(reader.opcode, true);
  reader.in_charge = false;
  start_reader();
}

RequestLoop::Buffer RequestLoop::buffer() {
  {
    std::lock_guard lock(buffers_mutex_);
    if (!buffers_.empty()) {
      Buffer spare = std::move(buffers_.back());
      buffers_.pop_back();
      return spare;
    }
  }
  return {std::unique_ptr<char[]>(new char[buffer_size_]), 0};
}

void RequestLoop::give_back(Buffer buffer) {
  std::lock_guard lock(buffers_mutex_);
  if (buffers_.size() < kSpareBuffers) buffers_.push_back(std::move(buffer));
}

// To be woken, on a halted processor perhaps, costs more than most requests: who has just served one
// looks for the next for a moment. Whoever else wants the processor gets it meanwhile.
ssize_t RequestLoop::receive(char* to) {
  const int fd = fuse_session_fd(session_);
  const auto until = Clock::now() + kLookOut;
  while (true) {
    const ssize_t got = ::read(fd, to, buffer_size_);
    if (got >= 0 || errno != EAGAIN) return got;
    if (Clock::now() < until) {
      ::sched_yield();
    } else {
      pollfd events{fd, POLLIN, 0};
      if (::poll(&events, 1, -1) < 0) return -1;
    }
  }
}

void RequestLoop::read(Reader& self) {
  Buffer own = buffer();
  while (self.in_charge && fuse_session_exited(session_) == 0) {
    const ssize_t got = receive(own.memory.get());
    if (got < 0) {
      if (errno == EINTR || errno == ENOENT) continue;  // ENOENT: it was interrupted
      if (errno != ENODEV) error_ = errno;              // ENODEV: unmounted
      stop();
      return;
    }
    own.size = static_cast<size_t>(got);
    if (own.size < sizeof(fuse_in_header)) {
      error_ = EIO;
      stop();
      return;
    }
    if (!take(self, own)) own = buffer();
  }
  give_back(std::move(own));
}

// False: BUFFER was given away.
bool RequestLoop::take(Reader& self, Buffer& buffer) {
  fuse_in_header head;
  std::memcpy(&head, buffer.memory.get(), sizeof head);
  callbacks_.seen(buffer.memory.get(), buffer.size);
  if (traces_requests()) trace_request(head.opcode, head.nodeid, buffer.size);
  if (!is_always_quick(head.opcode) &&
      (is_bulk(head, buffer.memory.get() + sizeof head, buffer.size - sizeof head) ||
       callbacks_.may_wait(head.opcode, head.nodeid) || slow_.expect(head.opcode))) {
    workers_.post([this, given = std::make_shared<Buffer>(std::move(buffer))] {
      serve(*given);
      give_back(std::move(*given));
    });
    return false;
  }
  self.opcode.store(head.opcode, std::memory_order_relaxed);
  self.served.fetch_add(1);
  const SlowKinds::Watch watch;
  serve(buffer);
  self.served.fetch_add(1);
  slow_.was(head.opcode, watch.slow());
  return true;
}

void RequestLoop::serve(const Buffer& buffer) {
  fuse_buf request{};
  request.mem = buffer.memory.get();
  request.size = buffer.size;
  fuse_session_process_buf(session_, &request);
}

}  // namespace clonefs
