#include "fs/service_notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "fs/unique_fd.h"

namespace clonefs {

namespace {

// From the manager, unless it means another process.
std::optional<std::chrono::microseconds> watchdog_interval() {
  const char* pid = std::getenv("WATCHDOG_PID");
  const char* time = std::getenv("WATCHDOG_USEC");
  if (time == nullptr || (pid != nullptr && std::atoll(pid) != ::getpid())) return std::nullopt;
  const long long us = std::atoll(time);
  if (us <= 0) return std::nullopt;
  return std::chrono::microseconds(us);
}

}  // namespace

void notify_manager(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || (path[0] != '/' && path[0] != '@') ||
      std::strlen(path) >= sizeof address.sun_path) {
    return;
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, std::strlen(path));
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path) +
                                             (path[0] == '@' ? 0 : 1));
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd) {
    (void)::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                   reinterpret_cast<sockaddr*>(&address), length);
  }
}

void ManagerWatchdog::start(std::function<bool()> alive) {
  const auto interval = watchdog_interval();
  if (!interval || thread_.joinable()) return;
  thread_ = std::thread([this, alive = std::move(alive), half = *interval / 2] {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      lock.unlock();
      if (alive()) notify_manager("WATCHDOG=1");
      lock.lock();
      wake_.wait_for(lock, half, [this] { return stopping_; });
    }
  });
}

void ManagerWatchdog::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace clonefs
