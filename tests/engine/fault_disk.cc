#include "tests/engine/fault_disk.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <new>

namespace clonefs::test {

namespace {

std::atomic<FaultDisk*> g_disk{nullptr};

// --- a VFS of SQLite that asks the FaultDisk, then hands on to the kernel's

struct CatalogFile {
  sqlite3_file base;
  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
  static CatalogFile* of(sqlite3_file* file) { return reinterpret_cast<CatalogFile*>(file); }
};

sqlite3_vfs* kernel_vfs() {
  static sqlite3_vfs* const vfs = sqlite3_vfs_find("unix");
  return vfs;
}

// SQLITE_OK, or an error of KIND (an I/O error's code).
int ask_catalog(const char* name, int kind, bool changes) {
  FaultDisk* const disk = g_disk.load();
  const int e = disk == nullptr ? 0 : disk->ask({name, -1, "", changes});
  if (e == 0) return SQLITE_OK;
  return e == -ENOSPC ? SQLITE_FULL : kind;
}

sqlite3_io_methods catalog_methods() {
  sqlite3_io_methods m{};
  m.iVersion = 1;  // no shared memory: the catalog is locked as a whole
  m.xClose = [](sqlite3_file* f) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xClose(real);
  };
  m.xRead = [](sqlite3_file* f, void* data, int size, sqlite3_int64 offset) {
    if (const int e = ask_catalog("catalog read", SQLITE_IOERR_READ, false)) return e;
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xRead(real, data, size, offset);
  };
  m.xWrite = [](sqlite3_file* f, const void* data, int size, sqlite3_int64 offset) {
    if (const int e = ask_catalog("catalog write", SQLITE_IOERR_WRITE, true)) return e;
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xWrite(real, data, size, offset);
  };
  m.xTruncate = [](sqlite3_file* f, sqlite3_int64 size) {
    if (const int e = ask_catalog("catalog truncate", SQLITE_IOERR_TRUNCATE, true)) return e;
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xTruncate(real, size);
  };
  m.xSync = [](sqlite3_file* f, int flags) {
    if (const int e = ask_catalog("catalog sync", SQLITE_IOERR_FSYNC, true)) return e;
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xSync(real, flags);
  };
  m.xFileSize = [](sqlite3_file* f, sqlite3_int64* size) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xFileSize(real, size);
  };
  m.xLock = [](sqlite3_file* f, int level) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xLock(real, level);
  };
  m.xUnlock = [](sqlite3_file* f, int level) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xUnlock(real, level);
  };
  m.xCheckReservedLock = [](sqlite3_file* f, int* result) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xCheckReservedLock(real, result);
  };
  m.xFileControl = [](sqlite3_file* f, int op, void* argument) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xFileControl(real, op, argument);
  };
  m.xSectorSize = [](sqlite3_file* f) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xSectorSize(real);
  };
  m.xDeviceCharacteristics = [](sqlite3_file* f) {
    auto* real = CatalogFile::of(f)->real();
    return real->pMethods->xDeviceCharacteristics(real);
  };
  return m;
}

int open_catalog(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
  static const sqlite3_io_methods methods = catalog_methods();
  file->pMethods = nullptr;
  if (const int e = ask_catalog("catalog open", SQLITE_CANTOPEN, true)) return e;
  auto* real = CatalogFile::of(file)->real();
  const int e = kernel_vfs()->xOpen(kernel_vfs(), name, real, flags, out);
  // Even when it failed: whoever opened closes it if it has methods.
  if (real->pMethods != nullptr) file->pMethods = &methods;
  return e;
}

void install_vfs() {
  static sqlite3_vfs vfs = [] {
    sqlite3_vfs v = *kernel_vfs();
    v.pNext = nullptr;
    v.zName = "faults";
    v.szOsFile = static_cast<int>(sizeof(CatalogFile)) + kernel_vfs()->szOsFile;
    v.xOpen = open_catalog;
    return v;
  }();
  sqlite3_vfs_register(&vfs, 1);
}

}  // namespace

FaultDisk::FaultDisk() {
  install_vfs();
  g_disk = this;
}

FaultDisk::~FaultDisk() { g_disk = nullptr; }

std::string FaultDisk::Call::place() const {
  if (fd < 0) return name;
  std::array<char, 4096> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), target.data(), target.size());
  std::string text(target.data(), n < 0 ? 0 : static_cast<size_t>(n));
  if (*path != '\0') text += std::string("/") + path;
  return text;
}

