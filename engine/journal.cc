#include "engine/journal.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace clonefs::detail {

namespace {

constexpr char kMagic[16] = "clonefs journal";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kRecordMagic = 0x4b525443;  // "CTRK"
constexpr uint64_t kHeaderSize = 4096;
constexpr uint64_t kMostWaiting = 32 << 20;
// A writer that comes to where zeros are being written waits for these.
constexpr uint64_t kZerosAtOnce = 1 << 20;

// All numbers in the order of the machine that writes: a pool does not move between byte orders
// (the version, read in the wrong order, is refused).
struct FileHeader {
  char magic[16];
  uint32_t version;
  uint32_t zero;
  uint64_t generation;
  uint64_t sum;  // of what is before
};

struct RecordHeader {
  uint32_t magic;
  uint32_t object;
  uint64_t generation;
  uint64_t position;  // of this header in the file
  uint64_t commit;    // position of the first record that was made durable with it
  uint64_t session;
  uint64_t offset;
  uint64_t length;
  uint64_t data_sum;
  uint64_t sum;  // of what is before
};

uint64_t sum_of(const void* data, size_t size) { return XXH3_64bits(data, size); }
uint64_t header_sum(const FileHeader& h) { return sum_of(&h, offsetof(FileHeader, sum)); }
uint64_t header_sum(const RecordHeader& h) { return sum_of(&h, offsetof(RecordHeader, sum)); }
constexpr uint64_t padded(uint64_t n) { return (n + 7) / 8 * 8; }

}  // namespace

