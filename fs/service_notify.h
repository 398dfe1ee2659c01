// What a service tells its manager (systemd's sd_notify(3) protocol: a datagram to $NOTIFY_SOCKET).
// Without a manager nothing is sent. Thread safety: any thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace clonefs {

// STATE: lines, "READY=1\nSTATUS=...".
void notify_manager(const std::string& state);

// Tells the manager that the service lives, twice in each $WATCHDOG_USEC, while ALIVE
// returns: a call that does not return, or returns false, is what the manager acts on.
class ManagerWatchdog {
 public:
  ~ManagerWatchdog() { stop(); }
  void start(std::function<bool()> alive);
  void stop();

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace clonefs
