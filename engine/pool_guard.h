// PoolGuard: what a change of the volume asks of the pool is done on threads of the guard, so that a
// pool that does not answer (a dead NFS server, a stopped FUSE file system) holds these and not the
// programs that write to the volume: those wait for no longer than the limit without progress.
//
// Thread safety: all members. A job may run on after its caller has gone: it owns what it uses, but
// for what outlives the guard. A job may run another one.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

namespace clonefs::detail {

class PoolGuard {
 public:
  // What a job calls when it has got on.
  using Progress = std::function<void()>;
  using Job = std::function<int(const Progress&)>;

  // LIMIT 0: no limit, and jobs run on the caller's thread.
  explicit PoolGuard(std::chrono::milliseconds limit);
  // Waits for all jobs, however long they take: run() one before, to see whether the pool answers.
  ~PoolGuard();
  PoolGuard(const PoolGuard&) = delete;
  PoolGuard& operator=(const PoolGuard&) = delete;

  // JOB's result. Nothing when it did not get on for the limit, or could not begin because an earlier
  // one has not for as long.
  std::optional<int> run(Job job);
  std::chrono::milliseconds limit() const { return limit_; }

 private:
  struct State;
  // Whether a job is at work that has not got on for the limit.
  bool stalled() const;
  const std::chrono::milliseconds limit_;
  const std::shared_ptr<State> state_;
};

}  // namespace clonefs::detail
