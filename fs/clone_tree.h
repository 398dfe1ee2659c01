// CloneTree: the trees of the activated clones as nodes. The clones mount shows one (writable, with
// passthrough where the kernel has it), `DIR/.clone` in the live mount another (read-only).
//
// An object of the pool is one node, found by its file handle, with the attributes that the clone
// shows (Clone::present). Once an inode is open through passthrough, all its opens are, and the
// other way round: the kernel takes no mixture.
//
// Errors: EIO in a failed clone, ESTALE in one that is gone. Thread safety: as Node.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "engine/engine.h"
#include "engine/file_ref.h"
#include "fs/fuse_session.h"
#include "fs/kernel_notifier.h"
#include "fs/virtual_nodes.h"

namespace clonefs {

class CloneNode;

struct CloneTreeOptions {
  bool read_only = false;   // the view in the live mount
  bool switch_ids = false;  // create as the caller
  uint64_t ino_bits = 0;    // set in each inode number, where they must differ from others
};

class CloneTree {
 public:
  // POOL: a descriptor of its directory, from before the volume was mounted over it; borrowed for
  // this call. Errors: the pool cannot be read.
  static Result<std::unique_ptr<CloneTree>> open(Engine& engine, int pool,
                                                 CloneTreeOptions options);

  // The session that serves the nodes, once it is there: for passthrough and notifications.
  void set_session(FuseSession* session, KernelNotifier* notifier) {
    notifier_ = notifier;
    session_ = session;
  }

  // The node of PATH ("." is the root) in CLONE with one lookup. It can be looked at, and so be
  // removed, in a failed clone too. 0 or an errno: also when the caller of REQ may not go there, or
  // when the clone's user has put a link in the way.
  int node(fuse_req_t req, const std::shared_ptr<Clone>& clone, const std::string& path,
           Node** node);

  // The number that a listing shows of PATH in CLONE; false when it is not there.
  bool entry_ino(Clone& clone, const std::string& path, uint64_t* ino) const;

 private:
  friend class CloneNode;
  friend class CloneFileHandle;
  friend class CloneDirHandle;

  CloneTree(Engine& engine, CloneTreeOptions options, Fd pool, bool by_handle);
  // The node of the object behind FD. 0 or an errno.
  int node_of(const std::shared_ptr<Clone>& clone, int fd, CloneNode** node, bool is_root = false);

  Engine& engine_;
  const CloneTreeOptions options_;
  Fd pool_;
  const detail::FileSpace space_;
  KernelNotifier* notifier_ = nullptr;
  std::atomic<FuseSession*> session_{nullptr};
  KeyedNodes nodes_;
};

}  // namespace clonefs
