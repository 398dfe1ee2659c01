#include "fs/source_volume.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "fs/own_mount.h"
#include "fs/source_node.h"

namespace clonefs {

// --- NodeTable -------------------------------------------------------------------------------

SourceNode* NodeTable::find_or_make(const Key& key, const HandleBytes& handle,
                                    const std::function<SourceNode*()>& make) {
  Shard& s = shard(key);
  std::lock_guard lock(s.mutex);
  const auto found = s.nodes.find(key);
  if (found != s.nodes.end() && found->second->handle() == handle) {
    found->second->remember();
    return found->second;
  }
  SourceNode* node = make();
  if (node == nullptr) return nullptr;
  if (found != s.nodes.end()) {
    s.replaced.insert(std::exchange(found->second, node));
  } else {
    s.nodes.emplace(key, node);
  }
  return node;
}

SourceNode* NodeTable::find(const Key& key) {
  Shard& s = shard(key);
  std::lock_guard lock(s.mutex);
  const auto found = s.nodes.find(key);
  if (found == s.nodes.end()) return nullptr;
  found->second->remember();
  return found->second;
}

void NodeTable::forget(SourceNode* node, uint64_t count) {
  Shard& s = shard(node->key());
  {
    std::lock_guard lock(s.mutex);
    if (node->lookups_.fetch_sub(count, std::memory_order_acq_rel) != count) return;
    const auto found = s.nodes.find(node->key());
    if (found != s.nodes.end() && found->second == node) {
      s.nodes.erase(found);
    } else {
      s.replaced.erase(node);
    }
  }
  delete node;
}

void NodeTable::clear() {
  std::vector<SourceNode*> left;
  for (Shard& s : shards_) {
    std::lock_guard lock(s.mutex);
    for (const auto& [key, node] : s.nodes) left.push_back(node);
    left.insert(left.end(), s.replaced.begin(), s.replaced.end());
    s.nodes.clear();
    s.replaced.clear();
  }
  for (SourceNode* node : left) node->location_.reset();  // its directory goes as well
  for (SourceNode* node : left) delete node;
}

size_t NodeTable::size() const {
  size_t sum = 0;
  for (const Shard& s : shards_) {
    std::lock_guard lock(s.mutex);
    sum += s.nodes.size();
  }
  return sum;
}

// --- DescriptorCache -------------------------------------------------------------------------

void DescriptorCache::put(SourceNode* node, std::shared_ptr<const UniqueFd> fd) {
  std::shared_ptr<const UniqueFd> gone;  // closed after the locks
  std::lock_guard lock(mutex_);
  if (node->is_cached_) return;
  if (order_.size() >= limit_) {
    SourceNode* oldest = order_.front();
    order_.pop_front();
    oldest->is_cached_ = false;
    std::lock_guard node_lock(oldest->mutex_);
    gone.swap(oldest->fd_);
  }
  {
    std::lock_guard node_lock(node->mutex_);
    if (!node->fd_) node->fd_ = std::move(fd);
    if (!node->fd_) return;
  }
  node->cached_ = order_.insert(order_.end(), node);
  node->is_cached_ = true;
}

void DescriptorCache::pin(SourceNode* node, UniqueFd fd) {
  remove(node);
  std::lock_guard node_lock(node->mutex_);
  if (fd && !node->fd_) node->fd_ = std::make_shared<const UniqueFd>(std::move(fd));
}

void DescriptorCache::remove(SourceNode* node) {
  std::lock_guard lock(mutex_);
  if (!node->is_cached_) return;
  order_.erase(node->cached_);
  node->is_cached_ = false;
}

// --- WritableSet -----------------------------------------------------------------------------

void WritableSet::add(SourceNode* node, const timespec& mtime) {
  std::lock_guard lock(mutex_);
  if (++opens_[node] == 1) node->kernel_mtime_is(mtime);
}

void WritableSet::remove(SourceNode* node) {
  std::lock_guard lock(mutex_);
  const auto found = opens_.find(node);
  if (found != opens_.end() && --found->second == 0) opens_.erase(found);
}

bool WritableSet::remember(SourceNode* node) {
  std::lock_guard lock(mutex_);
  if (!opens_.contains(node)) return false;
  node->remember();  // lives: an open file holds it
  return true;
}

bool WritableSet::contains(SourceNode* node) {
  std::lock_guard lock(mutex_);
  return opens_.contains(node);
}

std::vector<SourceNode*> WritableSet::wanted(const Engine::Wanted& wanted) {
  std::vector<std::pair<SourceId, SourceNode*>> all;
  {
    std::lock_guard lock(mutex_);
    all.reserve(opens_.size());
    for (const auto& [node, opens] : opens_) all.emplace_back(node->id(), node);
  }
  std::vector<SourceNode*> result;
  for (const auto& [id, node] : all) {
    if (id != 0 && wanted(id)) result.push_back(node);
  }
  return result;
}

// --- SelfAccess ------------------------------------------------------------------------------

std::string SelfAccess::name_of(const SourceNode* node) const {
  char text[20];
  const auto end =
      std::to_chars(text, text + sizeof text, reinterpret_cast<uintptr_t>(node), 16).ptr;
  return prefix + std::string(text, end);
}

SourceNode* SelfAccess::node_of(const char* name) const {
  const std::string_view text(name);
  if (prefix.empty() || !text.starts_with(prefix)) return nullptr;
  uintptr_t value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + prefix.size(), end, value, 16);
  if (parsed.ec != std::errc() || parsed.ptr != end) return nullptr;
  return reinterpret_cast<SourceNode*>(value);
}

