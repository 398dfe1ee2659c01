// Disk: all access of the engine to the volume's and the pool's files. POSIX calls with their
// usual meaning, except that an error is returned as -errno and short transfers are retried by the
// *_full helpers below. One implementation calls the kernel; tests stand in others that inject
// faults. Thread safety: all calls may run in parallel.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace clonefs {

class Disk {
 public:
  virtual ~Disk() = default;

  // Handles. open: flags get O_CLOEXEC. "" as path with AT_EMPTY_PATH where the call allows it.
  virtual int open(int dir, const char* path, int flags, mode_t mode = 0) = 0;
  virtual int close(int fd) = 0;
  virtual int duplicate(int fd) = 0;
  // An exclusive lock that the kernel drops with the last descriptor; -EWOULDBLOCK: held elsewhere.
  virtual int lock(int fd) = 0;
  // File handle of an object (name_to_handle_at); the bytes include the type. -EOPNOTSUPP where
  // the file system has none.
  virtual int handle_of(int fd, std::string* handle) = 0;
  // open_by_handle_at; MOUNT is any descriptor on the same file system. -EPERM without privilege,
  // -ESTALE when the object is gone.
  virtual int open_handle(int mount, const std::string& handle, int flags) = 0;
  // Where the object is now, for messages.
  virtual int path_of(int fd, std::string* path) = 0;
  // A new descriptor of the object behind an O_PATH (or any) descriptor, through /proc/self/fd.
  virtual int reopen(int fd, int flags) = 0;

  // Data.
  virtual ssize_t pread(int fd, void* data, size_t size, uint64_t offset) = 0;
  virtual ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) = 0;
  // The file system makes LENGTH bytes at OFFSET of TO what FROM has there, holes included. kShare: with
  // blocks that both share from then on (FICLONERANGE); kServer: by a copy that a server makes without
  // sending the data (copy_file_range on a network file system). 0 or -errno; -EOPNOTSUPP, -ENOTTY,
  // -EXDEV: these files never will. What was copied of a part when it fails is not known.
  enum class Transfer { kShare, kServer };
  virtual int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) = 0;
  virtual int truncate(int fd, uint64_t size) = 0;
  virtual int allocate(int fd, int mode, uint64_t offset, uint64_t length) = 0;
  virtual int64_t seek(int fd, uint64_t offset, int whence) = 0;  // SEEK_DATA, SEEK_HOLE
  // Where the file's data lies (FIEMAP), in file order; -EOPNOTSUPP where nobody knows.
  struct Placement {
    uint64_t offset;
    uint64_t length;
    uint64_t physical;
  };
  virtual int placement(int fd, std::vector<Placement>* extents) = 0;
  // What the kernel remembers of the file's data and is not dirty is read from the disk again.
  virtual int drop_cache(int fd) = 0;
  // Begins to write that data to the disk; WAIT: and waits until that is done. No promise: what must
  // survive is synced.
  virtual void write_out(int /*fd*/, uint64_t /*offset*/, uint64_t /*length*/, bool /*wait*/) {}
  virtual int datasync(int fd) = 0;
  virtual int sync(int fd) = 0;
  virtual int syncfs(int fd) = 0;

  // Attributes. stat: path "" is the descriptor itself; never follows a symbolic link. The
  // setters take any descriptor, O_PATH included.
  virtual int stat(int dir, const char* path, struct stat* st) = 0;
  // Which mount of this boot the descriptor lies on: another one for each mount(2).
  virtual int mount_id(int fd, uint64_t* id) = 0;
  virtual int statvfs(int fd, struct statvfs* st) = 0;
  virtual int chmod(int fd, mode_t mode) = 0;
  virtual int chown(int fd, uid_t uid, gid_t gid) = 0;
  virtual int utimes(int fd, const struct timespec times[2]) = 0;
  virtual ssize_t list_xattr(int fd, std::string* names) = 0;  // NUL-separated
  virtual ssize_t get_xattr(int fd, const char* name, std::string* value) = 0;
  virtual int set_xattr(int fd, const char* name, const std::string& value) = 0;
  virtual int remove_xattr(int fd, const char* name) = 0;

  // Names.
  struct Entry {
    std::string name;
    uint64_t ino;
    unsigned char type;  // DT_*; DT_UNKNOWN is possible
  };
  // Calls FN for each entry but "." and ".."; FN returns false to stop. Uses its own descriptor.
  virtual int list(int dir, const std::function<bool(const Entry&)>& fn) = 0;
  virtual int mkdir(int dir, const char* name, mode_t mode) = 0;
  virtual int mknod(int dir, const char* name, mode_t mode, dev_t dev) = 0;
  virtual int symlink(const char* target, int dir, const char* name) = 0;
  virtual ssize_t readlink(int fd, std::string* target) = 0;
  virtual int link(int fd, int dir, const char* name) = 0;  // of the object behind fd
  virtual int unlink(int dir, const char* name, int flags) = 0;
  virtual int rename(int from_dir, const char* from, int to_dir, const char* to,
                     unsigned flags) = 0;

  // Whole transfers. Read stops early at the end of the file only.
  ssize_t pread_full(int fd, void* data, size_t size, uint64_t offset);
  int pwrite_full(int fd, const void* data, size_t size, uint64_t offset);
};

// The kernel's. Lives as long as the program.
Disk& posix_disk();

// Closes a descriptor of a Disk at the end of a scope.
class Fd {
 public:
  Fd() = default;
  Fd(Disk& disk, int fd) : disk_(&disk), fd_(fd) {}
  Fd(Fd&& o) noexcept : disk_(o.disk_), fd_(o.release()) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) {
      reset();
      disk_ = o.disk_;
      fd_ = o.release();
    }
    return *this;
  }
  ~Fd() { reset(); }

  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }  // negative: the -errno that open gave
  int release() {
    const int fd = fd_;
    fd_ = -EBADF;
    return fd;
  }
  void reset() {
    if (fd_ >= 0) disk_->close(fd_);
    fd_ = -EBADF;
  }

 private:
  Disk* disk_ = nullptr;
  int fd_ = -EBADF;
};

}  // namespace clonefs