Result<std::unique_ptr<Journal>> Journal::open(Disk& disk, int dir, uint64_t limit,
                                               std::function<void()> call_for_checkpoint) {
  std::unique_ptr<Journal> journal(new Journal(disk, limit, std::move(call_for_checkpoint)));
  for (unsigned i = 0; i < 2; ++i) {
    File& file = journal->files_[i];
    const std::string name = i == 0 ? "0" : "1";
    file.fd = Fd(disk, disk.open(dir, name.c_str(), O_RDWR | O_NOFOLLOW));
    if (file.fd.get() == -ENOENT) {
      file.missed = true;
      file.fd = Fd(disk, disk.open(dir, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    }
    if (file.fd) file.for_zeros = Fd(disk, disk.open(dir, name.c_str(), O_WRONLY | O_NOFOLLOW));
    for (const Fd* fd : {&file.fd, &file.for_zeros})
      if (!*fd) return Error::from_errno(fd->get(), "cannot open the journal of the pool");
    FileHeader h{};
    const ssize_t n = disk.pread_full(file.fd.get(), &h, sizeof h, 0);
    if (n < 0)
      return Error::from_errno(static_cast<int>(n), "cannot read the journal of the pool");
    if (n == sizeof h && std::memcmp(h.magic, kMagic, sizeof kMagic) == 0 &&
        h.sum == header_sum(h)) {
      if (h.version != kVersion)
        return Error{EUCLEAN, "the journal of the pool has version " + std::to_string(h.version) +
                                  ", this clonefs knows version " + std::to_string(kVersion) +
                                  "; use the clonefs that made it"};
      file.generation = h.generation;
    }
    journal->generation_ = std::max(journal->generation_, file.generation + 1);
  }
  if (const int e = disk.sync(dir); e < 0)
    return Error::from_errno(e, "cannot sync the journal of the pool");
  return journal;
}

// With the mutex held: FILE gets a new header, and takes records.
int Journal::start(File& file) {
  FileHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kVersion;
  h.generation = generation_++;
  h.sum = header_sum(h);
  if (const int e = disk_.pwrite_full(file.fd.get(), &h, sizeof h, 0); e < 0) return e;
  file.generation = h.generation;
  file.end = kHeaderSize;
  file.needed = true;
  return 0;
}

int Journal::append(const std::vector<JournalRecord>& records, std::chrono::milliseconds patience) {
  uint64_t size = 0;
  for (const auto& r : records) size += sizeof(RecordHeader) + padded(r.range.length);
  if (size == 0) return 0;
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::unique_lock lock(mutex_);
  // Room first, so that what waits stays bounded.
  for (bool called = false;;) {
    const File& file = files_[current_];
    const uint64_t used = std::max(file.end, kHeaderSize) + waiting_.size();
    // A single record that is larger than a file may have the file for itself.
    const bool fits = used + size <= limit_ || used == kHeaderSize;
    if (fits && (waiting_.empty() || waiting_.size() + size <= kMostWaiting)) break;
    if (!fits && !called) {
      called = true;
      lock.unlock();
      call_for_checkpoint_();
      lock.lock();
      continue;  // room may have been made before anybody waited for it
    }
    called = false;
    if (patience.count() == 0)
      changed_.wait(lock);
    else if (changed_.wait_until(lock, deadline) == std::cv_status::timeout)
      return -ENOSPC;
  }
  const uint64_t ticket = ++waiting_ticket_;
  for (const auto& r : records) {
    // Generation, position and commit are filled in by the commit that takes it.
    RecordHeader h{kRecordMagic,   r.object,       0, 0, 0, r.session, r.range.offset, r.range.length,
                   sum_of(r.data, r.range.length), 0};
    const auto* bytes = reinterpret_cast<const char*>(&h);
    waiting_.insert(waiting_.end(), bytes, bytes + sizeof h);
    waiting_.insert(waiting_.end(), r.data, r.data + r.range.length);
    waiting_.resize(waiting_.size() + padded(r.range.length) - r.range.length);
    ++statistics_.records;
  }
  while (committed_ticket_ < ticket) {
    if (committing_) {
      changed_.wait(lock);
      continue;
    }
    // This writer commits for all that wait.
    committing_ = true;
    std::vector<char> batch;
    batch.swap(waiting_);
    const uint64_t last = waiting_ticket_;
    File& file = files_[current_];
    int e = 0;
    if (file.end < kHeaderSize || !file.needed) {
      changed_.wait(lock, [&] { return file.zeroing >= kHeaderSize; });
      e = start(file);
    }
    const uint64_t at = file.end;
    if (e == 0) {
      for (uint64_t p = 0; p < batch.size();) {
        RecordHeader h;
        std::memcpy(&h, batch.data() + p, sizeof h);
        h.generation = file.generation;
        h.position = at + p;
        h.commit = at;
        h.sum = header_sum(h);
        std::memcpy(batch.data() + p, &h, sizeof h);
        p += sizeof h + padded(h.length);
      }
      file.end += batch.size();
      changed_.wait(lock, [&] { return file.end <= file.zeroing; });
    }
    lock.unlock();
    if (e == 0) e = disk_.pwrite_full(file.fd.get(), batch.data(), batch.size(), at);
    if (e == 0) e = disk_.datasync(file.fd.get());
    lock.lock();
    committing_ = false;
    const uint64_t before = committed_ticket_;
    committed_ticket_ = last;
    ++statistics_.commits;
    statistics_.bytes += batch.size();
    if (e == 0) file.written = std::max(file.written, file.end);
    if (e < 0) {
      failed_first_ = before + 1;
      failed_last_ = last;
      failure_ = e;
      // Nothing after a hole would be found: go on where the last good record ends. A header that was
      // written with it is not to be relied on.
      if (file.end == at + batch.size()) file.end = at == kHeaderSize ? 0 : at;
    }
    changed_.notify_all();
  }
  if (ticket >= failed_first_ && ticket <= failed_last_) return failure_;
  const bool filling = files_[current_].end > limit_ / 2;
  lock.unlock();
  if (filling) call_for_checkpoint_();
  return 0;
}

bool Journal::zero_ahead(uint64_t bytes) {
  const std::lock_guard one(zeroing_mutex_);
  bytes = std::min(bytes, limit_);
  for (File& file : files_) {
    uint64_t from, n;
    {
      const std::lock_guard lock(mutex_);
      // The place of the header as well, when there is none.
      from = std::max(file.written, file.end);
      if (from >= bytes) continue;
      n = std::min(kZerosAtOnce, bytes - from);
      file.zeroing = from;
    }
    const std::vector<char> zeros(n);
    int e = disk_.pwrite_full(file.for_zeros.get(), zeros.data(), n, from);
    if (e == 0) e = disk_.datasync(file.for_zeros.get());
    const std::lock_guard lock(mutex_);
    file.zeroing = UINT64_MAX;
    if (e == 0) file.written = from + n;
    changed_.notify_all();
    return e == 0;
  }
  return false;
}

bool Journal::rotate() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !committing_; });
  File& next = files_[1 - current_];
  if (next.needed) return false;
  if (!files_[current_].needed) return true;  // nothing in it
  next.end = 0;
  current_ = 1 - current_;
  changed_.notify_all();
  return true;
}

void Journal::release() {
  const std::lock_guard lock(mutex_);
  File& old = files_[1 - current_];
  old.needed = false;
  old.end = 0;
  changed_.notify_all();
}