bool SelfAccess::is_helper(pid_t thread) {
  std::lock_guard lock(mutex);
  return threads.contains(thread);
}

std::shared_ptr<const UniqueFd> SelfAccess::mounted() {
  std::lock_guard lock(mutex);
  return mount;
}

// The calling thread is one of the helpers while this lives.
class HelperThread {
 public:
  explicit HelperThread(SelfAccess& self) : self_(self) {
    std::lock_guard lock(self_.mutex);
    self_.threads.insert(gettid());
  }
  ~HelperThread() {
    std::lock_guard lock(self_.mutex);
    self_.threads.erase(gettid());
  }
  HelperThread(const HelperThread&) = delete;
  HelperThread& operator=(const HelperThread&) = delete;

 private:
  SelfAccess& self_;
};

// --- JobThread -------------------------------------------------------------------------------

JobThread::JobThread() : thread_([this] { run(); }) {}

JobThread::~JobThread() {
  decltype(jobs_) left;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    left.swap(jobs_);
  }
  wake_.notify_all();
  for (auto& [job, dropped] : left) dropped();
  thread_.join();
}

void JobThread::post(std::function<void()> job, std::function<void()> dropped) {
  {
    std::lock_guard lock(mutex_);
    if (!stop_) {
      jobs_.emplace_back(std::move(job), std::move(dropped));
      wake_.notify_one();
      return;
    }
  }
  dropped();
}

void JobThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    auto job = std::move(jobs_.front().first);
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
  }
}

// File systems that learn only when a file is closed that a write failed (over a network, a quota).
static bool is_remote(int fd) {
  struct statfs fs {};
  if (fstatfs(fd, &fs) != 0) return true;
  switch (static_cast<uint32_t>(fs.f_type)) {
    case 0x00006969:  // NFS
    case 0x0000517b:  // SMB
    case 0xff534d42:  // CIFS
    case 0xfe534d42:  // SMB2
    case 0x00c36400:  // CEPH
    case 0x5346414f:  // AFS
    case 0x01021997:  // 9P
    case 0x65735546:  // FUSE
      return true;
    default:
      return false;
  }
}

// --- SourceVolume ----------------------------------------------------------------------------

SourceVolume::SourceVolume(Engine& engine, VolumeOptions options, size_t descriptor_limit)
    : descriptors(descriptor_limit), engine_(engine), options_(options) {}

Result<std::unique_ptr<SourceVolume>> SourceVolume::open(Engine& engine, VolumeOptions options) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const size_t descriptor_limit =
      std::clamp<size_t>(static_cast<size_t>(limit.rlim_cur) / 8, 64, 16384);
  std::unique_ptr<SourceVolume> self(new SourceVolume(engine, options, descriptor_limit));

  struct stat st {};
  UniqueFd fd(openat(options.source, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fstat(fd.get(), &st) != 0) {
    return Error::from_errno(errno, "cannot open the source directory");
  }
  if (access("/proc/self/fd", X_OK) != 0) {
    return Error::from_errno(errno, "clonefs needs /proc, but cannot use /proc/self/fd");
  }
  self->device_ = st.st_dev;
  self->close_tells_ = is_remote(fd.get());

  self->self = std::make_shared<SelfAccess>();
  unsigned char secret[16];
  if (getrandom(secret, sizeof secret, 0) != sizeof secret) {
    return Error::from_errno(errno, "cannot get random bytes");
  }
  std::string prefix = ".clonefs-self-";
  for (const unsigned char byte : secret) {
    static constexpr char kDigits[] = "0123456789abcdef";
    prefix += kDigits[byte >> 4];
    prefix += kDigits[byte & 15];
  }
  self->self->prefix = prefix + "-";

  auto space = HandleSpace::of_directory(fd.get(), options.use_handles);
  HandleBytes handle = space->by_handle() ? handle_bytes(fd.get(), "") : HandleBytes();
  self->root_ = new SourceDirectory(*self, st, std::move(handle), std::move(space));
  self->root_->pin(std::move(fd));
  return self;
}

