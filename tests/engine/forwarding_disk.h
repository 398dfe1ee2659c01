// A Disk that hands every call to another one: tests override the calls that they bend.
#pragma once

#include "engine/disk.h"

namespace clonefs::test {

class ForwardingDisk : public Disk {
 public:
  explicit ForwardingDisk(Disk& to = posix_disk()) : to_(to) {}
  ForwardingDisk(const ForwardingDisk&) = delete;  // else one in front of another would be a copy
  int open(int dir, const char* path, int flags, mode_t mode) override {
    return to_.open(dir, path, flags, mode);
  }
  int close(int fd) override { return to_.close(fd); }
  int duplicate(int fd) override { return to_.duplicate(fd); }
  int lock(int fd) override { return to_.lock(fd); }
  int handle_of(int fd, std::string* handle) override { return to_.handle_of(fd, handle); }
  int open_handle(int mount, const std::string& handle, int flags) override {
    return to_.open_handle(mount, handle, flags);
  }
  int path_of(int fd, std::string* path) override { return to_.path_of(fd, path); }
  int reopen(int fd, int flags) override { return to_.reopen(fd, flags); }
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    return to_.pread(fd, data, size, offset);
  }
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    return to_.pwrite(fd, data, size, offset);
  }
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override {
    return to_.transfer(how, from, to, offset, length);
  }
  int truncate(int fd, uint64_t size) override { return to_.truncate(fd, size); }
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override {
    return to_.allocate(fd, mode, offset, length);
  }
  int64_t seek(int fd, uint64_t offset, int whence) override {
    return to_.seek(fd, offset, whence);
  }
  int placement(int fd, std::vector<Placement>* extents) override {
    return to_.placement(fd, extents);
  }
  int drop_cache(int fd) override { return to_.drop_cache(fd); }
  int datasync(int fd) override { return to_.datasync(fd); }
  int sync(int fd) override { return to_.sync(fd); }
  int syncfs(int fd) override { return to_.syncfs(fd); }
  int stat(int dir, const char* path, struct stat* st) override { return to_.stat(dir, path, st); }
  int mount_id(int fd, uint64_t* id) override { return to_.mount_id(fd, id); }
  int statvfs(int fd, struct statvfs* st) override { return to_.statvfs(fd, st); }
  int chmod(int fd, mode_t mode) override { return to_.chmod(fd, mode); }
  int chown(int fd, uid_t uid, gid_t gid) override { return to_.chown(fd, uid, gid); }
  int utimes(int fd, const struct timespec times[2]) override { return to_.utimes(fd, times); }
  ssize_t list_xattr(int fd, std::string* names) override { return to_.list_xattr(fd, names); }
  ssize_t get_xattr(int fd, const char* name, std::string* value) override {
    return to_.get_xattr(fd, name, value);
  }
  int set_xattr(int fd, const char* name, const std::string& value) override {
    return to_.set_xattr(fd, name, value);
  }
  int remove_xattr(int fd, const char* name) override { return to_.remove_xattr(fd, name); }
  int list(int dir, const std::function<bool(const Entry&)>& fn) override {
    return to_.list(dir, fn);
  }
  int mkdir(int dir, const char* name, mode_t mode) override { return to_.mkdir(dir, name, mode); }
  int mknod(int dir, const char* name, mode_t mode, dev_t dev) override {
    return to_.mknod(dir, name, mode, dev);
  }
  int symlink(const char* target, int dir, const char* name) override {
    return to_.symlink(target, dir, name);
  }
  ssize_t readlink(int fd, std::string* target) override { return to_.readlink(fd, target); }
  int link(int fd, int dir, const char* name) override { return to_.link(fd, dir, name); }
  int unlink(int dir, const char* name, int flags) override { return to_.unlink(dir, name, flags); }
  int rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) override {
    return to_.rename(from_dir, from, to_dir, to, flags);
  }

 private:
  Disk& to_;
};

}  // namespace clonefs::test
