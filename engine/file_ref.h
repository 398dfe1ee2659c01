// FileRef: the identity of a file system object that outlives its names: a file handle where
// the process may open such, else a descriptor (O_PATH) that pins the object.
// Thread safety: as a plain value; open() may run in parallel.
#pragma once

#include <memory>
#include <string>
#include <string_view>

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
  FileRef(FileRef&& o) noexcept { *this = std::move(o); }
  FileRef& operator=(FileRef&& o) noexcept;
  ~FileRef();
  // Of the object behind FD (O_PATH will do); FD stays the caller's. 0 or -errno.
  static int of(const FileSpace& space, int fd, FileRef* ref);
  // From the bytes that handle() gave. Not usable where by_handle is false.
  static FileRef from_handle(std::string_view handle);

  // A new descriptor, or -errno; -ESTALE when the object is gone. FLAGS may be O_PATH.
  Fd open(const FileSpace& space, int flags) const;
  // Empty where the file system has no handles.
  std::string_view handle() const;
  // Makes the reference usable without handles, pinned by FD's object.
  int pin(const FileSpace& space, int fd);

 private:
  // A handle is mostly short (ext4: 12 bytes, XFS: 16) and lies in place, with its length before it.
  // A longer one, or what is pinned, lies elsewhere.
  struct Far {
    std::string handle;
    Fd pin;
  };
  static constexpr unsigned char kFar = 255;
  Far* far() const;
  void set_far(std::unique_ptr<Far> far);

  unsigned char length_ = 0;
  char bytes_[19] = {};
};

}  // namespace clonefs::detail