SourceVolume::~SourceVolume() {
  detach_mount();
  nodes.clear();
  delete root_;
}

SourceNode* SourceVolume::enter(SourceDirectory* directory, const char* name, const struct stat& st,
                                HandleBytes handle, const std::function<UniqueFd()>& open,
                                int* error) {
  const NodeTable::Key key{st.st_dev, st.st_ino};
  *error = ENOMEM;
  SourceNode* node = nodes.find_or_make(key, handle, [&]() -> SourceNode* {
    std::shared_ptr<const HandleSpace> space = directory->space();
    const bool crosses = st.st_dev != directory->key().device;  // a mount, a subvolume
    UniqueFd fd;
    if (crosses || handle.empty()) {
      fd = open();
      if (!fd) {
        *error = errno;
        return nullptr;
      }
    }
    if (crosses) space = HandleSpace::of_directory(fd.get(), options_.use_handles);
    if (!space->by_handle()) handle.clear();
    std::unique_ptr<SourceNode> made;
    if (S_ISDIR(st.st_mode)) {
      made = std::make_unique<SourceDirectory>(*this, st, std::move(handle), std::move(space));
    } else {
      made = std::make_unique<SourceNode>(*this, st, std::move(handle), std::move(space));
    }
    if (made->handle().empty()) {
      if (name != nullptr) made->located_at(directory, name);
      descriptors.put(made.get(), std::make_shared<const UniqueFd>(std::move(fd)));
    }
    return made.release();
  });
  if (node != nullptr && node->handle().empty() && name != nullptr) {
    node->located_at(directory, name);
  }
  return node;
}

