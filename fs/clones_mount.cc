#include "fs/clones_mount.h"

#include <chrono>
#include <future>
#include <mutex>
#include <utility>

#include "fs/own_mount.h"

namespace clonefs {

namespace {

constexpr auto kToldWithin = std::chrono::milliseconds(200);

}  // namespace

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
  self->news_->mount = self.get();
  parts.engine.set_clones_changed(
      [news = self->news_](const std::string& name, bool replaced) {
        clone_changed(*news, name, replaced);
      });
  return self;
}

void ClonesMount::clone_changed(News& news, const std::string& name, bool replaced) {
  const auto told = std::make_shared<std::promise<void>>();
  {
    const std::lock_guard lock(news.mutex);
    if (news.mount == nullptr || (!replaced && news.mount->parts_.engine.clone(name))) return;
    if (ClonesRoot::changing_names()) return;
    news.mount->notifier_.post(
        [session = news.mount->session_.get(), root = news.mount->root_.get(), name, told] {
          session->invalidate_name(root, name);
          told->set_value();
        });
  }
  // When a command that removes a clone has returned, nobody finds it. But a mkdir of another clone
  // keeps the kernel from it as long as it takes.
  told->get_future().wait_for(kToldWithin);
}

ClonesMount::~ClonesMount() {
  if (!thread_.joinable()) return;  // was never mounted
  {
    const std::lock_guard lock(news_->mutex);
    news_->mount = nullptr;
  }
  if (!ended_) {
    if (!unmount(false)) (void)unmount(true);
    session_->stop();
  }
  thread_.join();
  notifier_.stop();  // it uses the session
}

Status ClonesMount::unmount(bool lazy) {
  return on_own_mount([&] { return session_->unmount(lazy); });
}

}  // namespace clonefs
