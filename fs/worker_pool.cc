#include "fs/worker_pool.h"

#include <system_error>

namespace clonefs {

void WorkerPool::post(std::function<void()> job) {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return jobs_.size() < limit_; });
  jobs_.push_back(std::move(job));
  if (idle_ < jobs_.size() && threads_.size() < limit_) {
    try {
      threads_.emplace_back([this] { work(); });
      return;
    } catch (const std::system_error&) {
      if (threads_.empty()) throw;  // nobody would ever run it
    }
  }
  ready_.notify_one();
}

void WorkerPool::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    ready_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WorkerPool::work() {
  begin_();
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    ready_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    --idle_;
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    room_.notify_one();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace clonefs
