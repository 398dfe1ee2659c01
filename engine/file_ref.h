// FileRef: the identity of a file system object that outlives its names: a file handle where
// the process may open such, else a descriptor (O_PATH) that pins the object.
// Thread safety: as a plain value; open() may run in parallel.
#pragma once

#include <memory>
#include <string>

#include "engine/disk.h"

namespace clonefs::detail {

// A file system in which FileRefs are opened.
struct FileSpace {
  Disk* disk = nullptr;
  int dir = -1;             // a directory on it, open for reading; borrowed
  bool by_handle = false;   // handles can be opened
};

class FileRef {
 public:
  FileRef() = default;
  // Of the object behind FD (O_PATH will do); FD stays the caller's. 0 or -errno.
  static int of(const FileSpace& space, int fd, FileRef* ref);
  // From the bytes that handle() gave. Not usable where by_handle is false.
  static FileRef from_handle(std::string handle);

  explicit operator bool() const { return !handle_.empty() || pin_ != nullptr; }
  // A new descriptor, or -errno; -ESTALE when the object is gone. FLAGS may be O_PATH.
  Fd open(const FileSpace& space, int flags) const;
  // Empty where the file system has no handles.
  const std::string& handle() const { return handle_; }
  // Makes the reference usable without handles, pinned by FD's object.
  int pin(const FileSpace& space, int fd);

 private:
  std::string handle_;
  std::shared_ptr<Fd> pin_;
};

}  // namespace clonefs::detail
