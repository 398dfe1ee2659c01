// WorkerPool: threads for requests that may wait. Made as they are needed, and kept.
// Thread safety: post() from any thread; stop() once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace clonefs {

class WorkerPool {
 public:
  // At most LIMIT threads; each calls BEGIN first.
  WorkerPool(size_t limit, std::function<void()> begin) : limit_(limit), begin_(std::move(begin)) {}
  ~WorkerPool() { stop(); }

  // Runs JOB on a thread of the pool. When all are busy and as many jobs wait, it waits.
  void post(std::function<void()> job);
  // Runs what was posted, and ends the threads.
  void stop();

 private:
  void work();
  const size_t limit_;
  const std::function<void()> begin_;
  std::mutex mutex_;
  std::condition_variable ready_;  // a job, or the end
  std::condition_variable room_;
  std::deque<std::function<void()>> jobs_;
  size_t idle_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace clonefs
