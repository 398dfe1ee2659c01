#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>

#include "engine/disk.h"

namespace clonefs {

ssize_t Disk::pread_full(int fd, void* data, size_t size, uint64_t offset) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, static_cast<char*>(data) + done, size - done, offset + done);
    if (n == -EINTR) continue;
    if (n < 0) return n;
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

int Disk::pwrite_full(int fd, const void* data, size_t size, uint64_t offset) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pwrite(fd, static_cast<const char*>(data) + done, size - done, offset + done);
    if (n == -EINTR) continue;
    if (n < 0) return static_cast<int>(n);
    if (n == 0) return -EIO;
    done += static_cast<size_t>(n);
  }
  return 0;
}

namespace {

template <class T>
T or_errno(T result) {
  return result < 0 ? -errno : result;
}

// The object behind a descriptor as a path: the calls that have no *at form for O_PATH descriptors
// take it; it leads to the object itself, also when that is a symbolic link.
struct FdPath {
  char text[32];
  explicit FdPath(int fd) { std::snprintf(text, sizeof text, "/proc/self/fd/%d", fd); }
};

// A file handle as bytes: the type (4 bytes), then the handle.
constexpr size_t kHandleTypeSize = sizeof(int);

// Of statfs: NFS, SMB (both), Ceph. linux/magic.h has not all of them on every system.
bool has_copying_server(decltype(statfs::f_type) type) {
  const auto magic = static_cast<uint32_t>(type);
  return magic == 0x6969 || magic == 0xff534d42 || magic == 0xfe534d42 || magic == 0x00c36400;
}

class PosixDisk final : public Disk {
 public:
  int open(int dir, const char* path, int flags, mode_t mode) override {
    int fd;
    do {
      fd = ::openat(dir, path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return or_errno(fd);
  }
  int close(int fd) override { return or_errno(::close(fd)); }
  int duplicate(int fd) override { return or_errno(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }
  int lock(int fd) override { return or_errno(::flock(fd, LOCK_EX | LOCK_NB)); }

  int handle_of(int fd, std::string* handle) override {
    union {
      struct file_handle head;
      char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } buffer{};
    buffer.head.handle_bytes = MAX_HANDLE_SZ;
    int mount_id;
    if (::name_to_handle_at(fd, "", &buffer.head, &mount_id, AT_EMPTY_PATH) != 0) return -errno;
    handle->assign(reinterpret_cast<const char*>(&buffer.head.handle_type), kHandleTypeSize);
    handle->append(reinterpret_cast<const char*>(buffer.head.f_handle), buffer.head.handle_bytes);
    return 0;
  }

  int open_handle(int mount, const std::string& handle, int flags) override {
    if (handle.size() <= kHandleTypeSize || handle.size() > kHandleTypeSize + MAX_HANDLE_SZ)
      return -EINVAL;
    union {
      struct file_handle head;
      char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } buffer{};
    buffer.head.handle_bytes = static_cast<unsigned>(handle.size() - kHandleTypeSize);
    std::memcpy(&buffer.head.handle_type, handle.data(), kHandleTypeSize);
    std::memcpy(buffer.head.f_handle, handle.data() + kHandleTypeSize, buffer.head.handle_bytes);
    // The kernel answers ENOMEM also while the directory is being removed (it cannot be connected to
    // its parent any more): that ends, with ESTALE.
    int fd = -1;
    for (unsigned attempt = 0; attempt < 1000; ++attempt) {
      fd = ::open_by_handle_at(mount, &buffer.head, flags | O_CLOEXEC);
      if (fd >= 0 || (errno != ENOMEM && errno != EINTR)) break;
      if (attempt >= 8) ::usleep(100);
    }
    return or_errno(fd);
  }

  int path_of(int fd, std::string* path) override {
    path->resize(PATH_MAX);
    const ssize_t n = ::readlink(FdPath(fd).text, path->data(), path->size());
    if (n < 0) return -errno;
    path->resize(static_cast<size_t>(n));
    return 0;
  }
  int reopen(int fd, int flags) override {
    return or_errno(::open(FdPath(fd).text, flags | O_CLOEXEC));
  }

  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    return or_errno(::pread(fd, data, size, static_cast<off_t>(offset)));
  }
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    return or_errno(::pwrite(fd, data, size, static_cast<off_t>(offset)));
  }
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override {
    if (how == Transfer::kShare) {
      struct file_clone_range range{from, offset, length, offset};
      return or_errno(::ioctl(to, FICLONERANGE, &range));
    }
    // Anywhere else the kernel would read and write itself: so can we, and we have read already.
    struct statfs there{}, here{};
    if (::fstatfs(from, &there) != 0 || ::fstatfs(to, &here) != 0) return -errno;
    if (there.f_type != here.f_type || !has_copying_server(here.f_type)) return -EOPNOTSUPP;
    auto in = static_cast<off_t>(offset), out = in;
    for (uint64_t left = length; left > 0;) {
      const ssize_t n = ::copy_file_range(from, &in, to, &out, left, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return -errno;
      if (n == 0) return -EIO;  // cut off
      left -= static_cast<uint64_t>(n);
    }
    return 0;
  }
  int truncate(int fd, uint64_t size) override {
    return or_errno(::ftruncate(fd, static_cast<off_t>(size)));
  }
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override {
    return or_errno(
        ::fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
  }
  int64_t seek(int fd, uint64_t offset, int whence) override {
    return or_errno(static_cast<int64_t>(::lseek(fd, static_cast<off_t>(offset), whence)));
  }

  int placement(int fd, std::vector<Placement>* extents) override {
    constexpr unsigned kBatch = 256;
    const size_t bytes = sizeof(struct fiemap) + kBatch * sizeof(struct fiemap_extent);
    const auto buffer = std::make_unique<uint64_t[]>((bytes + 7) / 8);
    auto* map = reinterpret_cast<struct fiemap*>(buffer.get());
    uint64_t from = 0;
    for (;;) {
      std::memset(map, 0, sizeof *map);
      map->fm_start = from;
      map->fm_length = FIEMAP_MAX_OFFSET - from;
      map->fm_extent_count = kBatch;
      if (::ioctl(fd, FS_IOC_FIEMAP, map) != 0) return -errno;
      for (unsigned i = 0; i < map->fm_mapped_extents; ++i) {
        const auto& e = map->fm_extents[i];
        extents->push_back({e.fe_logical, e.fe_length, e.fe_physical});
        from = e.fe_logical + e.fe_length;
        if ((e.fe_flags & FIEMAP_EXTENT_LAST) != 0) return 0;
      }
      if (map->fm_mapped_extents < kBatch) return 0;
    }
  }

  int drop_cache(int fd) override {
    return -::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  void write_out(int fd, uint64_t offset, uint64_t length, bool wait) override {
    constexpr unsigned kWait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
    ::sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(length),
                      SYNC_FILE_RANGE_WRITE | (wait ? kWait : 0));
  }
  int datasync(int fd) override { return or_errno(::fdatasync(fd)); }
  int sync(int fd) override { return or_errno(::fsync(fd)); }
  int syncfs(int fd) override { return or_errno(::syncfs(fd)); }

  int stat(int dir, const char* path, struct stat* st) override {
    return or_errno(::fstatat(dir, path, st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
  }
  int mount_id(int fd, uint64_t* id) override {
    // Never given twice, where the kernel knows it (6.8): glibc of Debian 12 has no name for it.
    constexpr unsigned kMountIdUnique = 0x4000;
    struct statx stx {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID | kMountIdUnique, &stx) != 0) return -errno;
    *id = stx.stx_mnt_id;
    return 0;
  }
  int statvfs(int fd, struct statvfs* st) override { return or_errno(::fstatvfs(fd, st)); }
  int chmod(int fd, mode_t mode) override { return or_errno(::chmod(FdPath(fd).text, mode)); }
  int chown(int fd, uid_t uid, gid_t gid) override {
    return or_errno(::fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
  }
  int utimes(int fd, const struct timespec times[2]) override {
    return or_errno(::utimensat(fd, "", times, AT_EMPTY_PATH));
  }

  ssize_t list_xattr(int fd, std::string* names) override {
    const FdPath path(fd);
    for (;;) {
      const ssize_t need = ::listxattr(path.text, nullptr, 0);
      if (need < 0) return -errno;
      names->resize(static_cast<size_t>(need));
      if (need == 0) return 0;
      const ssize_t n = ::listxattr(path.text, names->data(), names->size());
      if (n < 0 && errno == ERANGE) continue;
      if (n < 0) return -errno;
      names->resize(static_cast<size_t>(n));
      return n;
    }
  }
  ssize_t get_xattr(int fd, const char* name, std::string* value) override {
    const FdPath path(fd);
    for (;;) {
      const ssize_t need = ::getxattr(path.text, name, nullptr, 0);
      if (need < 0) return -errno;
      value->resize(static_cast<size_t>(need));
      if (need == 0) return 0;
      const ssize_t n = ::getxattr(path.text, name, value->data(), value->size());
      if (n < 0 && errno == ERANGE) continue;
      if (n < 0) return -errno;
      value->resize(static_cast<size_t>(n));
      return n;
    }
  }
  int set_xattr(int fd, const char* name, const std::string& value) override {
    return or_errno(::setxattr(FdPath(fd).text, name, value.data(), value.size(), 0));
  }
  int remove_xattr(int fd, const char* name) override {
    return or_errno(::removexattr(FdPath(fd).text, name));
  }

  int list(int dir, const std::function<bool(const Entry&)>& fn) override {
    const int fd = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    DIR* stream = ::fdopendir(fd);
    if (stream == nullptr) {
      const int error = errno;
      ::close(fd);
      return -error;
    }
    int result = 0;
    for (;;) {
      errno = 0;
      const struct dirent* e = ::readdir(stream);
      if (e == nullptr) {
        result = -errno;
        break;
      }
      const std::string_view name = e->d_name;
      if (name == "." || name == "..") continue;
      if (!fn({std::string(name), e->d_ino, e->d_type})) break;
    }
    ::closedir(stream);
    return result;
  }
  int mkdir(int dir, const char* name, mode_t mode) override {
    return or_errno(::mkdirat(dir, name, mode));
  }
  int mknod(int dir, const char* name, mode_t mode, dev_t dev) override {
    return or_errno(::mknodat(dir, name, mode, dev));
  }
  int symlink(const char* target, int dir, const char* name) override {
    return or_errno(::symlinkat(target, dir, name));
  }
  ssize_t readlink(int fd, std::string* target) override {
    target->resize(PATH_MAX);
    const ssize_t n = ::readlinkat(fd, "", target->data(), target->size());
    if (n < 0) return -errno;
    target->resize(static_cast<size_t>(n));
    return n;
  }
  int link(int fd, int dir, const char* name) override {
    return or_errno(::linkat(AT_FDCWD, FdPath(fd).text, dir, name, AT_SYMLINK_FOLLOW));
  }
  int unlink(int dir, const char* name, int flags) override {
    return or_errno(::unlinkat(dir, name, flags));
  }
  int rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) override {
    const int e = or_errno(::renameat2(from_dir, from, to_dir, to, flags));
    if (e != -EINVAL || flags != RENAME_NOREPLACE) return e;
    // The file system has no such flag (NFS): nobody else makes names where the engine asks for it.
    struct stat st{};
    const int there = stat(to_dir, to, &st);
    if (there != -ENOENT) return there == 0 ? -EEXIST : there;
    return or_errno(::renameat2(from_dir, from, to_dir, to, 0));
  }
};

}  // namespace

Disk& posix_disk() {
  static PosixDisk disk;
  return disk;
}

}  // namespace clonefs
