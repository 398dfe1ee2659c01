// The options of `clonefs mount -o`, as fstab has them. Thread safety: no state.
#pragma once

#include <string>
#include <vector>

#include "extents/result.h"
#include "fs/volume_server.h"

namespace clonefs {

// Takes LIST ("ro,cache=writethrough,...") up into OPTIONS. Options that mean something to mount(8)
// alone are ignored; unknown ones are refused with EINVAL.
Status add_mount_options(const std::string& list, ServerOptions* options);

// Those of clonefs itself: NAME or NAME=VALUE in -o, --NAME on the command line.
struct MountOption {
  const char* name;
  const char* value;  // what VALUE is: words between '|', or one in capitals; null: none
  const char* help;
  // EINVAL: not such a value.
  Status (*set)(const std::string& text, ServerOptions* options);
};
const std::vector<MountOption>& mount_options();

}  // namespace clonefs
