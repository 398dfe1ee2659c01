// ControlTree: what the live mount shows beside the volume's own files: `.clonefs` with the control
// files, and `DIR/.clone`. Commands run on threads of the CommandRunner.
//
// Who may command: whoever may write to ctl; it belongs to the owner of the volume's root with mode
// 0600, and may be given a group and a mode (until the volume is unmounted).
// Thread safety: as Node.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "fs/clone_lists.h"
#include "fs/command_exec.h"
#include "fs/command_runner.h"
#include "fs/control_events.h"
#include "fs/virtual_nodes.h"
#include "fs/volume.h"

namespace clonefs {

// Mode and group of all ctl files.
class ControlAccess {
 public:
  void apply(struct stat* st) const;
  void set(const struct stat& attr, int to_set);

 private:
  mutable std::mutex mutex_;
  mode_t mode_ = 0600;
  gid_t group_ = static_cast<gid_t>(-1);  // the volume's
};

struct ControlContext {
  const VirtualOwner& owner;
  CommandExecutor& executor;
  CommandRunner& runner;
  ControlAccess access;
};

class ControlTree : public VirtualEntries {
 public:
  // VIEW: the clones as `.clone` shows them.
  ControlTree(const VirtualOwner& owner, CommandExecutor& executor, CommandRunner& runner,
              CloneTree& view);
  ~ControlTree() override;

  Node* control_root() override;
  Node* clone_list(const std::string& directory) override;

  EventFiles& events();
  // `clones` as a symbolic link to TARGET instead of a directory to mount on. Before requests come.
  void set_clones_link(const std::string& target);

 private:
  struct Nodes;
  const std::unique_ptr<Nodes> nodes_;
};

}  // namespace clonefs
