#include "tools/calendar.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <regex>

#include "fs/words.h"

namespace clonefs {

namespace {

constexpr const char* kDays[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};

// What the program says on both of its outputs. ENOENT: it is not there.
Result<std::string> output_of(std::vector<std::string> words, int* status) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::from_errno(errno, words[0]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int e = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; e == 0 && (n = ::read(ends[0], part, sizeof part)) > 0;)
    text.append(part, static_cast<size_t>(n));
  ::close(ends[0]);
  if (e != 0) return Error::from_errno(e, words[0]);
  while (::waitpid(pid, status, 0) < 0 && errno == EINTR) {
  }
  return text;
}

// "Mon 2026-11-30 02:00:00 UTC"
int64_t moment_of(const std::string& text) {
  tm broken{};
  const char* digit = std::strpbrk(text.c_str(), "0123456789");
  if (digit == nullptr || ::strptime(digit, "%Y-%m-%d %H:%M:%S", &broken) == nullptr) return -1;
  if (text.find("UTC") != std::string::npos) return ::timegm(&broken);
  broken.tm_isdst = -1;
  return ::mktime(&broken);
}

}  // namespace

Result<Calendar> look_up_calendar(const std::string& expression, int64_t after, unsigned count) {
  int status = 0;
  const auto text = output_of({"systemd-analyze", "calendar", "--iterations=" + std::to_string(count),
                               "--base-time=@" + std::to_string(after), "--", expression},
                              &status);
  if (!text) {
    return Error{ENOENT, "a calendar needs systemd-analyze, which is not on this machine; write "
                         "activate_at instead"};
  }
  if (status != 0) {
    return Error{EINVAL, "'" + expression + "' is no calendar expression (systemd.time(7)); write for "
                             "instance \"Mon..Fri 02:00\" or \"daily\""};
  }
  Calendar calendar;
  size_t begin = 0;
  while (begin < text->size()) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    const std::string line = text->substr(begin, end - begin);
    begin = end + 1;
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.find("Normalized form") != std::string::npos) calendar.normalized = value;
    if (line.find("Next elapse") != std::string::npos || line.find("Iter") != std::string::npos ||
        line.find("Iteration") != std::string::npos) {
      if (const int64_t at = moment_of(value); at > 0) calendar.next.push_back(at);
    }
    // The line before, without the doubt when clocks change.
    if (line.find("(in UTC)") != std::string::npos && !calendar.next.empty())
      calendar.next.back() = moment_of(value);
  }
  return calendar;
}

Result<std::string> earlier(const std::string& normalized, uint64_t by_s) {
  static const std::regex form(R"((?:([A-Z][A-Za-z,.]*) )?\*-\*-\* (\d\d):(\d\d):(\d\d))");
  std::smatch found;
  if (!std::regex_match(normalized, found, form) || by_s >= 86400) {
    return Error{EINVAL, "the timer must begin " + format_duration(by_s) + " before '" + normalized +
                             "', which can only be worked out for days of the week and one time of the "
                             "day, and for less than a day; leave out precopy_window, or write such an "
                             "expression"};
  }
  int64_t at = std::stoi(found[2]) * 3600 + std::stoi(found[3]) * 60 + std::stoi(found[4]) -
               static_cast<int64_t>(by_s);
  const bool day_before = at < 0;
  if (day_before) at += 86400;
  std::string days;
  if (found[1].matched) {
    bool chosen[7] = {};
    std::string list = found[1];
    const auto number = [](const std::string& name) {
      for (int i = 0; i < 7; i++)
        if (name.substr(0, 3) == kDays[i]) return i;
      return 0;
    };
    for (size_t begin = 0; begin < list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      const std::string part = list.substr(begin, end - begin);
      const size_t dots = part.find("..");
      const int from = number(part);
      const int to = dots == std::string::npos ? from : number(part.substr(dots + 2));
      for (int day = from;; day = (day + 1) % 7) {
        chosen[(day + (day_before ? 6 : 0)) % 7] = true;
        if (day == to) break;
      }
      begin = end + 1;
    }
    for (int i = 0; i < 7; i++)
      if (chosen[i]) days += (days.empty() ? "" : ",") + std::string(kDays[i]);
    days += " ";
  }
  char text[32];
  std::snprintf(text, sizeof text, "*-*-* %02d:%02d:%02d", static_cast<int>(at / 3600),
                static_cast<int>(at / 60 % 60), static_cast<int>(at % 60));
  return days + text;
}

}  // namespace clonefs