Status Journal::replay(const std::function<Status(const JournalRecord&)>& fn) {
  const bool first = files_[0].generation <= files_[1].generation;
  if (auto s = replay_file(files_[first ? 0 : 1], fn); !s) return s;
  return replay_file(files_[first ? 1 : 0], fn);
}

Status Journal::replay_file(File& file, const std::function<Status(const JournalRecord&)>& fn) {
  if (file.generation == 0) return {};
  std::vector<char> data;
  for (uint64_t at = kHeaderSize;;) {
    RecordHeader h{};
    ssize_t n = disk_.pread_full(file.fd.get(), &h, sizeof h, at);
    if (n < 0) return Error::from_errno(static_cast<int>(n), "cannot read the journal of the pool");
    if (n != sizeof h || h.magic != kRecordMagic || h.sum != header_sum(h) ||
        h.generation != file.generation || h.position != at || h.length > kMaxRecord)
      return {};
    data.resize(h.length);
    n = disk_.pread_full(file.fd.get(), data.data(), data.size(), at + sizeof h);
    if (n < 0) return Error::from_errno(static_cast<int>(n), "cannot read the journal of the pool");
    if (static_cast<uint64_t>(n) != h.length || sum_of(data.data(), data.size()) != h.data_sum)
      return {};
    if (auto s = fn({h.session, h.object, {h.offset, h.length}, data.data()}); !s) return s;
    at += sizeof h + padded(h.length);
  }
}

Journal::Check Journal::check(Disk& disk, int fd, uint64_t size) {
  FileHeader h{};
  const FileHeader none{};
  if (disk.pread_full(fd, &h, sizeof h, 0) < 0) return {"its header cannot be read", true};
  if (std::memcmp(&h, &none, sizeof h) == 0) return {};  // never durable
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0 || h.sum != header_sum(h))
    return {"its header is damaged", true};
  if (h.version != kVersion) return {"it has version " + std::to_string(h.version), true};
  std::vector<char> data;
  const auto record_at = [&](uint64_t at, RecordHeader* r) {
    return disk.pread_full(fd, r, sizeof *r, at) == sizeof *r && r->magic == kRecordMagic &&
           r->sum == header_sum(*r) && r->generation == h.generation && r->position == at &&
           r->length <= kMaxRecord;
  };
  uint64_t at = kHeaderSize;
  for (RecordHeader r{}; record_at(at, &r); at += sizeof r + padded(r.length)) {
    data.resize(r.length);
    if (disk.pread_full(fd, data.data(), data.size(), at + sizeof r) !=
            static_cast<ssize_t>(r.length) ||
        sum_of(data.data(), data.size()) != r.data_sum)
      break;
  }
  // Whatever is behind that could still be read: of the last commit, or it is damage.
  constexpr uint64_t kAtOnce = 1 << 20;
  for (uint64_t from = at + 8; from < size; from += kAtOnce) {
    data.resize(std::min(kAtOnce, size - from));
    const ssize_t n = disk.pread_full(fd, data.data(), data.size(), from);
    for (ssize_t i = 0; i + 8 <= n; i += 8) {
      uint32_t magic;
      std::memcpy(&magic, data.data() + i, sizeof magic);
      RecordHeader r{};
      const uint64_t place = from + static_cast<uint64_t>(i);
      if (magic == kRecordMagic && record_at(place, &r))
        // A commit begins when what is before it is durable.
        return {"the record at byte " + std::to_string(at) + " cannot be read, one at byte " +
                    std::to_string(place) + " can",
                r.commit > at};
    }
    if (n <= 0) break;
  }
  return {};
}

std::string Journal::damage() const {
  for (const File& file : files_) {
    const std::string name = "file " + std::to_string(&file - files_.data()) + " of it ";
    if (file.missed) return name + "is missing";
    struct stat st{};
    if (const int e = disk_.stat(file.fd.get(), "", &st); e < 0)
      return Error::from_errno(e, name + "cannot be read").message;
    const Check found = check(disk_, file.fd.get(), static_cast<uint64_t>(st.st_size));
    if (found.certain) return name + "is damaged: " + found.error;
  }
  return "";
}

Status Journal::reset() {
  const std::lock_guard lock(mutex_);
  for (File& file : files_) {
    int e = disk_.truncate(file.fd.get(), 0);
    if (e == 0) e = disk_.sync(file.fd.get());
    if (e < 0) return Error::from_errno(e, "cannot empty the journal of the pool");
    file.end = 0;
    file.written = 0;
    file.needed = false;
    file.generation = 0;
  }
  return {};
}

Journal::Statistics Journal::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace clonefs::detail
