// CopyCrew: threads that help with a list of independent pieces of work: reading and putting what the
// copy program copies. Who has the list works on it too, so it gets done without any helper.
// Thread safety: run() from any thread, in parallel. Helpers are started when they are first needed.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace clonefs::detail {

class CopyCrew {
 public:
  // HELPERS: at most, for all lists together. BEGIN runs first on each of them.
  CopyCrew(unsigned helpers, std::function<void()> begin);
  ~CopyCrew();
  CopyCrew(const CopyCrew&) = delete;
  CopyCrew& operator=(const CopyCrew&) = delete;

  // Calls WORK(i) for each i below COUNT, several at a time; returns when all are done. WORK must not
  // throw, nor wait for another call of it.
  void run(size_t count, const std::function<void(size_t)>& work);
  unsigned helpers() const { return most_; }

 private:
  struct List {
    const std::function<void(size_t)>* work;
    size_t count;
    size_t next = 0;  // guarded by mutex_, as all of it
    size_t done = 0;
  };
  void serve();
  // Takes one piece of LIST and does it, LOCK not being held meanwhile. False: all are taken.
  bool take(const std::shared_ptr<List>& list, std::unique_lock<std::mutex>& lock);

  const unsigned most_;
  const std::function<void()> begin_;
  std::mutex mutex_;
  std::condition_variable work_cv_, done_cv_;
  std::deque<std::shared_ptr<List>> lists_;  // that have pieces nobody took; guarded by mutex_
  std::vector<std::thread> threads_;         // guarded by mutex_
  bool stop_ = false;                        // guarded by mutex_
};

}  // namespace clonefs::detail
