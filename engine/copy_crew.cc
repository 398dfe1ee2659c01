#include "engine/copy_crew.h"

#include <pthread.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace clonefs::detail {

CopyCrew::CopyCrew(unsigned helpers, std::function<void()> begin)
    : most_(helpers), begin_(std::move(begin)) {}

CopyCrew::~CopyCrew() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    work_cv_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
}

void CopyCrew::run(size_t count, const std::function<void(size_t)>& work) {
  if (count <= 1 || most_ == 0) {
    for (size_t i = 0; i < count; ++i) work(i);
    return;
  }
  const auto list = std::make_shared<List>(List{&work, count});
  std::unique_lock lock(mutex_);
  try {
    while (threads_.size() < std::min<size_t>(most_, count - 1))
      threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error&) {
    // No thread to be had: those that are there, and this one.
  }
  lists_.push_back(list);
  work_cv_.notify_all();
  while (take(list, lock)) {
  }
  done_cv_.wait(lock, [&] { return list->done == list->count; });
}

void CopyCrew::serve() {
  ::pthread_setname_np(::pthread_self(), "copy");
  begin_();
  std::unique_lock lock(mutex_);
  for (;;) {
    work_cv_.wait(lock, [&] { return stop_ || !lists_.empty(); });
    if (lists_.empty()) return;
    const auto list = lists_.front();
    take(list, lock);
  }
}

bool CopyCrew::take(const std::shared_ptr<List>& list, std::unique_lock<std::mutex>& lock) {
  if (list->next == list->count) return false;
  const size_t mine = list->next++;
  if (list->next == list->count) std::erase(lists_, list);
  lock.unlock();
  (*list->work)(mine);
  lock.lock();
  if (++list->done == list->count) done_cv_.notify_all();
  return true;
}

}  // namespace clonefs::detail
