// A Gate holds threads back until a test opens it. Thread safety: all members.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace clonefs::test {

// Far more than any wait here may take, far less than a test's time.
inline constexpr std::chrono::seconds kForever{30};

// Whoever passes while it is closed waits until it is opened.
class Gate {
 public:
  void close() { set(false); }
  void open() { set(true); }
  void pass() {
    std::unique_lock lock(mutex_);
    if (open_) return;
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    --waiting_;
  }
  // Until somebody waits at it.
  bool wait_for_somebody() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kForever, [&] { return waiting_ != 0; });
  }

 private:
  void set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
};

}  // namespace clonefs::test
