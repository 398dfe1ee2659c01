// The options of `clonefs mount -o`, as fstab has them. Thread safety: no state.
#pragma once

#include <string>

#include "extents/result.h"
#include "fs/volume_server.h"

namespace clonefs {

// Takes LIST ("ro,cache=writethrough,...") up into OPTIONS. Options that mean something to mount(8)
// alone are ignored; unknown ones are refused with EINVAL.
Status add_mount_options(const std::string& list, ServerOptions* options);

// The single ones, for the command line's own options.
Status set_cache(const std::string& text, ServerOptions* options);
Status set_track_size(const std::string& text, ServerOptions* options);
Status set_durability(const std::string& text, ServerOptions* options);
Status set_on_error(const std::string& text, ServerOptions* options);
Status set_reflink(const std::string& text, ServerOptions* options);
Status set_stall_limit(const std::string& text, ServerOptions* options);
Status set_columns(const std::string& text, ServerOptions* options);

}  // namespace clonefs
