#include "fs/kernel_notifier.h"

#include <utility>

namespace clonefs {

void KernelNotifier::post(std::function<void()> notify) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  queue_.push_back(std::move(notify));
  posted_.notify_one();
}

void KernelNotifier::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    posted_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void KernelNotifier::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    posted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const auto notify = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    notify();
    lock.lock();
  }
}

}  // namespace clonefs
