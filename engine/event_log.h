// EventLog: what happened, one line each, the last kKept of them. Thread safety: all members.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "engine/event.h"

namespace clonefs::detail {

class EventLog {
 public:
  static constexpr size_t kKept = 1000;

  void add(EventKind kind, const std::string& name, const std::string& text) {
    timespec at{};
    ::clock_gettime(CLOCK_REALTIME, &at);
    const std::lock_guard lock(mutex_);
    events_.push_back({++last_, at, kind, name, text});
    if (events_.size() > kKept) events_.pop_front();
    added_.notify_all();
  }
  // Of no session.
  void add(const std::string& text) { add(EventKind::kNote, "", text); }
  std::vector<EngineEvent> after(uint64_t number) const {
    const std::lock_guard lock(mutex_);
    std::vector<EngineEvent> result;
    for (const auto& e : events_)
      if (e.number > number) result.push_back(e);
    return result;
  }
  bool wait(uint64_t after, std::chrono::milliseconds timeout) const {
    std::unique_lock lock(mutex_);
    return added_.wait_for(lock, timeout, [&] { return last_ > after; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable added_;
  std::deque<EngineEvent> events_;
  uint64_t last_ = 0;
};

}  // namespace clonefs::detail
