#include "engine/pool_guard.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace clonefs::detail {

namespace {

using Clock = std::chrono::steady_clock;
// As many as requests are served at a time, and some; the rest waits for one that gets free.
constexpr unsigned kMostThreads = 64;
constexpr auto kIdle = std::chrono::seconds(10);

struct Task {
  PoolGuard::Job job;
  std::atomic<Clock::rep> progress{Clock::now().time_since_epoch().count()};
  std::mutex mutex;
  std::condition_variable done_cv;
  bool done = false;  // guarded by mutex
  int result = 0;     // guarded by mutex

  Clock::time_point last() const { return Clock::time_point(Clock::duration(progress.load())); }
  void get_on() { progress.store(Clock::now().time_since_epoch().count()); }
};

}  // namespace

struct PoolGuard::State {
  mutable std::mutex mutex;
  std::condition_variable work_cv, ended_cv;
  std::deque<std::shared_ptr<Task>> waiting;
  std::vector<std::shared_ptr<Task>> running;
  unsigned threads = 0, idle = 0;
  bool stop = false;

  static void serve(const std::shared_ptr<State>& state) {
    ::pthread_setname_np(::pthread_self(), "pool");
    std::unique_lock lock(state->mutex);
    for (;;) {
      ++state->idle;
      const bool called = state->work_cv.wait_for(
          lock, kIdle, [&] { return state->stop || !state->waiting.empty(); });
      --state->idle;
      if (state->waiting.empty() && (!called || state->stop)) break;
      const auto task = std::move(state->waiting.front());
      state->waiting.pop_front();
      state->running.push_back(task);
      lock.unlock();
      task->get_on();
      int result;
      try {
        result = task->job([&] { task->get_on(); });
      } catch (const std::bad_alloc&) {
        result = -ENOMEM;
      }
      task->job = nullptr;  // what it owns goes here, not under the lock
      {
        const std::lock_guard done(task->mutex);
        task->done = true;
        task->result = result;
        task->done_cv.notify_all();
      }
      lock.lock();
      std::erase(state->running, task);
    }
    --state->threads;
    state->ended_cv.notify_all();
  }
};

PoolGuard::PoolGuard(std::chrono::milliseconds limit)
    : limit_(limit), state_(std::make_shared<State>()) {}

PoolGuard::~PoolGuard() {
  std::unique_lock lock(state_->mutex);
  state_->stop = true;
  state_->work_cv.notify_all();
  state_->ended_cv.wait(lock, [&] { return state_->threads == 0; });
}

bool PoolGuard::stalled() const {
  if (limit_.count() == 0) return false;
  const auto now = Clock::now();
  const std::lock_guard lock(state_->mutex);
  return std::any_of(state_->running.begin(), state_->running.end(),
                     [&](const auto& task) { return now - task->last() > limit_; });
}

std::optional<int> PoolGuard::run(Job job) {
  if (limit_.count() == 0) return job([] {});
  if (stalled()) return std::nullopt;
  const auto task = std::make_shared<Task>();
  task->job = std::move(job);
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->idle <= state_->waiting.size() && state_->threads < kMostThreads) {
      try {
        std::thread(State::serve, state_).detach();
        ++state_->threads;
      } catch (const std::system_error&) {
        // No thread to be had: those that are there will come to it.
        if (state_->threads == 0) return -EAGAIN;
      }
    }
    state_->waiting.push_back(task);
    state_->work_cv.notify_one();
  }
  std::unique_lock lock(task->mutex);
  while (!task->done) {
    const auto until = task->last() + limit_;
    if (task->done_cv.wait_until(lock, until) == std::cv_status::timeout && !task->done &&
        Clock::now() - task->last() > limit_)
      return std::nullopt;
  }
  return task->result;
}

}  // namespace clonefs::detail
