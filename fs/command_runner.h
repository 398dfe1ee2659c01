// CommandRunner: runs commands on threads of their own, so that none of them, however long it
// takes, occupies a thread that serves requests (a command may itself wait for such requests: the
// flush of an ACTIVATE). Thread safety: any thread.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

namespace clonefs {

class CommandRunner {
 public:
  // Says whether the one who asked has given up, or the end of the service is near.
  class Cancelled {
   public:
    bool operator()() const { return flag_ != nullptr && (flag_->load() || stopping_->load()); }

   private:
    friend class CommandRunner;
    std::shared_ptr<std::atomic<bool>> flag_;
    const std::atomic<bool>* stopping_ = nullptr;
  };
  // The job's end: replies to the request. Called once, on the job's thread, unless the request was
  // interrupted before.
  using Reply = std::function<void(fuse_req_t)>;
  using Job = std::function<Reply(const Cancelled&)>;

  explicit CommandRunner(unsigned limit) : limit_(limit) {}
  ~CommandRunner() { stop(); }

  // Runs JOB for REQ. When the caller is interrupted (killed), the request is replied to with EINTR
  // at once; the job goes on, and can know by CANCELLED. False: too many are running;
  // nothing was done and REQ is still to be replied to.
  bool run(fuse_req_t req, Job job);
  void set_limit(unsigned limit);
  // Takes no more, and waits for those that run.
  void stop();

 private:
  unsigned limit_;  // under mutex_
  std::mutex mutex_;
  std::condition_variable idle_;
  unsigned running_ = 0;
  std::atomic<bool> stopping_{false};
};

}  // namespace clonefs
