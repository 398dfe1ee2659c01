// Volume: what the live mount works on: the source directory, the engine that is told of every
// change, the table of nodes, the set of files that may have dirty pages, and the way to the
// virtual entries (`.clonefs`, `.clone`), which others fill in.
//
// Thread safety: any member function from any thread; set-up (set_virtual_entries, attach_mount)
// before requests come, or as said there.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "extents/result.h"
#include "fs/node.h"

namespace clonefs {

inline constexpr char kControlName[] = ".clonefs";  // in the root of the volume
inline constexpr char kCloneListName[] = ".clone";  // in every directory

// Gives the live mount its virtual entries. Both functions are called by serving threads, must not
// touch the mount, and return a node with one lookup for the caller (Node::remember), or null:
// then there is no such entry.
class VirtualEntries {
 public:
  virtual ~VirtualEntries() = default;
  // `.clonefs` in the root. Hides an entry of that name in the source.
  virtual Node* control_root() = 0;
  // `.clone` in DIRECTORY, a path relative to the volume ("." is its root). Asked only where the
  // source has no entry of that name.
  virtual Node* clone_list(const std::string& directory) = 0;
};

struct VolumeOptions {
  int source = -1;          // descriptor of the source directory; borrowed for the whole life
  bool writeback = true;    // as the FuseSession's
  bool switch_ids = true;   // act as the caller (needs root); else everything as the daemon
  bool no_atime = false;    // reading leaves the source's times of access (mount options noatime, ro)
  bool use_handles = true;  // false: as where file handles cannot be opened (tests)
  std::chrono::seconds flush_timeout{120};
};

class SourceVolume;

class Volume {
 public:
  // ENGINE outlives the volume. Errors: the source cannot be used.
  static Result<std::unique_ptr<Volume>> open(Engine& engine, VolumeOptions options);
  ~Volume();

  // Are objects reached by file handle, or (an ordinary user, a source without them) by name?
  bool uses_handles() const;

  // The root node, for the FuseSession of the live mount. The volume's.
  Node* root();

  void set_virtual_entries(VirtualEntries* entries);

  // Opens the mounted volume through the mount, for flush_dirty. To be called once, by a thread
  // that serves no requests, when the mount answers. MOUNTPOINT: its path.
  Status attach_mount(const std::string& mountpoint);
  // Gives that up again, so that the mount is not busy.
  void detach_mount();

  // For Engine::set_flush: makes the dirty pages of every file with a writable open for which
  // WANTED is true reach the engine, and waits. From a thread that serves no requests. ETIMEDOUT:
  // the kernel did not write back in time.
  Status flush_dirty(const Engine::Wanted& wanted);

  // Nodes that are known to the kernel, for tests and status.
  size_t cached_nodes() const;

 private:
  explicit Volume(std::unique_ptr<SourceVolume> source);
  std::unique_ptr<SourceVolume> source_;
};

}  // namespace clonefs
