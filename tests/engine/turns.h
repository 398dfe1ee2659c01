// Turns: two threads of which one runs at a time. They change at point(), by choices from a seed, and
// when the one whose turn it is sleeps on a lock that the other holds. So two operations meet in every
// way, and a seed repeats it, but for what happens between waking up from such a lock and the next
// point().
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {

class Turns {
 public:
  explicit Turns(uint64_t seed) : random_(seed) {}

  // Runs both; returns when both are done.
  void run(const std::function<void()>& first, const std::function<void()>& second) {
    std::atomic<int> begun{0};
    const auto part = [&](int me, const std::function<void()>& what) {
      threads_[me].stat = open_stat();
      ++begun;
      while (begun != 2) std::this_thread::yield();
      me_ = me;
      wait(me);
      what();
      me_ = -1;
      threads_[me].done = true;
      turn_ = 1 - me;
    };
    std::thread other([&] { part(1, second); });
    part(0, first);
    other.join();
    for (Thread& thread : threads_) ::close(thread.stat);
  }

  // Where the threads may change; nothing for others.
  void point() {
    const int me = me_;
    if (me < 0) return;
    wait(me);  // it may have slept on a lock, and have lost its turn
    {
      const std::lock_guard lock(mutex_);
      if (!random_.chance(40)) return;
    }
    turn_ = 1 - me;
    wait(me);
  }

 private:
  struct Thread {
    int stat = -1;
    std::atomic<bool> done{false};
  };

  static int open_stat() {
    const std::string path =
        "/proc/self/task/" + std::to_string(::syscall(SYS_gettid)) + "/stat";
    return ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }

  // Until it is the turn of ME: given, or taken from one that is done or sleeps. (Who waits here does
  // not sleep.)
  void wait(int me) {
    while (turn_ != me) {
      Thread& other = threads_[1 - me];
      if (other.done || sleeps(other)) turn_ = me;
      std::this_thread::yield();
    }
  }

  static bool sleeps(const Thread& thread) {
    char text[128] = {};
    if (::pread(thread.stat, text, sizeof text - 1, 0) <= 0) return true;  // gone
    const char* state = std::strrchr(text, ')');
    return state != nullptr && state[2] == 'S';
  }

  static inline thread_local int me_ = -1;
  std::mutex mutex_;
  Random random_;  // guarded by mutex_
  Thread threads_[2];
  std::atomic<int> turn_{0};
};

}  // namespace clonefs::test
