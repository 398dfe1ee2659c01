#include "fs/clone_tree.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <unistd.h>

#include "fs/clone_node.h"
#include "fs/command_paths.h"
#include "fs/credentials.h"

namespace clonefs {

Result<std::unique_ptr<CloneTree>> CloneTree::open(Engine& engine, int directory,
                                                   CloneTreeOptions options) {
  Disk& disk = posix_disk();
  Fd pool(disk, disk.duplicate(directory));
  if (!pool) return Error::from_errno(pool.get(), "the pool " + engine.pool_path());
  std::string handle;
  bool by_handle = false;
  if (disk.handle_of(pool.get(), &handle) == 0) {
    const Fd again(disk, disk.open_handle(pool.get(), handle, O_PATH));
    by_handle = static_cast<bool>(again);
  }
  return std::unique_ptr<CloneTree>(new CloneTree(engine, options, std::move(pool), by_handle));
}

CloneTree::CloneTree(Engine& engine, CloneTreeOptions options, Fd pool, bool by_handle)
    : engine_(engine),
      options_(options),
      pool_(std::move(pool)),
      space_{&posix_disk(), pool_.get(), by_handle} {}

int CloneTree::node_of(const std::shared_ptr<Clone>& clone, int fd, CloneNode** node,
                       bool is_root) {
  struct stat st {};
  if (const int e = space_.disk->stat(fd, "", &st); e != 0) return -e;
  detail::FileRef ref;
  if (const int e = detail::FileRef::of(space_, fd, &ref); e != 0) return -e;
  clone->seen(st.st_ino, ref.handle());
  // A handle names the object and its generation; without one, the pinned object's number is its
  // own.
  // Generations may have a file in common.
  const std::string key =
      std::to_string(clone->incarnation()) + (ref.handle().empty() ? "#" + std::to_string(st.st_ino)
                                                                   : ":" + std::string(ref.handle()));
  *node = static_cast<CloneNode*>(nodes_.get(
      key, [&] { return new CloneNode(*this, clone, std::move(ref), st.st_ino, is_root); }));
  return 0;
}

int CloneTree::node(fuse_req_t req, const std::shared_ptr<Clone>& clone, const std::string& path,
                    Node** node) {
  Fd opened;
  int fd = clone->root();
  if (path != ".") {
    // The directories above are as the clone has them: who could not go through them then, can't.
    const ActAs caller(req, ActAs::What::kCreate, ::geteuid() == 0);
    opened = Fd(*space_.disk, open_beneath(fd, path.c_str(), RESOLVE_NO_SYMLINKS));
    fd = opened.get();
  }
  if (fd < 0) return -fd;
  CloneNode* found = nullptr;
  const int e = node_of(clone, fd, &found, true);
  *node = found;
  return e;
}

bool CloneTree::entry_ino(Clone& clone, const std::string& path, uint64_t* ino) const {
  struct stat st {};
  const Fd fd(*space_.disk, open_beneath(clone.root(), path.c_str(), RESOLVE_NO_SYMLINKS));
  if (!fd || space_.disk->stat(fd.get(), "", &st) != 0 || !S_ISDIR(st.st_mode)) return false;
  *ino = clone.present_ino(st.st_ino) | options_.ino_bits;
  return true;
}

}  // namespace clonefs
