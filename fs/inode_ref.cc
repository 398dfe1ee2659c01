#include "fs/inode_ref.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace clonefs {
namespace {

union HandleBuffer {
  file_handle handle;
  char bytes[sizeof(file_handle) + MAX_HANDLE_SZ];
};

}  // namespace

HandleBytes handle_bytes(int dir, const char* name) {
  HandleBuffer buffer;
  buffer.handle.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  const int flags = *name == '\0' ? AT_EMPTY_PATH : 0;
  if (name_to_handle_at(dir, name, &buffer.handle, &mount_id, flags) != 0) return {};
  HandleBytes result(sizeof(int) + buffer.handle.handle_bytes, '\0');
  std::memcpy(result.data(), &buffer.handle.handle_type, sizeof(int));
  std::memcpy(result.data() + sizeof(int), buffer.handle.f_handle, buffer.handle.handle_bytes);
  return result;
}

int open_handle(const HandleSpace& space, const HandleBytes& handle, int flags) {
  HandleBuffer buffer;
  buffer.handle.handle_bytes = static_cast<unsigned>(handle.size() - sizeof(int));
  std::memcpy(&buffer.handle.handle_type, handle.data(), sizeof(int));
  std::memcpy(buffer.handle.f_handle, handle.data() + sizeof(int), buffer.handle.handle_bytes);
  return open_by_handle_at(space.fd(), &buffer.handle, flags | O_CLOEXEC);
}

std::shared_ptr<const HandleSpace> HandleSpace::of_directory(int dir, bool wanted) {
  auto space = std::make_shared<HandleSpace>();
  space->fd_.reset(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!space->fd_ || !wanted) return space;
  const HandleBytes handle = handle_bytes(dir, "");
  if (handle.empty()) return space;
  const UniqueFd again(open_handle(*space, handle, O_PATH));
  struct stat a {
  }, b{};
  space->usable_ = again && fstat(again.get(), &a) == 0 && fstat(dir, &b) == 0 &&
                   a.st_ino == b.st_ino && a.st_dev == b.st_dev;
  return space;
}

ProcPath::ProcPath(int fd) {
  std::snprintf(text_, sizeof text_, "/proc/self/fd/%d", fd);
}

}  // namespace clonefs
