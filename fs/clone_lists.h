// Directories whose entries are clones: the root of the clones mount, and `DIR/.clone`. mkdir is
// ACTIVE COPY, rmdir ends and removes; both on a thread of the CommandRunner.
// Thread safety: as Node.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "fs/clone_tree.h"
#include "fs/command_runner.h"
#include "fs/virtual_nodes.h"

namespace clonefs {

// What both kinds of lists do, for the clones of one directory of the volume ("." is all).
class CloneList {
 public:
  CloneList(const VirtualOwner& owner, Engine& engine, CommandRunner& runner, CloneTree& tree,
            std::string directory, bool in_clones_mount)
      : owner_(owner),
        engine_(engine),
        runner_(runner),
        tree_(tree),
        directory_(std::move(directory)),
        in_clones_mount_(in_clones_mount) {}

  void lookup(fuse_req_t req, const char* name) const;
  void make(fuse_req_t req, const char* name) const;
  void remove(fuse_req_t req, const char* name) const;
  std::vector<VirtualEntry> entries() const;

 private:
  // Of a clone that contains the directory. 0 or an errno.
  int node(fuse_req_t req, const std::string& name, Node** node) const;
  Status remove_clone(const std::string& name) const;

  const VirtualOwner& owner_;
  Engine& engine_;
  CommandRunner& runner_;
  CloneTree& tree_;
  const std::string directory_;
  const bool in_clones_mount_;
};

// The root of the clones mount.
class ClonesRoot : public FixedNode {
 public:
  ClonesRoot(const VirtualOwner& owner, Engine& engine, CommandRunner& runner, CloneTree& tree);
  // Is the calling thread at work for a mkdir or rmdir in this directory? Then the kernel holds it,
  // and sees to the name itself.
  static bool changing_names();
  void lookup(fuse_req_t req, const char* name) override { list_.lookup(req, name); }
  void mkdir(fuse_req_t req, const char* name, mode_t) override { list_.make(req, name); }
  void rmdir(fuse_req_t req, const char* name) override { list_.remove(req, name); }
  void opendir(fuse_req_t req, fuse_file_info* fi) override;

 private:
  CloneList list_;
};

// `DIR/.clone`.
class DirectoryClones : public KeyedNode {
 public:
  DirectoryClones(KeyedNodes& table, const VirtualOwner& owner, Engine& engine,
                  CommandRunner& runner, CloneTree& tree, const std::string& directory);
  int describe(fuse_entry_param* entry) override;
  void lookup(fuse_req_t req, const char* name) override { list_.lookup(req, name); }
  void mkdir(fuse_req_t req, const char* name, mode_t) override { list_.make(req, name); }
  void rmdir(fuse_req_t req, const char* name) override { list_.remove(req, name); }
  void opendir(fuse_req_t req, fuse_file_info* fi) override;

 private:
  const VirtualOwner& owner_;
  VirtualAttributes attributes_;
  CloneList list_;
};

}  // namespace clonefs
