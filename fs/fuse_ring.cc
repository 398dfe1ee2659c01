#include "fs/fuse_ring.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "fs/daemon_log.h"
#include "fs/slow_kinds.h"
#include "fs/worker_pool.h"

namespace clonefs {

namespace {

// --- the kernel's interface: linux/fuse.h from 7.42 on; Debian 12 has an older one ----------------

struct RingHeader {
  char in_out[128];  // fuse_in_header, then fuse_out_header
  char op_in[128];   // the first argument of the request
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_size;
  uint32_t padding;
  uint64_t reserved;
};
struct RingCommand {  // in the submission
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t padding[6];
};
enum : uint32_t { kRegister = 1, kCommitAndFetch = 2 };

// --------------------------------------------------------------------------------------------------

constexpr size_t kPage = 4096;
constexpr unsigned kEntries = 64;     // requests of one processor that are under way at the same time
constexpr unsigned kFewEntries = 16;  // the same where there are very many processors
constexpr int kManyQueues = 16;
constexpr uint64_t kWake = 1;       // user data of the read of the event descriptor

// An io_uring of one thread, with its memory mapped by us (IORING_SETUP_NO_MMAP, Linux 6.5), which
// liburing before 2.5 cannot do. A mapping of the ring's file would keep the ring, and with it
// /dev/fuse, for as long as any thread of a killed daemon waits for the mount: nobody would ever get
// an answer.
class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { close_all(); }

  // 0 or an errno. ENTRIES: submissions at a time; twice as many completions.
  int open(unsigned entries) {
    static_assert(sizeof(io_sqring_offsets) == 40 && sizeof(io_cqring_offsets) == 40);
    entries = std::bit_ceil(entries);
    io_uring_params params{};
    params.flags = IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | kNoMmap;
    params.cq_entries = 2 * entries;
    memory_size_ = kPage + params.cq_entries * sizeof(io_uring_cqe) + entries * sizeof(uint32_t);
    memory_ = map(memory_size_);
    submissions_size_ = entries * kSubmission;
    submissions_ = map(submissions_size_);
    if (memory_ == nullptr || submissions_ == nullptr) return ENOMEM;
    // The address of the memory: the last field of each, of another name in older headers.
    const auto memory = reinterpret_cast<uint64_t>(memory_);
    const auto submissions = reinterpret_cast<uint64_t>(submissions_);
    std::memcpy(reinterpret_cast<char*>(&params.cq_off) + 32, &memory, sizeof memory);
    std::memcpy(reinterpret_cast<char*>(&params.sq_off) + 32, &submissions, sizeof submissions);
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, entries, &params));
    if (fd_ < 0) return errno;
    fcntl(fd_, F_SETFD, FD_CLOEXEC);
    sq_tail_ = field(params.sq_off.tail);
    sq_mask_ = params.sq_entries - 1;
    auto* array = field(params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; ++i) array[i] = i;
    cq_head_ = field(params.cq_off.head);
    cq_tail_ = field(params.cq_off.tail);
    cq_mask_ = params.cq_entries - 1;
    completions_ = reinterpret_cast<io_uring_cqe*>(memory_ + params.cq_off.cqes);
    return 0;
  }

  // A submission, zeroed. There are never more than ENTRIES that wait for submit().
  io_uring_sqe* next() {
    auto* sqe = reinterpret_cast<io_uring_sqe*>(submissions_ + (tail_++ & sq_mask_) * kSubmission);
    ++waiting_;
    std::memset(static_cast<void*>(sqe), 0, kSubmission);
    return sqe;
  }
  bool has_waiting() const { return waiting_ > 0; }
  // And waits for at least so many completions.
  void submit(unsigned wait_for = 0) {
    std::atomic_ref(*sq_tail_).store(tail_, std::memory_order_release);
    const long done = syscall(SYS_io_uring_enter, fd_, waiting_, wait_for,
                              wait_for > 0 ? IORING_ENTER_GETEVENTS : 0, nullptr, 0);
    if (done > 0) waiting_ -= std::min(waiting_, static_cast<unsigned>(done));
  }
  // Calls SEEN(user_data, result) for each completion that is there.
  template <class F>
  void completions(F&& seen) {
    unsigned head = *cq_head_;
    const unsigned tail = std::atomic_ref(*cq_tail_).load(std::memory_order_acquire);
    for (; head != tail; ++head) {
      const io_uring_cqe& cqe = completions_[head & cq_mask_];
      seen(cqe.user_data, cqe.res);
    }
    std::atomic_ref(*cq_head_).store(head, std::memory_order_release);
  }
  void close_all() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    if (memory_ != nullptr) munmap(memory_, memory_size_);
    if (submissions_ != nullptr) munmap(submissions_, submissions_size_);
    memory_ = submissions_ = nullptr;
  }

 private:
  static constexpr uint32_t kNoMmap = 1u << 14;  // IORING_SETUP_NO_MMAP
  static constexpr size_t kSubmission = 128;     // IORING_SETUP_SQE128
  static char* map(size_t size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
  }
  unsigned* field(uint32_t offset) const { return reinterpret_cast<unsigned*>(memory_ + offset); }

  int fd_ = -1;
  char* memory_ = nullptr;
  char* submissions_ = nullptr;
  size_t memory_size_ = 0;
  size_t submissions_size_ = 0;
  unsigned* sq_tail_ = nullptr;
  unsigned sq_mask_ = 0;
  unsigned tail_ = 0;     // of what next() gave out
  unsigned waiting_ = 0;  // given out, not taken by the kernel
  unsigned* cq_head_ = nullptr;
  unsigned* cq_tail_ = nullptr;
  unsigned cq_mask_ = 0;
  io_uring_cqe* completions_ = nullptr;
};

