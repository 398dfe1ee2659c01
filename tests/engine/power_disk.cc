#include "tests/engine/power_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace clonefs::test {

PowerDisk::~PowerDisk() {
  for (auto& [key, file] : files_) ::close(file.fd);
}

// With the mutex held.
PowerDisk::File* PowerDisk::file(int fd, uint64_t* size) {
  struct stat st {};
  if (ForwardingDisk::stat(fd, "", &st) < 0 || !S_ISREG(st.st_mode)) return nullptr;
  *size = static_cast<uint64_t>(st.st_size);
  File& file = files_[{st.st_dev, st.st_ino}];
  if (file.fd < 0) {
    file.fd = ForwardingDisk::reopen(fd, O_RDWR);
    file.durable_size = *size;
  }
  return &file;
}

void PowerDisk::save(int fd, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  uint64_t size = 0;
  File* f = file(fd, &size);
  if (f == nullptr) return;
  for (uint64_t s = offset / kSector; s * kSector < offset + length; ++s) {
    if (f->before.count(s) != 0) continue;
    std::string old(kSector, '\0');
    ForwardingDisk::pread(f->fd, old.data(), kSector, s * kSector);
    f->before[s] = std::move(old);
  }
}

void PowerDisk::forget(int fd) {
  const std::lock_guard lock(mutex_);
  struct stat st {};
  if (lie_about_sync || ForwardingDisk::stat(fd, "", &st) < 0) return;
  const auto it = files_.find({st.st_dev, st.st_ino});
  if (it == files_.end()) return;
  ::close(it->second.fd);
  files_.erase(it);
}

ssize_t PowerDisk::pwrite(int fd, const void* data, size_t size, uint64_t offset) {
  save(fd, offset, size);
  return ForwardingDisk::pwrite(fd, data, size, offset);
}

int PowerDisk::truncate(int fd, uint64_t size) {
  struct stat st {};
  if (ForwardingDisk::stat(fd, "", &st) == 0 && static_cast<uint64_t>(st.st_size) > size)
    save(fd, size, static_cast<uint64_t>(st.st_size) - size);
  else
    save(fd, 0, 0);
  return ForwardingDisk::truncate(fd, size);
}

int PowerDisk::allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  struct stat st {};
  if (ForwardingDisk::stat(fd, "", &st) == 0 && static_cast<uint64_t>(st.st_size) > offset)
    save(fd, offset, std::min(length, static_cast<uint64_t>(st.st_size) - offset));
  else
    save(fd, 0, 0);
  return ForwardingDisk::allocate(fd, mode, offset, length);
}

int PowerDisk::datasync(int fd) {
  forget(fd);
  return ForwardingDisk::datasync(fd);
}

int PowerDisk::sync(int fd) {
  forget(fd);
  return ForwardingDisk::sync(fd);
}

int PowerDisk::syncfs(int) {
  const std::lock_guard lock(mutex_);
  if (lie_about_sync) return 0;
  for (auto& [key, file] : files_) ::close(file.fd);
  files_.clear();
  return 0;
}

void PowerDisk::cut(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  for (auto& [key, file] : files_) {
    // Some files survive whole, some not at all, most in part.
    const uint64_t lost = std::uniform_int_distribution<uint64_t>(0, 4)(random) * 25;
    struct stat st {};
    if (fstat(file.fd, &st) != 0) continue;
    const auto chance = [&](uint64_t percent) {
      return std::uniform_int_distribution<uint64_t>(0, 99)(random) < percent;
    };
    uint64_t size = static_cast<uint64_t>(st.st_size);
    if (size != file.durable_size && chance(lost)) {
      size = file.durable_size;
      if (ftruncate(file.fd, static_cast<off_t>(size)) != 0) continue;
    }
    for (const auto& [sector, content] : file.before) {
      const uint64_t at = sector * kSector;
      if (at >= size || !chance(lost)) continue;
      const auto length = static_cast<size_t>(std::min(kSector, size - at));
      if (::pwrite(file.fd, content.data(), length, static_cast<off_t>(at)) < 0) continue;
    }
  }
}

}  // namespace clonefs::test
