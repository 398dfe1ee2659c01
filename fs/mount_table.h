// The clonefs mounts of this mount namespace, as the kernel lists them. Needs no answer of any
// daemon: dead ones are listed too. Thread safety: no state.
#pragma once

#include <string>
#include <vector>

#include "extents/result.h"

namespace clonefs {

// Type of the clones mount in the mount table ("fuse." before it); the live mount's is "clonefs".
inline constexpr char kClonesSubtype[] = "clonefs-clones";

struct MountEntry {
  std::string mountpoint;
  std::string type;  // "fuse.clonefs"
  std::string source;
  std::string device;  // "0:52": the same for all mounts of one file system
  std::string root;    // what of it is shown; "/" unless a part was bound elsewhere
  std::string group;   // of mounts that are unmounted with it: "5"; "" when there are no others
  std::string master;  // the group with which it is unmounted, in another namespace

  bool is_volume() const { return type == "fuse.clonefs"; }
  bool is_clones() const { return type == std::string("fuse.") + kClonesSubtype; }
};

// All mounts, in the order of mounting. TEXT: as /proc/self/mountinfo has it.
std::vector<MountEntry> parse_mount_table(const std::string& text);
Result<std::vector<MountEntry>> read_mount_table();

// Processes in other mount namespaces that have the file system of ENTRY mounted and keep it when ENTRY is
// unmounted, one of each namespace. Sees other users' only as root.
std::vector<int> kept_elsewhere(const MountEntry& entry);

// The uppermost mount that contains PATH (absolute, clean); null if none does.
const MountEntry* mount_of(const std::vector<MountEntry>& table, const std::string& path);

// The mount of the same file system that was there first; the others were bound (mount --bind).
const MountEntry& first_mount_of(const std::vector<MountEntry>& table, const MountEntry& entry);

// Has the daemon of this mount ended?
bool is_dead_mount(const std::string& mountpoint);

// PATH as an absolute one without "." and ".." and symbolic links, as far as it exists; the last
// component is not followed if KEEP_LAST. Touches no clonefs mount that is a component's end.
Result<std::string> absolute_path(const std::string& path, bool keep_last);

// Unmounts MOUNTPOINT, through fusermount3 when not root. EBUSY when it is in use and not LAZY.
Status unmount_path(const std::string& mountpoint, bool lazy);

}  // namespace clonefs