// The kernel has a queue for each processor that may ever come, and serves none before all are there.
int possible_processors() {
  int last = get_nprocs_conf() - 1;
  if (FILE* file = std::fopen("/sys/devices/system/cpu/possible", "re"); file != nullptr) {
    int first = 0;
    if (std::fscanf(file, "%d-%d", &first, &last) == 1) last = first;
    std::fclose(file);
  }
  return last + 1;
}

}  // namespace

struct FuseRing::Entry {
  Queue* queue = nullptr;
  char* memory = nullptr;
  RingHeader* header = nullptr;
  // The kernel puts the data here; before it there is room for the headers, so that a request is in
  // one piece as it is when it was read from /dev/fuse.
  char* payload = nullptr;
  iovec parts[2] = {};  // for the kernel: header, payload
  uint64_t commit_id = 0;
  fuse_buf request = {};

  const fuse_in_header& head() const { return *static_cast<const fuse_in_header*>(request.mem); }
};

// Requests that are not replied to yet, by number.
class FuseRing::Requests {
 public:
  void add(uint64_t unique, Entry* entry) {
    Shard& shard = shard_of(unique);
    std::lock_guard lock(shard.mutex);
    shard.entries[unique] = entry;
  }
  Entry* take(uint64_t unique) {
    Shard& shard = shard_of(unique);
    std::lock_guard lock(shard.mutex);
    const auto it = shard.entries.find(unique);
    if (it == shard.entries.end()) return nullptr;
    Entry* entry = it->second;
    shard.entries.erase(it);
    return entry;
  }

 private:
  struct alignas(64) Shard {
    std::mutex mutex;
    std::unordered_map<uint64_t, Entry*> entries;
  };
  Shard& shard_of(uint64_t unique) { return shards_[(unique >> 1) % shards_.size()]; }
  std::array<Shard, 16> shards_;
};

namespace {
thread_local void* serving = nullptr;  // the entry, an Entry*, whose request this thread serves
thread_local void* own_queue = nullptr;
}  // namespace

class FuseRing::Queue {
 public:
  Queue(FuseRing& ring, unsigned number, size_t entries)
      : ring_(ring), number_(number), entries_(entries), workers_(entries, [this] {
          pthread_setname_np(pthread_self(), ("ring-work-" + std::to_string(number_)).c_str());
          bind_to_processor();
        }) {}

  ~Queue() {
    stop();
    for (Entry& entry : entries_) {
      if (entry.memory != nullptr) munmap(entry.memory, memory_size());
    }
    if (event_ >= 0) close(event_);
  }

