// FaultDisk: a disk whose calls fail as a test wants. The catalog's calls (SQLite has its own way to
// the files) are asked about too, of all engines in the process, while a FaultDisk lives: one at a time.
#pragma once

#include <functional>
#include <mutex>
#include <string>

#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {

class FaultDisk : public ForwardingDisk {
 public:
  struct Call {
    const char* name;      // "pwrite", "open"; "catalog write" ...
    int fd = -1;           // of the file, or of the directory that PATH is in; -1: the catalog
    const char* path = ""; // "" is FD itself
    bool changes = false;  // needs a disk that can be written
    // Where FD is, and PATH in it.
    std::string place() const;
  };
  FaultDisk();
  ~FaultDisk() override;

  // Changes what the file system says of its room.
  std::function<void(struct statvfs*)> room;
  // Asked before each call: 0, or the -errno with which it fails, undone. One call at a time.
  std::function<int(const Call&)> fault;
  // While other threads may call.
  void set_fault(std::function<int(const Call&)> to) {
    const std::lock_guard lock(mutex_);
    fault = std::move(to);
  }
  int ask(const Call& call) {
    const std::lock_guard lock(mutex_);
    return fault ? fault(call) : 0;
  }

  int open(int dir, const char* path, int flags, mode_t mode) override;
  int open_handle(int mount, const std::string& handle, int flags) override;
  int reopen(int fd, int flags) override;
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override;
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override;
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override;
  int truncate(int fd, uint64_t size) override;
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override;
  int datasync(int fd) override;
  int sync(int fd) override;
  int syncfs(int fd) override;
  int stat(int dir, const char* path, struct stat* st) override;
  int statvfs(int fd, struct statvfs* st) override;
  int chmod(int fd, mode_t mode) override;
  int chown(int fd, uid_t uid, gid_t gid) override;
  int utimes(int fd, const struct timespec times[2]) override;
  ssize_t list_xattr(int fd, std::string* names) override;
  ssize_t get_xattr(int fd, const char* name, std::string* value) override;
  int set_xattr(int fd, const char* name, const std::string& value) override;
  int remove_xattr(int fd, const char* name) override;
  int list(int dir, const std::function<bool(const Entry&)>& fn) override;
  int mkdir(int dir, const char* name, mode_t mode) override;
  int mknod(int dir, const char* name, mode_t mode, dev_t dev) override;
  int symlink(const char* target, int dir, const char* name) override;
  int link(int fd, int dir, const char* name) override;
  int unlink(int dir, const char* name, int flags) override;
  int rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) override;

 private:
  std::mutex mutex_;
};

}  // namespace clonefs::test
