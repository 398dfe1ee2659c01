// clonefs events: what happened to a volume, from `.clonefs/events.json`. --follow opens the file anew
// for each look, so that it keeps nobody from unmounting the volume.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "fs/status_text.h"
#include "fs/unique_fd.h"
#include "tools/commands.h"

namespace clonefs {

namespace {

constexpr std::chrono::milliseconds kInterval{200};
constexpr size_t kHead = 64;  // the first event's number and time are in it

std::string read_from(int fd, off_t offset, size_t most) {
  std::string text;
  char part[65536];
  while (text.size() < most) {
    const ssize_t n = ::pread(fd, part, std::min(sizeof part, most - text.size()),
                              offset + static_cast<off_t>(text.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(part, static_cast<size_t>(n));
  }
  return text;
}

class Follower {
 public:
  explicit Follower(bool json) : json_(json) {}

  // Prints what is new in the file.
  void look(int fd) {
    const std::string head = read_from(fd, 0, kHead);
    // The file begins elsewhere: its oldest events went, or this is another mount's, which counts from 1.
    if (!head.starts_with(head_.substr(0, head.size())) || head.size() < head_.size()) {
      offset_ = 0;
      if (head.empty() || head.find("\"number\":1,") != std::string::npos) last_ = 0;
    }
    head_ = head;
    const std::string text = read_from(fd, offset_, SIZE_MAX);
    size_t begin = 0;
    for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      print(text.substr(begin, end - begin));
    }
    offset_ += static_cast<off_t>(begin);
  }

 private:
  void print(const std::string& line) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    if (!event.is_object() || event.value("number", uint64_t{0}) <= last_) return;
    last_ = event["number"].get<uint64_t>();
    if (json_) {
      std::printf("%s\n", line.c_str());
    } else {
      std::printf("%s %s\n", event.value("time", "").c_str(),
                  printable(event.value("message", "")).c_str());
    }
  }

  const bool json_;
  std::string head_;
  off_t offset_ = 0;
  uint64_t last_ = 0;
};

}  // namespace

int show_events(const EventsOptions& options, const CommonOptions& common) {
  const auto client = Client::find(common.mount, {});
  if (!client) return fail("events", client.error(), common);
  const std::string path = client->mountpoint() + "/.clonefs/events.json";
  Follower follower(common.json);
  for (bool first = true;; first = false) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
      const int code = errno;
      const auto still = Client::find(client->mountpoint(), {});
      if (first || (!still && still.error().code == ENOTCONN)) {
        const bool forbidden = code == EACCES || code == EPERM;
        return fail("events", !still      ? still.error()
                              : forbidden ? not_the_owner(client->mountpoint(), code)
                                          : Error::from_errno(code, path),
                    common);
      }
      if (!common.quiet) std::fprintf(stderr, "clonefs: events: the volume was unmounted\n");
      return 0;
    }
    follower.look(fd.get());
    fd = UniqueFd();
    if (std::fflush(stdout) != 0) return 1;
    if (!options.follow) return 0;
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace clonefs
