#include "engine/file_ref.h"

#include <fcntl.h>

namespace clonefs::detail {

int FileRef::of(const FileSpace& space, int fd, FileRef* ref) {
  FileRef made;
  const int e = space.disk->handle_of(fd, &made.handle_);
  if (e < 0) made.handle_.clear();
  if (!space.by_handle || e < 0) {
    if (const int p = made.pin(space, fd); p < 0) return p;
  }
  *ref = std::move(made);
  return 0;
}

FileRef FileRef::from_handle(std::string handle) {
  FileRef ref;
  ref.handle_ = std::move(handle);
  return ref;
}

int FileRef::pin(const FileSpace& space, int fd) {
  Fd own(*space.disk, space.disk->duplicate(fd));
  if (!own) return own.get();
  pin_ = std::make_shared<Fd>(std::move(own));
  return 0;
}

Fd FileRef::open(const FileSpace& space, int flags) const {
  if (pin_ != nullptr) {
    if ((flags & O_PATH) != 0) return Fd(*space.disk, space.disk->duplicate(pin_->get()));
    return Fd(*space.disk, space.disk->reopen(pin_->get(), flags & ~O_NOFOLLOW));
  }
  // Not found among the pins after a restart: as gone as a handle that leads nowhere.
  if (handle_.empty() || !space.by_handle) return Fd(*space.disk, -ESTALE);
  return Fd(*space.disk, space.disk->open_handle(space.dir, handle_, flags));
}

}  // namespace clonefs::detail
