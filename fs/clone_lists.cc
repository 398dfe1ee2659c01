#include "fs/clone_lists.h"

#include <functional>
#include <utility>

namespace clonefs {

namespace {

thread_local bool changing_names_of_root = false;

// While it lives, the thread is at work for a change of names in the root of the clones mount.
class ChangingNames {
 public:
  explicit ChangingNames(bool of_root) { changing_names_of_root = of_root; }
  ~ChangingNames() { changing_names_of_root = false; }
};

}  // namespace

bool ClonesRoot::changing_names() {
  return changing_names_of_root;
}

int CloneList::node(fuse_req_t req, const std::string& name, Node** node) const {
  const auto clone = engine_.clone(name);
  if (!clone) return clone.error().code;
  return tree_.node(req, *clone, directory_, node);
}

void CloneList::lookup(fuse_req_t req, const char* name) const {
  Node* found = nullptr;
  if (const int e = node(req, name, &found); e != 0) {
    fuse_reply_err(req, e);
  } else {
    reply_entry(req, found);
  }
}

void CloneList::make(fuse_req_t req, const char* name) const {
  // Here too: what the kernel knows of the owner may be some time old.
  if (!owner_.admits(fuse_req_ctx(req)->uid)) {
    fuse_reply_err(req, EACCES);
    return;
  }
  // By value: when the caller is killed meanwhile, the node may go before the job ends.
  const auto job = [list = *this, name = std::string(name)](const auto&) -> CommandRunner::Reply {
    const ChangingNames here(list.in_clones_mount_);
    CreateOptions options;
    options.name = name;
    options.paths = {list.directory_};
    options.activate = true;
    if (const Status made = list.engine_.create(options); !made) {
      list.engine_.log(EventKind::kRefused, name,
                       "mkdir " + name + " refused: " + made.error().message);
      return [code = made.error().code](fuse_req_t r) { fuse_reply_err(r, code); };
    }
    return [list, name](fuse_req_t r) { list.lookup(r, name.c_str()); };
  };
  if (!runner_.run(req, job)) fuse_reply_err(req, EAGAIN);
}

void CloneList::remove(fuse_req_t req, const char* name) const {
  if (!owner_.admits(fuse_req_ctx(req)->uid)) {
    fuse_reply_err(req, EACCES);
    return;
  }
  const auto job = [list = *this, name = std::string(name)](const auto&) -> CommandRunner::Reply {
    const ChangingNames here(list.in_clones_mount_);
    const Status removed = list.remove_clone(name);
    if (!removed) {
      list.engine_.log(EventKind::kRefused, name,
                       "rmdir " + name + " refused: " + removed.error().message);
    }
    return [code = removed ? 0 : removed.error().code](fuse_req_t r) { fuse_reply_err(r, code); };
  };
  if (!runner_.run(req, job)) fuse_reply_err(req, EAGAIN);
}

Status CloneList::remove_clone(const std::string& name) const {
  const auto session = engine_.status(name);
  if (!session) return session.error();
  if (directory_ != "." && session->paths != std::vector<std::string>{directory_}) {
    return Error{EPERM,
                 "it is a clone of more than " + directory_ + ". Use clonefs delete " + name};
  }
  return engine_.remove({name}, true);
}

std::vector<VirtualEntry> CloneList::entries() const {
  std::vector<VirtualEntry> entries;
  for (const CloneInfo& info : engine_.clones()) {
    const auto clone = engine_.clone(info.name);
    uint64_t ino = 0;
    if (clone && tree_.entry_ino(**clone, directory_, &ino)) {
      entries.push_back({info.name, ino, S_IFDIR});
    }
  }
  return entries;
}

ClonesRoot::ClonesRoot(const VirtualOwner& owner, Engine& engine, CommandRunner& runner,
                       CloneTree& tree)
    : FixedNode(owner, 0, S_IFDIR | 0755), list_(owner, engine, runner, tree, ".", true) {
  attributes_.ino = 1;
  attributes_.timeout = kDirectoryTimeout;  // every path to a clone's file leads through here
}

void ClonesRoot::opendir(fuse_req_t req, fuse_file_info* fi) {
  open_entries(req, fi, list_.entries());
}

DirectoryClones::DirectoryClones(KeyedNodes& table, const VirtualOwner& owner, Engine& engine,
                                 CommandRunner& runner, CloneTree& tree,
                                 const std::string& directory)
    : KeyedNode(table), owner_(owner), list_(owner, engine, runner, tree, directory, false) {
  attributes_.ino = kVirtualInodes + (uint64_t{1} << 60) +
                    (std::hash<std::string>{}(directory) & ((uint64_t{1} << 48) - 1));
  attributes_.mode = S_IFDIR | 0755;
  attributes_.timeout = 0;
  ::clock_gettime(CLOCK_REALTIME, &attributes_.time);
}

int DirectoryClones::describe(fuse_entry_param* entry) {
  describe_virtual(owner_, attributes_, entry);
  return 0;
}

void DirectoryClones::opendir(fuse_req_t req, fuse_file_info* fi) {
  open_entries(req, fi, list_.entries());
}

}  // namespace clonefs
