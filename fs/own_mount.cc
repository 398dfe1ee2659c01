#include "fs/own_mount.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace clonefs {

namespace {

void part_descriptors() { ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_UNSHARE); }

void start_apart(std::function<void()> job) {
  std::thread([job = std::move(job)] {
    part_descriptors();
    job();
  }).detach();
}

// Makes the threads: a new one shares the table of its maker.
class Maker {
 public:
  explicit Maker(bool keep_streams) {
    std::thread([this, keep_streams] {
      part_descriptors();
      // Whoever started us may wait for the end of these.
      const int null = keep_streams ? -1 : ::open("/dev/null", O_RDWR | O_CLOEXEC);
      if (null >= 0) {
        for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
        ::close(null);
      }
      std::unique_lock lock(mutex_);
      ready_ = true;
      changed_.notify_all();
      for (;;) {
        changed_.wait(lock, [this] { return !jobs_.empty(); });
        auto job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        start_apart(std::move(job));
        lock.lock();
      }
    }).detach();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_; });
  }
  void post(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool ready_ = false;
};

Maker* maker = nullptr;  // lives as long as the process

}  // namespace

void prepare_threads_apart(bool keep_streams) {
  if (maker == nullptr) maker = new Maker(keep_streams);
}

void run_apart(std::function<void()> job) {
  if (maker != nullptr)
    maker->post(std::move(job));
  else
    start_apart(std::move(job));
}

int reopen_of_process(int fd) {
  const std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd);
  const int own = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  return own < 0 ? -errno : own;
}

Status on_own_mount(const std::function<Status()>& access) {
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  Status result;
  run_apart([&] {
    Status got = access();
    const std::lock_guard lock(mutex);
    result = std::move(got);
    done = true;
    ended.notify_all();
  });
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return done; });
  return result;
}

}  // namespace clonefs
