// KernelNotifier: sends notifications to the kernel from a thread of its own. A thread that serves
// a request must not: the kernel may wait for that request to be replied to. Thread safety: any
// thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace clonefs {

class KernelNotifier {
 public:
  KernelNotifier() : thread_([this] { work(); }) {}
  ~KernelNotifier() { stop(); }

  // NOTIFY is called soon; what it uses must live until stop().
  void post(std::function<void()> notify);
  // Lets the one that runs end, and drops the rest.
  void stop();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace clonefs
