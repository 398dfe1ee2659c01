// ClonesMount: the second mount of a volume, that of its clones, with its session and thread.
// Thread safety: set up and taken down by one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fs/clone_lists.h"
#include "fs/clone_tree.h"
#include "fs/fuse_session.h"
#include "fs/kernel_notifier.h"

namespace clonefs {

class ClonesMount {
 public:
  struct Parts {
    const VirtualOwner& owner;
    Engine& engine;
    CommandRunner& runner;
    int pool;  // descriptor of its directory
  };
  // Mounts and serves. ENDED is called by the serving thread when the mount is gone.
  static Result<std::unique_ptr<ClonesMount>> open(Parts parts, const std::string& mountpoint,
                                                   FuseSessionOptions options, bool switch_ids,
                                                   std::function<void()> ended);
  ~ClonesMount();

  // EBUSY when it is in use and not LAZY.
  Status unmount(bool lazy);
  bool ended() const { return ended_; }
  bool passthrough() const { return session_->passthrough(); }

 private:
  // The way of the engine's news to a mount that may be gone.
  struct News {
    std::mutex mutex;
    ClonesMount* mount = nullptr;
  };

  explicit ClonesMount(Parts parts) : parts_(parts) {}
  static void clone_changed(News& news, const std::string& name, bool replaced);

  const Parts parts_;
  const std::shared_ptr<News> news_ = std::make_shared<News>();
  std::unique_ptr<CloneTree> tree_;
  std::unique_ptr<ClonesRoot> root_;
  std::unique_ptr<FuseSession> session_;
  KernelNotifier notifier_;
  std::thread thread_;
  std::atomic<bool> ended_{false};
};

}  // namespace clonefs
