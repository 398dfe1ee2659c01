// PowerDisk: a disk whose power can fail. What is written through it is seen at once, as in a page
// cache, and durable after a sync of the file or the file system; cut() takes away any part of
// what was not, sector by sector (512 bytes), and sizes too. Names are as on a journaling file
// system: durable in order. What the tests write to the source without it is all durable: that is
// the worst case for copy on first write.
#pragma once

#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>

#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {

class PowerDisk : public ForwardingDisk {
 public:
  using ForwardingDisk::ForwardingDisk;
  ~PowerDisk() override;

  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override;
  int truncate(int fd, uint64_t size) override;
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override;
  int datasync(int fd) override;
  int sync(int fd) override;
  int syncfs(int fd) override;

  // The power fails: from the seed, each unsynced sector is there or not.
  void cut(uint64_t seed);

  // Faults to show that the tests can fail.
  bool lie_about_sync = false;  // of files: nothing becomes durable

 private:
  static constexpr uint64_t kSector = 512;
  struct File {
    int fd = -1;
    uint64_t durable_size = 0;
    std::map<uint64_t, std::string> before;  // durable content of unsynced sectors
  };
  using Key = std::pair<dev_t, ino_t>;
  File* file(int fd, uint64_t* size);
  void save(int fd, uint64_t offset, uint64_t length);
  void forget(int fd);

  std::mutex mutex_;
  std::map<Key, File> files_;
};

}  // namespace clonefs::test
