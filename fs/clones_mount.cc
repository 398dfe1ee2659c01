#include "fs/clones_mount.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>

#include "fs/own_mount.h"

namespace clonefs {

void end_session(FuseSession& session, std::thread& thread, const std::atomic<bool>& ended) {
  session.stop();
  // The loop looks at its end when a signal interrupts its wait; one that comes just before is
  // lost.
  while (!ended) {
    ::pthread_kill(thread.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

Result<std::unique_ptr<ClonesMount>> ClonesMount::open(Parts parts, const std::string& mountpoint,
                                                       FuseSessionOptions options, bool switch_ids,
                                                       std::function<void()> ended) {
  std::unique_ptr<ClonesMount> self(new ClonesMount(parts));
  auto tree = CloneTree::open(parts.engine, parts.pool, {false, switch_ids, 0});
  if (!tree) return tree.error();
  self->tree_ = std::move(*tree);
  self->root_ = std::make_unique<ClonesRoot>(parts.owner, parts.engine, parts.runner, *self->tree_);
  auto session = FuseSession::create(self->root_.get(), std::move(options));
  if (!session) return session.error();
  self->session_ = std::move(*session);
  if (const Status mounted = self->session_->mount(mountpoint); !mounted) return mounted.error();
  self->tree_->set_session(self->session_.get(), &self->notifier_);
  self->thread_ = std::thread([mount = self.get(), ended = std::move(ended)] {
    mount->session_->run();
    mount->ended_ = true;
    ended();
  });
  self->session_->tune(mountpoint);
  return self;
}

ClonesMount::~ClonesMount() {
  if (!thread_.joinable()) return;  // was never mounted
  if (!ended_) {
    if (!unmount(false)) (void)unmount(true);
    end_session(*session_, thread_, ended_);
  }
  thread_.join();
  notifier_.stop();  // it uses the session
}

Status ClonesMount::unmount(bool lazy) {
  return on_own_mount([&] { return session_->unmount(lazy); });
}

}  // namespace clonefs