  // 0, or the errno with which the ring could not be made.
  int open() {
    event_ = eventfd(0, EFD_CLOEXEC);
    if (event_ < 0) return errno;
    for (Entry& entry : entries_) {
      void* memory = mmap(nullptr, memory_size(), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) return errno;
      entry.queue = this;
      entry.memory = static_cast<char*>(memory);
      entry.header = reinterpret_cast<RingHeader*>(entry.memory);
      entry.payload = entry.memory + 2 * kPage;
      entry.parts[0] = {entry.header, sizeof(RingHeader)};
      entry.parts[1] = {entry.payload, ring_.largest_};
    }
    thread_ = std::thread([this] { run(); });
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return open_error_ >= 0; });
    return open_error_;
  }

  void start() {
    std::lock_guard lock(mutex_);
    started_ = true;
    opened_.notify_all();
  }

  void stop() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      opened_.notify_all();
    }
    wake();
    thread_.join();
    workers_.stop();
  }

  // ENTRY's reply is complete.
  void finish(Entry* entry) {
    if (own_queue == this) {
      commit(entry);
      return;
    }
    bool first;
    {
      std::lock_guard lock(finished_mutex_);
      first = finished_.empty();
      finished_.push_back(entry);
    }
    if (first) wake();
  }

 private:
  size_t memory_size() const { return 2 * kPage + ring_.largest_; }

  void wake() const {
    const uint64_t one = 1;
    while (write(event_, &one, sizeof one) < 0 && errno == EINTR) {
    }
  }

  void bind_to_processor() const {
    cpu_set_t* set = CPU_ALLOC(number_ + 1);
    if (set == nullptr) return;
    const size_t size = CPU_ALLOC_SIZE(number_ + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(number_, size, set);
    sched_setaffinity(0, size, set);  // not while that processor is offline: no requests then
    CPU_FREE(set);
  }

  void submit_command(Entry* entry, uint32_t command) {
    io_uring_sqe* sqe = uring_.next();
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = ring_.fuse_fd_;
    sqe->user_data = reinterpret_cast<uint64_t>(entry);
    sqe->cmd_op = command;
    if (command == kRegister) {
      sqe->addr = reinterpret_cast<uint64_t>(entry->parts);
      sqe->len = 2;
    }
    RingCommand body{};
    body.commit_id = command == kRegister ? 0 : entry->commit_id;
    body.queue = static_cast<uint16_t>(number_);
    std::memcpy(sqe->cmd, &body, sizeof body);
  }

  void commit(Entry* entry) { submit_command(entry, kCommitAndFetch); }

  void listen_to_event() {
    io_uring_sqe* sqe = uring_.next();
    sqe->opcode = IORING_OP_READ;
    sqe->fd = event_;
    sqe->addr = reinterpret_cast<uint64_t>(&event_count_);
    sqe->len = sizeof event_count_;
    sqe->user_data = kWake;
  }

  void run() {
    pthread_setname_np(pthread_self(), ("ring-" + std::to_string(number_)).c_str());
    bind_to_processor();
    own_queue = this;
    const int error = uring_.open(static_cast<unsigned>(entries_.size() + 1));
    {
      std::unique_lock lock(mutex_);
      open_error_ = error;
      opened_.notify_all();
      opened_.wait(lock, [&] { return started_ || stop_; });
    }
    if (error == 0 && started_) serve_all();
    uring_.close_all();
  }

  void serve_all() {
    for (Entry& entry : entries_) submit_command(&entry, kRegister);
    listen_to_event();
    size_t alive = entries_.size();
    while (alive > 0) {
      uring_.submit(1);
      requests_.clear();
      uring_.completions([&](uint64_t who, int result) {
        auto* entry = reinterpret_cast<Entry*>(who);
        if (who == kWake) {
          woken_ = true;
        } else if (result == 0) {
          requests_.push_back(entry);
        } else if (result == -EAGAIN || result == -EINTR) {
          submit_command(entry, entry->commit_id == 0 ? kRegister : kCommitAndFetch);
        } else {
          --alive;  // ENOTCONN: the mount has gone
          if (result != -ENOTCONN && result != -ECANCELED) ring_.callbacks_.failed(-result);
        }
      });
      if (woken_) {
        woken_ = false;
        if (!commit_finished()) return;
        listen_to_event();
      }
      for (size_t i = 0; i < requests_.size(); ++i) {
        if (uring_.has_waiting()) uring_.submit();  // they need not wait for this one
        take(requests_[i]);
      }
    }
  }

  // Whether to go on.
  bool commit_finished() {
    std::vector<Entry*> finished;
    {
      std::lock_guard lock(finished_mutex_);
      finished.swap(finished_);
    }
    for (Entry* entry : finished) commit(entry);
    std::lock_guard lock(mutex_);
    return !stop_;
  }

  void take(Entry* entry) {
    RingHeader& header = *entry->header;
    const auto& in = *reinterpret_cast<const fuse_in_header*>(header.in_out);
    entry->commit_id = header.commit_id;
    const size_t fixed = sizeof in + header.payload_size;
    const size_t argument = in.len - fixed;
    if (in.len < fixed || argument > sizeof header.op_in || header.payload_size > ring_.largest_) {
      refuse(entry, in.unique);  // not a request as we know them
      return;
    }
    char* start = entry->payload - argument - sizeof in;
    std::memcpy(start, &in, sizeof in);
    std::memcpy(start + sizeof in, header.op_in, argument);
    entry->request = {};
    entry->request.mem = start;
    entry->request.size = in.len;
    ring_.requests_->add(in.unique, entry);

    const uint32_t opcode = in.opcode;
    if (traces_requests()) trace_request(opcode, in.nodeid, in.len);
    if (ring_.callbacks_.may_wait(opcode, in.nodeid) || slow_.expect(opcode)) {
      workers_.post([this, entry] { serve(entry); });
      return;
    }
    const SlowKinds::Watch watch;
    serve(entry);
    slow_.was(opcode, watch.slow());
  }

  void refuse(Entry* entry, uint64_t unique) {
    fuse_out_header out{sizeof out, -EIO, unique};
    std::memcpy(entry->header->in_out, &out, sizeof out);
    entry->header->payload_size = 0;
    commit(entry);
  }

  void serve(Entry* entry) {
    serving = entry;
    ring_.callbacks_.serve(entry->request);
    serving = nullptr;
  }

  FuseRing& ring_;
  const unsigned number_;
  std::vector<Entry> entries_;
  int event_ = -1;

  // Of the queue's thread.
  Ring uring_;
  uint64_t event_count_ = 0;
  bool woken_ = false;
  std::vector<Entry*> requests_;
  SlowKinds slow_;

  std::mutex finished_mutex_;
  std::vector<Entry*> finished_;  // replied to by others than the queue's thread

  std::mutex mutex_;
  std::condition_variable opened_;
  int open_error_ = -1;
  bool started_ = false;
  bool stop_ = false;
  WorkerPool workers_;
  std::thread thread_;
};