int FaultDisk::open(int dir, const char* path, int flags, mode_t mode) {
  if (const int e = ask({"open", dir, path, (flags & (O_CREAT | O_ACCMODE)) != 0}); e < 0) return e;
  return ForwardingDisk::open(dir, path, flags, mode);
}
int FaultDisk::open_handle(int mount, const std::string& handle, int flags) {
  if (const int e = ask({"open_handle", mount, "", (flags & O_ACCMODE) != 0}); e < 0) return e;
  return ForwardingDisk::open_handle(mount, handle, flags);
}
int FaultDisk::reopen(int fd, int flags) {
  if (const int e = ask({"reopen", fd, "", (flags & O_ACCMODE) != 0}); e < 0) return e;
  return ForwardingDisk::reopen(fd, flags);
}
ssize_t FaultDisk::pread(int fd, void* data, size_t size, uint64_t offset) {
  if (const int e = ask({"pread", fd}); e < 0) return e;
  return ForwardingDisk::pread(fd, data, size, offset);
}
ssize_t FaultDisk::pwrite(int fd, const void* data, size_t size, uint64_t offset) {
  if (const int e = ask({"pwrite", fd, "", true}); e < 0) return e;
  return ForwardingDisk::pwrite(fd, data, size, offset);
}
int FaultDisk::transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) {
  if (const int e = ask({"transfer", to, "", true}); e < 0) return e;
  return ForwardingDisk::transfer(how, from, to, offset, length);
}
int FaultDisk::truncate(int fd, uint64_t size) {
  if (const int e = ask({"truncate", fd, "", true}); e < 0) return e;
  return ForwardingDisk::truncate(fd, size);
}
int FaultDisk::allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  if (const int e = ask({"allocate", fd, "", true}); e < 0) return e;
  return ForwardingDisk::allocate(fd, mode, offset, length);
}
int FaultDisk::datasync(int fd) {
  if (const int e = ask({"datasync", fd, "", true}); e < 0) return e;
  return ForwardingDisk::datasync(fd);
}
int FaultDisk::sync(int fd) {
  if (const int e = ask({"sync", fd, "", true}); e < 0) return e;
  return ForwardingDisk::sync(fd);
}
int FaultDisk::syncfs(int fd) {
  if (const int e = ask({"syncfs", fd, "", true}); e < 0) return e;
  return ForwardingDisk::syncfs(fd);
}
int FaultDisk::stat(int dir, const char* path, struct stat* st) {
  if (const int e = ask({"stat", dir, path}); e < 0) return e;
  return ForwardingDisk::stat(dir, path, st);
}
int FaultDisk::statvfs(int fd, struct statvfs* st) {
  const int e = ForwardingDisk::statvfs(fd, st);
  const std::lock_guard lock(mutex_);
  if (e == 0 && room) room(st);
  return e;
}
int FaultDisk::chmod(int fd, mode_t mode) {
  if (const int e = ask({"chmod", fd, "", true}); e < 0) return e;
  return ForwardingDisk::chmod(fd, mode);
}
int FaultDisk::chown(int fd, uid_t uid, gid_t gid) {
  if (const int e = ask({"chown", fd, "", true}); e < 0) return e;
  return ForwardingDisk::chown(fd, uid, gid);
}
int FaultDisk::utimes(int fd, const struct timespec times[2]) {
  if (const int e = ask({"utimes", fd, "", true}); e < 0) return e;
  return ForwardingDisk::utimes(fd, times);
}
ssize_t FaultDisk::list_xattr(int fd, std::string* names) {
  if (const int e = ask({"list_xattr", fd}); e < 0) return e;
  return ForwardingDisk::list_xattr(fd, names);
}
ssize_t FaultDisk::get_xattr(int fd, const char* name, std::string* value) {
  if (const int e = ask({"get_xattr", fd}); e < 0) return e;
  return ForwardingDisk::get_xattr(fd, name, value);
}
int FaultDisk::set_xattr(int fd, const char* name, const std::string& value) {
  if (const int e = ask({"set_xattr", fd, "", true}); e < 0) return e;
  return ForwardingDisk::set_xattr(fd, name, value);
}
int FaultDisk::remove_xattr(int fd, const char* name) {
  if (const int e = ask({"remove_xattr", fd, "", true}); e < 0) return e;
  return ForwardingDisk::remove_xattr(fd, name);
}
int FaultDisk::list(int dir, const std::function<bool(const Entry&)>& fn) {
  if (const int e = ask({"list", dir}); e < 0) return e;
  return ForwardingDisk::list(dir, fn);
}
int FaultDisk::mkdir(int dir, const char* name, mode_t mode) {
  if (const int e = ask({"mkdir", dir, name, true}); e < 0) return e;
  return ForwardingDisk::mkdir(dir, name, mode);
}
int FaultDisk::mknod(int dir, const char* name, mode_t mode, dev_t dev) {
  if (const int e = ask({"mknod", dir, name, true}); e < 0) return e;
  return ForwardingDisk::mknod(dir, name, mode, dev);
}
int FaultDisk::symlink(const char* target, int dir, const char* name) {
  if (const int e = ask({"symlink", dir, name, true}); e < 0) return e;
  return ForwardingDisk::symlink(target, dir, name);
}
int FaultDisk::link(int fd, int dir, const char* name) {
  if (const int e = ask({"link", dir, name, true}); e < 0) return e;
  return ForwardingDisk::link(fd, dir, name);
}
int FaultDisk::unlink(int dir, const char* name, int flags) {
  if (const int e = ask({"unlink", dir, name, true}); e < 0) return e;
  return ForwardingDisk::unlink(dir, name, flags);
}
int FaultDisk::rename(int from_dir, const char* from, int to_dir, const char* to,
                      unsigned flags) {
  if (const int e = ask({"rename", to_dir, to, true}); e < 0) return e;
  return ForwardingDisk::rename(from_dir, from, to_dir, to, flags);
}

}  // namespace clonefs::test
