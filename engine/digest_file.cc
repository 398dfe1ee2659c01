#include "engine/digest_file.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace clonefs::detail {

uint64_t digest_of(const char* data, size_t size) {
  while (size >= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, data + size - sizeof word, sizeof word);
    if (word != 0) break;
    size -= sizeof word;
  }
  while (size > 0 && data[size - 1] == 0) --size;
  return size == 0 ? 0 : XXH3_64bits(data, size);
}

Result<DigestFile> DigestFile::open(Disk& disk, int dir, const std::string& name, bool make) {
  return open(disk, dir, name, O_RDWR | (make ? O_CREAT : 0));
}

Result<DigestFile> DigestFile::read_only(Disk& disk, int dir, const std::string& name) {
  return open(disk, dir, name, O_RDONLY);
}

Result<DigestFile> DigestFile::open(Disk& disk, int dir, const std::string& name, int flags) {
  const bool make = (flags & O_CREAT) != 0;
  DigestFile file;
  file.disk_ = &disk;
  file.unsynced_ = std::make_unique<Unsynced>();
  file.fd_ = Fd(disk, disk.open(dir, name.c_str(), flags | O_NOFOLLOW, 0600));
  if (!file.fd_) return Error::from_errno(file.fd_.get(), "cannot open the digests " + name);
  char header[kHeaderSize] = {};
  const ssize_t n = disk.pread_full(file.fd_.get(), header, kHeaderSize, 0);
  if (n < 0)
    return Error::from_errno(static_cast<int>(n), "cannot read the digests " + name);
  if (n == 0 && make) {
    if (const int e = file.clear(); e < 0)
      return Error::from_errno(e, "cannot write the digests " + name);
  } else if (std::memcmp(header, kMagic, kHeaderSize) != 0) {
    return Error{EUCLEAN, "the digests " + name + " are damaged: they have no header"};
  }
  return file;
}

int DigestFile::write(uint64_t at, const uint64_t* digests, uint64_t count) {
  if (!fd_ || count == 0) return 0;
  const int e = disk_->pwrite_full(fd_.get(), digests, count * sizeof *digests, at * sizeof *digests);
  unsynced_->any.store(true);
  return e;
}

int DigestFile::read(uint64_t at, uint64_t* digests, uint64_t count) const {
  const ssize_t n =
      disk_->pread_full(fd_.get(), digests, count * sizeof *digests, at * sizeof *digests);
  if (n < 0) return static_cast<int>(n);
  auto* bytes = reinterpret_cast<char*>(digests);
  std::fill(bytes + n, bytes + count * sizeof *digests, 0);
  return 0;
}

int DigestFile::forget(uint64_t at, uint64_t count) {
  constexpr uint64_t kAtOnce = 1 << 16;
  std::vector<uint64_t> digests;
  struct stat st{};
  if (!fd_) return 0;
  if (const int e = disk_->stat(fd_.get(), "", &st); e < 0) return e;
  // Beyond the file's end there are none, however far a region claims to go.
  const uint64_t there = static_cast<uint64_t>(st.st_size) / sizeof at + 1;
  for (const uint64_t end = std::min(at + count, there); at < end; at += digests.size()) {
    digests.resize(std::min(kAtOnce, end - at));
    int e = read(at, digests.data(), digests.size());
    // Mostly there is nothing: no space for that.
    if (e == 0 && std::any_of(digests.begin(), digests.end(), [](uint64_t d) { return d != 0; })) {
      std::fill(digests.begin(), digests.end(), 0);
      e = write(at, digests.data(), digests.size());
    }
    if (e < 0) return e;
  }
  return 0;
}

int DigestFile::datasync() {
  if (!fd_) return 0;
  const std::lock_guard lock(unsynced_->mutex);
  if (!unsynced_->any.exchange(false)) return 0;
  const int e = disk_->datasync(fd_.get());
  if (e < 0) unsynced_->any.store(true);
  return e;
}

int DigestFile::cut(uint64_t end) {
  struct stat st{};
  if (!fd_) return 0;
  if (const int e = disk_->stat(fd_.get(), "", &st); e < 0) return e;
  const uint64_t size = std::max(kHeaderSize, end * sizeof(uint64_t));
  if (static_cast<uint64_t>(st.st_size) <= size) return 0;
  unsynced_->any.store(true);
  return disk_->truncate(fd_.get(), size);
}

int DigestFile::clear() {
  unsynced_->any.store(true);
  if (const int e = disk_->truncate(fd_.get(), 0); e < 0) return e;
  return disk_->pwrite_full(fd_.get(), kMagic, kHeaderSize, 0);
}

}  // namespace clonefs::detail
