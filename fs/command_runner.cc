#include "fs/command_runner.h"

#include <cerrno>
#include <new>
#include <thread>
#include <utility>

namespace clonefs {

namespace {

// A request that either its job or an interrupt replies to. Shared by both.
struct Pending {
  std::mutex mutex;
  fuse_req_t req = nullptr;  // null: replied to
  std::atomic<bool> registering{true};
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

  fuse_req_t take() {
    std::lock_guard lock(mutex);
    return std::exchange(req, nullptr);
  }
};

void reply_interrupted(Pending* pending) {
  if (fuse_req_t req = pending->take(); req != nullptr) fuse_reply_err(req, EINTR);
}

// libfuse calls it with the request's lock held. From a thread that delivers an interrupt a reply
// is all right; from within the registration it would free the request under the lock.
void interrupted(fuse_req_t, void* data) {
  auto* pending = static_cast<Pending*>(data);
  pending->cancelled->store(true);
  if (!pending->registering) reply_interrupted(pending);
}

}  // namespace

bool CommandRunner::run(fuse_req_t req, Job job) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || running_ >= limit_) return false;
    running_++;
  }
  auto pending = std::make_shared<Pending>();
  pending->req = req;
  const auto work = [this, pending, job = std::move(job)] {
    fuse_req_interrupt_func(pending->req, interrupted, pending.get());
    pending->registering = false;
    if (*pending->cancelled) reply_interrupted(pending.get());
    Cancelled cancelled;
    cancelled.flag_ = pending->cancelled;
    cancelled.stopping_ = &stopping_;
    Reply reply;
    try {
      reply = job(cancelled);
    } catch (const std::bad_alloc&) {
      reply = [](fuse_req_t r) { fuse_reply_err(r, ENOMEM); };
    } catch (...) {
      reply = [](fuse_req_t r) { fuse_reply_err(r, EIO); };
    }
    if (fuse_req_t r = pending->take(); r != nullptr) {
      // Waits for an interrupt that is being delivered; it finds nothing to reply to.
      fuse_req_interrupt_func(r, nullptr, nullptr);
      reply(r);
    }
    // Notified under the lock: when stop() sees 0, this thread touches the runner no more.
    std::lock_guard lock(mutex_);
    running_--;
    idle_.notify_all();
  };
  try {
    std::thread(work).detach();
  } catch (...) {
    std::lock_guard lock(mutex_);
    running_--;
    idle_.notify_all();
    return false;
  }
  return true;
}

void CommandRunner::set_limit(unsigned limit) {
  std::lock_guard lock(mutex_);
  limit_ = limit;
}

void CommandRunner::stop() {
  stopping_ = true;
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace clonefs