SourceNode* SourceVolume::node_at(SourceDirectory* directory, int dir_fd, const char* name,
                                  struct stat* st, int* error) {
  const auto open_name = [&] {
    return UniqueFd(openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  };
  if (fstatat(dir_fd, name, st, AT_SYMLINK_NOFOLLOW) != 0) {
    *error = errno;
    return nullptr;
  }
  HandleBytes handle = directory->space()->by_handle() ? handle_bytes(dir_fd, name) : HandleBytes();
  return enter(directory, name, *st, std::move(handle), open_name, error);
}

SourceNode* SourceVolume::node_of(SourceDirectory* directory, int fd, const char* name,
                                  struct stat* st, int* error) {
  if (fstat(fd, st) != 0) {
    *error = errno;
    return nullptr;
  }
  HandleBytes handle = directory->space()->by_handle() ? handle_bytes(fd, "") : HandleBytes();
  return enter(
      directory, name, *st, std::move(handle),
      [&] { return UniqueFd(::open(ProcPath(fd).get(), O_PATH | O_CLOEXEC)); }, error);
}

std::string SourceVolume::path_of(int dir_fd) const {
  const auto target = [](int fd) {
    std::string text(PATH_MAX, '\0');
    const ssize_t length = ::readlink(ProcPath(fd).get(), text.data(), text.size());
    text.resize(static_cast<size_t>(std::max<ssize_t>(length, 0)));
    return text;
  };
  const FdUse root_fd = root_->use();
  std::string root = target(root_fd.get());
  const std::string path = target(dir_fd);
  struct stat st {};
  if (fstat(dir_fd, &st) != 0 || st.st_nlink == 0) return "";
  if (path == root) return ".";
  if (root != "/") root += '/';
  return path.starts_with(root) ? path.substr(root.size()) : "";
}

Status SourceVolume::attach_mount(const std::string& mountpoint) {
  // O_PATH asks nothing of the daemon, that is, of us (fs/own_mount.h).
  UniqueFd fd(::open(mountpoint.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Error::from_errno(errno, "cannot open the mounted volume " + mountpoint);
  {
    std::lock_guard lock(self->mutex);
    self->mount = std::make_shared<const UniqueFd>(std::move(fd));
  }
  std::lock_guard lock(jobs_mutex_);
  jobs_ = std::make_unique<JobThread>();
  return {};
}

void SourceVolume::detach_mount() {
  std::lock_guard flush_lock(flush_mutex_);
  std::unique_ptr<JobThread> jobs;
  {
    std::lock_guard lock(jobs_mutex_);
    jobs.swap(jobs_);
  }
  jobs.reset();
  std::lock_guard lock(self->mutex);
  self->mount.reset();
}

namespace {

// One run of the flush, shared with the threads that do it.
struct FlushRun {
  std::mutex mutex;
  std::condition_variable ended;
  std::vector<std::string> names;
  size_t next = 0;       // the first of names that nobody has taken
  unsigned threads = 0;  // still at work
  unsigned parted = 0;   // have descriptors of their own
  int error = 0;
};

constexpr size_t kFlushBatch = 64;  // files open at the same time, a thread
constexpr unsigned kFlushThreads = 4;

int flush_batch(int mount, const std::vector<std::string>& names) {
  std::vector<UniqueFd> files;
  int error = 0;
  for (const std::string& name : names) {
    int fd = openat(mount, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == EACCES) {  // an ordinary user's file that only can be written
      fd = openat(mount, name.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (fd < 0) {
      if (errno != ENOENT) error = errno;  // ENOENT: released meanwhile, so it is clean
      continue;
    }
    files.emplace_back(fd);
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);  // starts all before waiting for each
  }
  for (const UniqueFd& file : files) {
    // fsync keeps the file's writers out while it waits, this doesn't (nor does it wait before Linux
    // 6.16: then fsync does).
    sync_file_range(file.get(), 0, 0,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    // An error is the application's delayed write that the source refused, and the next fsync of
    // the application must not miss it; but the bytes are not in the source, so neither are they in
    // the clone: no reason to refuse the activation.
    if (fsync(file.get()) != 0 && (errno == ENOTCONN || errno == EBADF)) error = errno;
  }
  return error;
}

void flush_thread(const std::shared_ptr<FlushRun>& run, const std::shared_ptr<SelfAccess>& self,
                  int mount) {
  // A file on the mount must not stand in one table with /dev/fuse: when the daemon is killed the
  // kernel closes one after the other, and would wait for the file's write-back.
  UniqueFd own(reopen_of_process(mount));
  {
    std::lock_guard lock(run->mutex);
    ++run->parted;
    if (!own) run->error = -own.get();
    run->ended.notify_all();
  }
  std::optional<HelperThread> helper(*self);
  for (;;) {
    std::vector<std::string> batch;
    {
      std::lock_guard lock(run->mutex);
      while (run->next < run->names.size() && batch.size() < kFlushBatch) {
        batch.push_back(std::move(run->names[run->next++]));
      }
    }
    if (batch.empty()) break;
    const int error = own ? flush_batch(own.get(), batch) : -own.get();
    std::lock_guard lock(run->mutex);
    if (error != 0 && run->error == 0) run->error = error;
  }
  own.reset();  // the mount is not busy when the flush has ended
  helper.reset();
  std::lock_guard lock(run->mutex);
  --run->threads;
  run->ended.notify_all();
}

}  // namespace

Status SourceVolume::flush_dirty(const Engine::Wanted& wanted) {
  std::lock_guard flush_lock(flush_mutex_);
  const std::vector<SourceNode*> dirty = writable.wanted(wanted);
  if (dirty.empty()) return {};
  const std::shared_ptr<const UniqueFd> mount = self->mounted();
  if (!mount) {
    return Error{ENOTCONN, "cannot flush the files that are open for writing: not mounted"};
  }
  spdlog::debug("flushing {} files that are open for writing", dirty.size());
  auto run = std::make_shared<FlushRun>();
  for (const SourceNode* node : dirty) run->names.push_back(self->name_of(node));
  const size_t batches = (dirty.size() + kFlushBatch - 1) / kFlushBatch;
  const auto threads = static_cast<unsigned>(std::min<size_t>(kFlushThreads, batches));
  run->threads = threads;
  // Threads of their own, so that a source that hangs does not hang the command: no call that
  // waits for write-back can be given up.
  for (unsigned i = threads; i > 0; --i) {
    run_apart([run, self = self, fd = mount->get()] { flush_thread(run, self, fd); });
  }
  std::unique_lock lock(run->mutex);
  run->ended.wait(lock, [&] { return run->parted == threads; });  // they have MOUNT themselves
  if (!run->ended.wait_for(lock, options_.flush_timeout, [&] { return run->threads == 0; })) {
    return Error{ETIMEDOUT, "the files that are open for writing were not written back within " +
                                std::to_string(options_.flush_timeout.count()) +
                                " s: the source's disk is too slow or hangs; try again"};
  }
  if (run->error != 0) {
    return Error::from_errno(run->error, "cannot flush a file that is open for writing");
  }
  return {};
}

void SourceVolume::ask_size(SourceNode* node, std::function<void(int64_t)> done) {
  const std::shared_ptr<const UniqueFd> mount = self->mounted();
  std::lock_guard lock(jobs_mutex_);
  if (!jobs_ || !mount) {
    done(-1);
    return;
  }
  jobs_->post(
      [self = self, mount, name = self->name_of(node), done] {
        int64_t size = -1;
        (void)on_own_mount([&]() -> Status {
          const HelperThread helper(*self);
          const UniqueFd root(reopen_of_process(mount->get()));
          const UniqueFd fd(openat(root.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
          struct statx st {};
          if (fd && statx(fd.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st) == 0)
            size = static_cast<int64_t>(st.stx_size);
          return {};
        });
        done(size);  // answers a request: on this thread, which has the way to do that
      },
      [done] { done(-1); });
}

}  // namespace clonefs