FuseRing::FuseRing(int fuse_fd, size_t largest, unsigned entries, Callbacks callbacks)
    : fuse_fd_(fuse_fd),
      largest_((largest + kPage - 1) / kPage * kPage),
      entries_(entries),
      callbacks_(std::move(callbacks)),
      requests_(std::make_unique<Requests>()) {}

FuseRing::~FuseRing() = default;

void FuseRing::stop() {
  for (const auto& queue : queues_) queue->stop();
}

Result<std::unique_ptr<FuseRing>> FuseRing::create(int fuse_fd, size_t largest,
                                                   Callbacks callbacks) {
  const int processors = possible_processors();
  const unsigned entries = processors > kManyQueues ? kFewEntries : kEntries;
  std::unique_ptr<FuseRing> ring(new FuseRing(fuse_fd, largest, entries, std::move(callbacks)));
  for (int i = 0; i < processors; ++i) {
    auto queue = std::make_unique<Queue>(*ring, i, entries);
    if (const int error = queue->open(); error != 0) return Error::from_errno(error, "io_uring");
    ring->queues_.push_back(std::move(queue));
  }
  return ring;
}

void FuseRing::start() {
  for (const auto& queue : queues_) queue->start();
}

bool FuseRing::reply(const iovec* iov, int count) {
  fuse_out_header out;
  std::memcpy(&out, iov[0].iov_base, sizeof out);
  Entry* entry = requests_->take(out.unique);
  if (entry == nullptr) return false;
  if (serving == entry) serving = nullptr;
  size_t size = 0;
  for (int i = 1; i < count; ++i) {
    if (size + iov[i].iov_len > largest_) {
      out.error = -EIO;
      size = 0;
      break;
    }
    if (iov[i].iov_base != entry->payload + size) {
      std::memmove(entry->payload + size, iov[i].iov_base, iov[i].iov_len);
    }
    size += iov[i].iov_len;
  }
  out.len = static_cast<uint32_t>(sizeof out + size);
  std::memcpy(entry->header->in_out, &out, sizeof out);
  entry->header->payload_size = static_cast<uint32_t>(size);
  entry->queue->finish(entry);
  return true;
}

char* FuseRing::space(size_t size) {
  auto* entry = static_cast<Entry*>(serving);
  if (entry == nullptr || size > entry->parts[1].iov_len) return nullptr;
  return entry->payload;
}

}  // namespace clonefs
