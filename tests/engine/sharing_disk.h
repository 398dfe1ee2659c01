// A file system whose files can share blocks, as XFS and btrfs, over one that cannot: it copies instead.
#pragma once

#include <atomic>
#include <cerrno>
#include <functional>
#include <string>

#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {

class SharingDisk : public ForwardingDisk {
 public:
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override {
    if (how != Transfer::kShare) return -EOPNOTSUPP;
    if (before_sharing) before_sharing();
    if (error != 0) return error;
    std::string data(length, '\0');
    const ssize_t n = ForwardingDisk::pread(from, data.data(), length, offset);
    if (n < 0) return static_cast<int>(n);
    if (static_cast<uint64_t>(n) < length) return -EINVAL;  // beyond its end
    const ssize_t put = ForwardingDisk::pwrite(to, data.data(), length, offset);
    if (put < 0) return static_cast<int>(put);
    if (static_cast<uint64_t>(put) < length) return -EIO;
    shared += length;
    return 0;
  }

  std::function<void()> before_sharing;
  int error = 0;
  std::atomic<uint64_t> shared{0};
};

}  // namespace clonefs::test
