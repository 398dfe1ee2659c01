// clonefs metrics: `.clonefs/metrics` of all mounted volumes as one text, and whether their daemons
// answer. A daemon that does not is waited for in a child process, for a while.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fs/json_text.h"
#include "fs/metrics_text.h"
#include "fs/mount_table.h"
#include "fs/unique_fd.h"
#include "tools/commands.h"
#include "tools/whole_file.h"

namespace clonefs {

namespace {

using Clock = std::chrono::steady_clock;

enum class Answer { kHere, kNone, kForbidden };

// The volume's text, unless its daemon does not answer in time, or to others only.
Answer ask(const std::string& mountpoint, std::chrono::seconds timeout, std::string* answer) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Answer::kNone;
  UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const UniqueFd file(::open((mountpoint + "/.clonefs/metrics").c_str(), O_RDONLY | O_CLOEXEC));
    if (!file && (errno == EACCES || errno == EPERM)) ::_exit(2);
    char part[65536];
    ssize_t n = file ? 0 : -1;
    while (file && (n = ::read(file.get(), part, sizeof part)) > 0) {
      if (::write(to.get(), part, static_cast<size_t>(n)) != n) n = -1;
      if (n < 0) break;
    }
    ::_exit(n == 0 ? 0 : 1);
  }
  to = UniqueFd();
  if (child < 0) return Answer::kNone;
  std::string text;
  const auto end = Clock::now() + timeout;
  bool ended = false;
  while (!ended) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd readable{from.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&readable, 1, static_cast<int>(left)) == 0) break;
    char part[65536];
    const ssize_t n = ::read(from.get(), part, sizeof part);
    if (n > 0) text.append(part, static_cast<size_t>(n));
    ended = n == 0 || (n < 0 && errno != EINTR);
  }
  if (!ended) {
    // Whom a dead disk holds cannot be waited for: it goes when it can, and init takes it up.
    ::kill(child, SIGKILL);
    return Answer::kNone;
  }
  int status = 1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return Answer::kForbidden;
  if (status != 0) return Answer::kNone;
  *answer = std::move(text);
  return Answer::kHere;
}

// The families of several texts, each once.
class Families {
 public:
  void add(const std::string& text) {
    std::istringstream lines(text);
    std::string family;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("# HELP ")) {
        family = line.substr(7, line.find(' ', 7) - 7);
        Family& known = families_[family];
        if (known.head.empty()) order_.push_back(family);
        known.complete = !known.head.empty();
      }
      Family& known = families_[family];
      if (!line.starts_with("#")) {
        known.samples += line + "\n";
      } else if (!known.complete) {
        known.head += line + "\n";
      }
    }
  }
  std::string text() const {
    std::string all;
    for (const std::string& family : order_) {
      const Family& known = families_.at(family);
      all += known.head + known.samples;
    }
    return all;
  }

 private:
  struct Family {
    std::string head, samples;
    bool complete = false;  // HEAD is there
  };
  std::map<std::string, Family> families_;
  std::vector<std::string> order_;
};

// All at once: who reads FILE never finds a half. Readable for all, as collectors need it.
Status write_whole(const std::string& file, const std::string& text) {
  std::string pattern = file + ".XXXXXX";
  const UniqueFd fd(::mkostemp(pattern.data(), O_CLOEXEC));
  if (!fd) return cannot_write(file, errno);
  const bool written = ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       ::fchmod(fd.get(), 0644) == 0;
  if (written && ::rename(pattern.c_str(), file.c_str()) == 0) return {};
  const int code = errno;
  ::unlink(pattern.c_str());
  return cannot_write(file, code);
}

}  // namespace

int show_metrics(const MetricsOptions& options, const CommonOptions& common) {
  const auto table = read_mount_table();
  if (!table) return fail("metrics", table.error(), common);
  std::set<std::string> volumes;
  for (const MountEntry& entry : *table) {
    if (entry.is_volume() && &first_mount_of(*table, entry) == &entry) volumes.insert(entry.mountpoint);
  }
  if (!common.mount.empty()) {
    const auto client = Client::find(common.mount, {});
    if (!client) return fail("metrics", client.error(), common);
    volumes = {client->mountpoint()};
  }
  Families families;
  size_t others = 0;
  Json json = new_answer();
  json["volumes"] = Json::array();
  for (const std::string& volume : volumes) {
    std::string text;
    const Answer answer = ask(volume, std::chrono::seconds(options.timeout_s), &text);
    const bool forbidden = answer == Answer::kForbidden;
    // Others' volumes are passed over, unless they are all that there is.
    if (forbidden && volumes.size() == ++others) return fail("metrics", not_the_owner(volume, EACCES), common);
    const bool up = answer == Answer::kHere;
    if (!forbidden) families.add(up_text(volume, up));
    if (up) families.add(text);
    Json of_volume;
    put_name(&of_volume, "volume", volume);
    of_volume["up"] = forbidden ? Json(nullptr) : Json(up);
    json["volumes"].push_back(of_volume);
  }
  const std::string text = families.text();
  if (!options.output.empty()) {
    if (const Status written = write_whole(options.output, text); !written) {
      return fail("metrics", written.error(), common);
    }
  } else if (common.json) {
    json["metrics"] = text;
  } else {
    std::fputs(text.c_str(), stdout);
  }
  if (common.json) std::fputs(dump_json(json).c_str(), stdout);
  return kExitDone;
}

}  // namespace clonefs
