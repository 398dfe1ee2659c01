#include "engine/file_ref.h"

#include <fcntl.h>

#include <cstring>
#include <utility>

namespace clonefs::detail {

FileRef& FileRef::operator=(FileRef&& o) noexcept {
  if (this == &o) return *this;
  delete far();
  length_ = std::exchange(o.length_, 0);
  std::memcpy(bytes_, o.bytes_, sizeof bytes_);
  return *this;
}

FileRef::~FileRef() { delete far(); }

FileRef::Far* FileRef::far() const {
  if (length_ != kFar) return nullptr;
  Far* far;
  std::memcpy(&far, bytes_, sizeof far);
  return far;
}

void FileRef::set_far(std::unique_ptr<Far> far) {
  delete this->far();
  const Far* raw = far.release();
  std::memcpy(bytes_, &raw, sizeof raw);
  length_ = kFar;
}

int FileRef::of(const FileSpace& space, int fd, FileRef* ref) {
  std::string handle;
  const int e = space.disk->handle_of(fd, &handle);
  if (e < 0) handle.clear();
  FileRef made = from_handle(handle);
  if (!space.by_handle || e < 0) {
    if (const int p = made.pin(space, fd); p < 0) return p;
  }
  *ref = std::move(made);
  return 0;
}

FileRef FileRef::from_handle(std::string_view handle) {
  FileRef ref;
  if (handle.size() <= sizeof ref.bytes_) {
    ref.length_ = static_cast<unsigned char>(handle.size());
    std::memcpy(ref.bytes_, handle.data(), handle.size());
  } else {
    ref.set_far(std::make_unique<Far>(Far{std::string(handle), {}}));
  }
  return ref;
}

std::string_view FileRef::handle() const {
  if (const Far* far = this->far()) return far->handle;
  return {bytes_, length_};
}

int FileRef::pin(const FileSpace& space, int fd) {
  Fd own(*space.disk, space.disk->duplicate(fd));
  if (!own) return own.get();
  set_far(std::make_unique<Far>(Far{std::string(handle()), std::move(own)}));
  return 0;
}

Fd FileRef::open(const FileSpace& space, int flags) const {
  if (const Far* far = this->far(); far != nullptr && far->pin) {
    if ((flags & O_PATH) != 0) return Fd(*space.disk, space.disk->duplicate(far->pin.get()));
    return Fd(*space.disk, space.disk->reopen(far->pin.get(), flags & ~O_NOFOLLOW));
  }
  // Not found among the pins after a restart: as gone as a handle that leads nowhere.
  if (handle().empty() || !space.by_handle) return Fd(*space.disk, -ESTALE);
  return Fd(*space.disk, space.disk->open_handle(space.dir, std::string(handle()), flags));
}

}  // namespace clonefs::detail
