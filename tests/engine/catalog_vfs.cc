#include "tests/engine/catalog_vfs.h"

#include <fcntl.h>

#include <cstring>

namespace clonefs::test {
namespace {

constexpr const char* kName = "clonefs-test";

struct File {
  sqlite3_file base;
  Disk* disk;
  int fd;
  int directory;  // to be synced with the file; -1: not
};

Disk& disk_of(sqlite3_vfs* vfs) { return *static_cast<Disk*>(vfs->pAppData); }
File& file_of(sqlite3_file* file) { return *reinterpret_cast<File*>(file); }
sqlite3_vfs* system_vfs() { return sqlite3_vfs_find("unix"); }

int open_directory(Disk& disk, const std::string& path, std::string* name) {
  const size_t slash = path.rfind('/');
  *name = path.substr(slash + 1);
  return disk.open(AT_FDCWD, path.substr(0, slash).c_str(), O_RDONLY | O_DIRECTORY);
}

int close_file(sqlite3_file* f) {
  File& file = file_of(f);
  file.disk->close(file.fd);
  if (file.directory >= 0) file.disk->close(file.directory);
  return SQLITE_OK;
}

int read_file(sqlite3_file* f, void* data, int size, sqlite3_int64 offset) {
  const ssize_t n = file_of(f).disk->pread_full(file_of(f).fd, data, static_cast<size_t>(size),
                                                static_cast<uint64_t>(offset));
  if (n < 0) return SQLITE_IOERR_READ;
  if (n == size) return SQLITE_OK;
  std::memset(static_cast<char*>(data) + n, 0, static_cast<size_t>(size - n));
  return SQLITE_IOERR_SHORT_READ;
}

int write_file(sqlite3_file* f, const void* data, int size, sqlite3_int64 offset) {
  const int e = file_of(f).disk->pwrite_full(file_of(f).fd, data, static_cast<size_t>(size),
                                             static_cast<uint64_t>(offset));
  return e == 0 ? SQLITE_OK : SQLITE_IOERR_WRITE;
}

int truncate_file(sqlite3_file* f, sqlite3_int64 size) {
  return file_of(f).disk->truncate(file_of(f).fd, static_cast<uint64_t>(size)) == 0
             ? SQLITE_OK
             : SQLITE_IOERR_TRUNCATE;
}

int sync_file(sqlite3_file* f, int) {
  File& file = file_of(f);
  if (file.disk->sync(file.fd) != 0) return SQLITE_IOERR_FSYNC;
  if (file.directory < 0) return SQLITE_OK;
  const int e = file.disk->sync(file.directory);
  file.disk->close(file.directory);
  file.directory = -1;
  return e == 0 ? SQLITE_OK : SQLITE_IOERR_DIR_FSYNC;
}

int size_of_file(sqlite3_file* f, sqlite3_int64* size) {
  struct stat st {};
  if (file_of(f).disk->stat(file_of(f).fd, "", &st) != 0) return SQLITE_IOERR_FSTAT;
  *size = st.st_size;
  return SQLITE_OK;
}

int lock_file(sqlite3_file*, int) { return SQLITE_OK; }
int check_lock(sqlite3_file*, int* locked) {
  *locked = 0;
  return SQLITE_OK;
}
int control_file(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int sector_size(sqlite3_file*) { return 4096; }
int characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

const sqlite3_io_methods kMethods = {1,         close_file, read_file,    write_file,  truncate_file,
                                     sync_file, size_of_file, lock_file,  lock_file,   check_lock,
                                     control_file, sector_size, characteristics,
                                     nullptr,   nullptr,    nullptr,      nullptr,     nullptr,
                                     nullptr};

int open_vfs(sqlite3_vfs* vfs, const char* path, sqlite3_file* f, int flags, int* out_flags) {
  f->pMethods = nullptr;
  if (path == nullptr) return SQLITE_CANTOPEN;  // temporary ones are in memory
  File& file = file_of(f);
  file.disk = &disk_of(vfs);
  file.directory = -1;
  std::string name;
  const Fd directory(*file.disk, open_directory(*file.disk, path, &name));
  struct stat st {};
  const bool fresh = file.disk->stat(directory.get(), name.c_str(), &st) != 0;
  file.fd = file.disk->open(directory.get(), name.c_str(),
                            O_RDWR | ((flags & SQLITE_OPEN_CREATE) != 0 ? O_CREAT : 0), 0644);
  if (file.fd < 0) return SQLITE_CANTOPEN;
  if (fresh && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0) {
    file.directory = file.disk->duplicate(directory.get());
  }
  f->pMethods = &kMethods;
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int delete_vfs(sqlite3_vfs* vfs, const char* path, int sync_directory) {
  Disk& disk = disk_of(vfs);
  std::string name;
  const Fd directory(disk, open_directory(disk, path, &name));
  const int e = disk.unlink(directory.get(), name.c_str(), 0);
  if (e == -ENOENT) return SQLITE_IOERR_DELETE_NOENT;
  if (e != 0) return SQLITE_IOERR_DELETE;
  if (sync_directory != 0 && disk.sync(directory.get()) != 0) return SQLITE_IOERR_DIR_FSYNC;
  return SQLITE_OK;
}

int access_vfs(sqlite3_vfs* vfs, const char* path, int flags, int* result) {
  struct stat st {};
  *result = disk_of(vfs).stat(AT_FDCWD, path, &st) == 0 &&
            (flags != SQLITE_ACCESS_EXISTS || st.st_size > 0);
  return SQLITE_OK;
}

int full_path(sqlite3_vfs*, const char* path, int size, char* full) {
  sqlite3_snprintf(size, full, "%s", path);
  return SQLITE_OK;
}

int randomness(sqlite3_vfs*, int size, char* data) {
  return system_vfs()->xRandomness(system_vfs(), size, data);
}
int sleep_vfs(sqlite3_vfs*, int microseconds) {
  return system_vfs()->xSleep(system_vfs(), microseconds);
}
int current_time(sqlite3_vfs*, double* time) {
  return system_vfs()->xCurrentTime(system_vfs(), time);
}
int last_error(sqlite3_vfs*, int, char*) { return 0; }

}  // namespace

CatalogVfs::CatalogVfs(Disk& disk) : disk_(disk) {
  sqlite3_initialize();
  vfs_.iVersion = 1;
  vfs_.szOsFile = sizeof(File);
  vfs_.mxPathname = 512;
  vfs_.zName = kName;
  vfs_.pAppData = &disk_;
  vfs_.xOpen = open_vfs;
  vfs_.xDelete = delete_vfs;
  vfs_.xAccess = access_vfs;
  vfs_.xFullPathname = full_path;
  vfs_.xRandomness = randomness;
  vfs_.xSleep = sleep_vfs;
  vfs_.xCurrentTime = current_time;
  vfs_.xGetLastError = last_error;
  sqlite3_vfs_register(&vfs_, 1);
}

CatalogVfs::~CatalogVfs() {
  sqlite3_vfs_unregister(&vfs_);
  sqlite3_vfs_register(system_vfs(), 1);
}

}  // namespace clonefs::test
