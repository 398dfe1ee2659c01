// How a node reaches its object again: by a file handle where the daemon may open such. Handles
// cost no descriptor, so that the number of cached nodes is not bounded by the limit of open files;
// and since a handle names one incarnation of an inode number, a node can never be taken for a new
// file that got the number of a deleted one.
//
// Errors: ESTALE when the object is gone. Thread safety: each as a plain value.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>

#include "fs/unique_fd.h"

namespace clonefs {

// The mounted file system that handles are opened in. Immutable; shared by its nodes.
class HandleSpace {
 public:
  // DIR: any directory in it, O_PATH will do. Finds out whether handles can be opened, if WANTED.
  static std::shared_ptr<const HandleSpace> of_directory(int dir, bool wanted);
  bool by_handle() const { return usable_; }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  bool usable_ = false;
};

// The bytes of a file handle, its type first. Empty: none.
using HandleBytes = std::string;

// Of the object NAME in DIR ("": of DIR itself), symbolic links not followed.
HandleBytes handle_bytes(int dir, const char* name);

// Opens by handle; -1 and errno.
int open_handle(const HandleSpace& space, const HandleBytes& handle, int flags);

// A descriptor for the time of one use: borrowed from a cache, or opened for it.
class FdUse {
 public:
  FdUse() = default;
  explicit FdUse(int error) : error_(error) {}
  explicit FdUse(UniqueFd fd) : own_(std::move(fd)) {}
  explicit FdUse(std::shared_ptr<const UniqueFd> fd) : shared_(std::move(fd)) {}

  explicit operator bool() const { return error_ == 0; }
  int error() const { return error_; }  // an errno
  int get() const { return shared_ ? shared_->get() : own_.get(); }

 private:
  int error_ = 0;
  UniqueFd own_;
  std::shared_ptr<const UniqueFd> shared_;
};

// "/proc/self/fd/N": reaches the object of an O_PATH descriptor with calls that want a path.
class ProcPath {
 public:
  explicit ProcPath(int fd);
  const char* get() const { return text_; }

 private:
  char text_[40];
};

}  // namespace clonefs
