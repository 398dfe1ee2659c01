#include "fs/own_mount.h"

#include <linux/close_range.h>
#include <unistd.h>

#include <thread>

namespace clonefs {

void part_descriptors(int kept) {
  constexpr unsigned kFirst = STDERR_FILENO + 1;
  if (kept < STDERR_FILENO) {
    ::close_range(kFirst, ~0U, CLOSE_RANGE_UNSHARE);
    return;
  }
  const auto kept_number = static_cast<unsigned>(kept);
  ::close_range(kept_number + 1, ~0U, CLOSE_RANGE_UNSHARE);
  if (kept_number > kFirst) ::close_range(kFirst, kept_number - 1, 0);
}

Status on_own_mount(const std::function<Status()>& access) {
  Status result;
  std::thread([&] {
    part_descriptors(-1);
    result = access();
  }).join();
  return result;
}

}  // namespace clonefs
