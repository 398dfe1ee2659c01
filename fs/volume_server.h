// The daemon behind a mounted volume: `clonefs mount`. It opens the source, the engine and the
// pool, mounts the volume and the clones, serves until they are unmounted or it is told to end
// (SIGTERM, SIGINT, `clonefs umount`), and closes the engine cleanly.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "extents/geometry.h"
#include "engine/engine.h"
#include "extents/result.h"

namespace clonefs {

struct ServerOptions {
  std::string source;
  std::string mountpoint;  // empty: in place
  std::string pool;        // empty: in the volume
  bool no_clones = false;  // the pool is not opened
  bool foreground = false;
  bool json = false;       // what is said of the mount is one object, on stdout
  bool writeback = true;
  TrackSize track_size;
  unsigned max_columns = 64;
  Durability durability = Durability::kPower;
  std::chrono::milliseconds stall_limit{30000};
  OnError on_error = OnError::kFailClone;
  bool reflink = true;  // EngineOptions::share
  std::string log;      // LogTarget::where; empty: stderr in the foreground, else the pool (syslog without)
  std::string log_level = "info";
  std::vector<std::string> mount_options;  // for the kernel: "ro", "allow_other", ...
};

// Mounts the volume. Returns the command's exit code when the mount answers (or has failed, which
// is said on stderr); with FOREGROUND when it is unmounted. To be called by a process that has no
// other threads; the daemon is a child of it.
int mount_volume(ServerOptions options);

// Which libfuse this was built with, and what for.
std::string fuse_description();

// Asks the daemon PID to unmount its volume and waits until it has ended cleanly. EXDEV: done, but files of it
// are open in another mount namespace, and the daemon serves these. EBUSY: the mount
// is in use, and everything is as it was.
Status ask_to_unmount(pid_t pid);

}  // namespace clonefs
