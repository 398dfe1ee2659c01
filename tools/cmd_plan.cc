// clonefs plan: clones that are made together, as a file says.
//
// All of it is done here, by ordinary commands, with the rights of who runs it, and so are the hooks: the
// daemon may be root's, serves the volume that a hook uses, and must run nothing that somebody wrote down.
#include <fcntl.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <set>

#include "engine/moment.h"
#include "fs/json_text.h"
#include "fs/status_text.h"
#include "fs/words.h"
#include "tools/commands.h"
#include "tools/plan_file.h"
#include "tools/terminal.h"

namespace clonefs {

namespace {

// A timer may be late, a machine may have been off for a moment: still this activation.
constexpr int64_t kLate = 300;

volatile sig_atomic_t ended = 0;
volatile sig_atomic_t hook_to_end = 0;  // its process group
void note_end(int) {
  const int code = errno;
  ended = 1;
  if (hook_to_end != 0) ::kill(-hook_to_end, SIGTERM);
  errno = code;
}

const Error kEnded{EINTR, "ended by a signal"};

// Until TIME. The clock may be set meanwhile.
Status wait_until(int64_t time) {
  while (ended == 0) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec >= time) return {};
    const bool last = now.tv_sec + 1 == time;
    const timespec pause{0, last ? 1'000'000'000 - now.tv_nsec : 900'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return kEnded;
}

class Run {
 public:
  Run(const Plan& plan, const Client& client, const CommonOptions& common)
      : plan_(plan), client_(client), quiet_(common.quiet || common.json), json_(common.json) {}

  Status run(const Timetable& timetable) {
    Status status = prepare(timetable);
    bool activated = false;
    if (status) status = hooks(timetable, PlannedStep::kBefore, false);
    if (status && ended != 0) status = kEnded;
    if (status) {
      status = command(activation());
      activated = static_cast<bool>(status);
      if (activated) say("activated " + join_words(names()));
    }
    // Whoever was stopped goes on, whatever happened.
    if (Status last = hooks(timetable, PlannedStep::kFinally, activated); status && !last) status = last;
    if (status) status = hooks(timetable, PlannedStep::kAfter, true);
    return !status && !activated ? not_activated(status.error()) : status;
  }

 private:
  Error not_activated(const Error& why) const {
    std::string text = why.message;
    while (text.ends_with('.')) text.pop_back();
    text += ". Nothing was activated";
    if (prepared_.size() == plan_.clones.size()) {
      text += "; the clones stay prepared: run the plan again, or `clonefs activate " + join_words(names()) + "`";
    } else if (!prepared_.empty()) {
      text += "; prepared are " + join_words(prepared_) + ", which the plan takes up when it is run again";
    }
    return {why.code, text};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& clone : plan_.clones) names.push_back(clone.name);
    return names;
  }
  std::vector<std::string> activation() const {
    std::vector<std::string> words{"activate", "--"};
    for (const auto& clone : plan_.clones) words.push_back(clone.name);
    return words;
  }
  const PlannedClone& clone_of(const std::string& name) const {
    return *std::find_if(plan_.clones.begin(), plan_.clones.end(),
                         [&](const PlannedClone& clone) { return clone.name == name; });
  }

  void say(const std::string& text) const {
    if (quiet_) return;
    std::printf("%s  %s\n", format_moment(::time(nullptr)).c_str(), text.c_str());
    std::fflush(stdout);
  }

  Status command(const std::vector<std::string>& words) const {
    const auto reply = client_.send_line(join_words(words) + "\n", words[0]);
    if (reply) return {};
    const std::string& text = reply.error().message;
    return Error{reply.error().code, text.starts_with(words[0] + " ") ? text : words[0] + ": " + text};
  }

  Status make_ready(const PlannedClone& clone) {
    const Status status = make(clone);
    if (status) prepared_.push_back(clone.name);
    return status;
  }

  // Every clone is Created or in Precopy, the latter precopied if there is no time to wait for.
  Status prepare(const Timetable& timetable) {
    for (const PlannedStep& step : timetable.steps) {
      if (step.kind != PlannedStep::kPrecopy) continue;
      if (timetable.waits) {
        if (auto status = wait_until(step.at); !status) return status;
      }
      say("precopy of " + join_words(step.clones));
      for (const std::string& name : step.clones)
        if (auto status = make_ready(clone_of(name)); !status) return status;
      for (const std::string& name : step.clones) {
        if (timetable.waits) break;
        if (auto status = command({"wait", name, "--for", "precopied"}); !status) return status;
      }
    }
    if (auto status = timetable.waits ? wait_until(timetable.activation) : Status{}; !status) return status;
    for (const PlannedClone& clone : plan_.clones) {
      if (clone.precopy) continue;
      if (auto status = make_ready(clone); !status) return status;
    }
    return ended != 0 ? Status(kEnded) : Status{};
  }

  // The session of a clone: a new one, the next generation of one that is there, or one that was prepared
  // already.
  Status make(const PlannedClone& clone) const {
    const auto reply = client_.send_line(join_words({"status", "--json", clone.name}) + "\n", "status");
    if (!reply && reply.error().code != ENOENT) return reply.error();
    std::vector<std::string> words;
    if (!reply) {
      words = {"create"};
      if (!clone.pace.empty()) words.push_back("--pace=" + clone.pace);
    } else {
      const Json status = Json::parse(*reply, nullptr, false);
      if (status.is_discarded()) return Error{EPROTO, "the reply is not JSON"};
      const std::string state = status["sessions"][0]["state"];
      if (state == "Precopy") return {};
      if (state == "Created") return clone.precopy ? command({"precopy", clone.name}) : Status{};
      if (state == "CopyInProgress") {
        return Error{EBUSY, clone.name + " is still being copied, since its last activation; the plan's runs "
                                         "are too close to each other (`clonefs status " + clone.name + "`)"};
      }
      words = {"recreate"};
      if (clone.keep != 0) words.push_back("--keep=" + std::to_string(clone.keep));
    }
    if (clone.precopy) words.emplace_back("--precopy");
    if (clone.ttl_s != 0) {
      words.push_back("--ttl=" + format_duration(clone.ttl_s));
    } else if (reply) {
      words.emplace_back("--ttl=never");
    }
    words.insert(words.end(), {"--", clone.name});
    if (!reply) words.insert(words.end(), clone.paths.begin(), clone.paths.end());
    return command(words);
  }

  // Those of a kind, in order. A "finally" runs when its "before" has begun (or there is none), all of them.
  Status hooks(const Timetable& timetable, PlannedStep::Kind kind, bool activated) {
    Status result;
    for (const PlannedStep& step : timetable.steps) {
      if (step.kind != kind) continue;
      const std::string whose = step.clones.empty() ? "" : step.clones[0];
      if (kind == PlannedStep::kBefore) begun_.insert(whose);
      if (kind == PlannedStep::kFinally && !begun_.contains(whose) && has_before(whose)) continue;
      // A signal ends what the run has before it, not that the stopped go on.
      if (kind != PlannedStep::kFinally && ended != 0) return kEnded;
      const Status status = hook(step, whose, activated);
      if (!status && result) result = status;
      if (!status && kind == PlannedStep::kBefore) return status;
    }
    return result;
  }
  bool has_before(const std::string& whose) const {
    return !(whose.empty() ? plan_.hooks : clone_of(whose).hooks).before.empty();
  }

  Status hook(const PlannedStep& step, const std::string& whose, bool activated) const {
    const std::string title = std::string(to_string(step.kind)) + (whose.empty() ? "" : " of " + whose);
    say(title + ": " + step.command);
    std::string all;
    for (const auto& name : names()) all += (all.empty() ? "" : " ") + name;
    const std::string clones = client_.mountpoint() + "/.clonefs/clones";
    std::vector<std::string> environment{
        "CLONEFS_MOUNT=" + client_.mountpoint(), "CLONEFS_PLAN=" + plan_.file, "CLONEFS_NAMES=" + all,
        std::string("CLONEFS_ACTIVATED=") + (activated ? "yes" : "no"), "CLONEFS_CLONES=" + clones};
    if (!whose.empty()) {
      environment.push_back("CLONEFS_NAME=" + whose);
      environment.push_back("CLONEFS_PATH=" + clones + "/" + whose);
    }
    std::vector<char*> env;
    for (auto& variable : environment) env.push_back(variable.data());
    for (char** e = environ; *e != nullptr; e++) {
      const std::string_view name = std::string_view(*e).substr(0, std::string_view(*e).find('=') + 1);
      if (std::none_of(environment.begin(), environment.end(),
                       [&](const std::string& own) { return own.starts_with(name); }))
        env.push_back(*e);
    }
    env.push_back(nullptr);
    const std::string limit = std::to_string(plan_.hook_timeout_s);
    const char* words[] = {"timeout", "-k", "5", limit.c_str(), "sh", "-c", step.command.c_str(), nullptr};
    pid_t pid = 0;
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    // The one object is alone on stdout.
    if (json_) ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    // A group from the beginning: of a signal that it gets early timeout(1) tells nobody.
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    const int e = ::posix_spawnp(&pid, words[0], &actions, &attributes, const_cast<char**>(words), env.data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (e != 0) return Error::from_errno(e, title);
    const bool ends = step.kind != PlannedStep::kFinally;
    if (ends) {
      hook_to_end = pid;
      if (ended != 0) ::kill(-pid, SIGTERM);  // it came before this pid was known
    }
    siginfo_t done;
    while (::waitid(P_PID, static_cast<id_t>(pid), &done, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
    }
    hook_to_end = 0;  // before its number can be another's
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (ends && ended != 0) {
      return Error{EINTR, "ended by a signal during the hook '" + title + "'"};
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    std::string how = WIFEXITED(status) ? "failed with exit code " + std::to_string(WEXITSTATUS(status))
                                        : "was ended by signal " + std::to_string(WTERMSIG(status));
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 124 || WEXITSTATUS(status) == 137))
      how = "took longer than " + format_duration(plan_.hook_timeout_s) + " (hook_timeout)";
    return Error{ECANCELED, "the hook '" + title + "' " + how + ": " + step.command};
  }

  const Plan& plan_;
  const Client& client_;
  const bool quiet_;
  const bool json_;
  std::vector<std::string> prepared_;
  std::set<std::string> begun_;  // "": the plan's own
};

// A run that a timer has started while the one before goes on would take its clones for its own.
Result<int> lock_plan(const std::string& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Error::from_errno(errno, file);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return Error{EBUSY, "another run of " + file + " is under way; wait for its end"};
  }
  return fd;
}

Status write_unit(const std::string& dir, const Unit& unit) {
  const std::string path = dir + "/" + unit.name;
  FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return Error::from_errno(errno, path);
  const bool written = std::fputs(unit.text.c_str(), file) >= 0;
  if (std::fclose(file) != 0 || !written) return Error::from_errno(errno, path);
  return {};
}

int install(const Plan& plan, const PlanOptions& options, const CommonOptions& common) {
  char program[PATH_MAX] = {};
  if (::readlink("/proc/self/exe", program, sizeof program - 1) < 0)
    return fail("plan", Error::from_errno(errno, "/proc/self/exe"), common);
  const auto units = units_of(plan, program);
  if (!units) return fail("plan", units.error(), common);
  std::string dir = options.unit_dir;
  const bool user = ::geteuid() != 0;
  if (dir.empty()) {
    const char* home = std::getenv("HOME");
    dir = user ? std::string(home != nullptr ? home : "") + "/.config/systemd/user" : "/etc/systemd/system";
  }
  for (size_t slash = dir.find('/', 1);; slash = dir.find('/', slash + 1)) {
    ::mkdir(dir.substr(0, slash).c_str(), 0755);
    if (slash == std::string::npos) break;
  }
  Json written = Json::array();
  for (const Unit& unit : *units) {
    if (auto status = write_unit(dir, unit); !status) return fail("plan", status.error(), common);
    written.push_back(dir + "/" + unit.name);
  }
  if (common.json) {
    std::fputs(dump_json({{"schema", 1}, {"units", written}}).c_str(), stdout);
    return kExitDone;
  }
  if (common.quiet) return kExitDone;
  for (const Json& path : written) std::printf("%s\n", path.get<std::string>().c_str());
  const std::string systemctl = user ? "systemctl --user" : "systemctl";
  std::printf("To start it: %s daemon-reload && %s enable --now %s\n", systemctl.c_str(), systemctl.c_str(),
              units->back().name.c_str());
  return kExitDone;
}

// What a run would stumble over, as it is now.
void note_what_is_missing(const Plan& plan, const CommonOptions& common) {
  const auto note = [](const std::string& text) {
    std::fprintf(stderr, "clonefs: plan: note: %s\n", printable_lines(text).c_str());
  };
  const auto client = Client::find(common.mount.empty() ? plan.mount : common.mount, {});
  if (!client) return note(client.error().message);
  for (const PlannedClone& clone : plan.clones) {
    for (const std::string& path : clone.paths) {
      const std::string at = path.starts_with('/') ? path : client->mountpoint() + "/" + path;
      struct stat st {};
      if (::lstat(at.c_str(), &st) != 0 && errno == ENOENT) {
        note("there is no " + quote_word(path) + " in the volume " + client->mountpoint() + ", of which " +
             clone.name + " is to be");
      }
    }
  }
}

}  // namespace

int run_plan(const PlanOptions& options, const CommonOptions& common) {
  const auto plan = read_plan(options.file);
  if (!plan) return fail("plan", plan.error(), common);
  if (options.install) return install(*plan, options, common);
  int64_t now = ::time(nullptr);
  if (!options.now.empty()) {
    const auto moment = parse_moment(options.now, 0);
    if (!moment) return fail("plan", moment.error(), common);
    now = *moment;
  }
  const auto timetable = timetable_of(*plan, now, options.run ? kLate : 0);
  if (!timetable) return fail("plan", timetable.error(), common);
  if (!options.run) {
    const std::string text = common.json ? timetable_json(*plan, *timetable)
                                         : fit_lines(timetable_text(*plan, *timetable, now), look_at_terminal());
    std::fputs(text.c_str(), stdout);
    note_what_is_missing(*plan, common);
    return kExitDone;
  }
  const auto client = Client::find(common.mount.empty() ? plan->mount : common.mount, {});
  if (!client) return fail("plan", client.error(), common);
  const auto lock = lock_plan(plan->file);
  if (!lock) return fail("plan", lock.error(), common);
  struct sigaction action {};
  action.sa_handler = note_end;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  const Status status = Run(*plan, *client, common).run(*timetable);
  ::close(*lock);
  if (!status) return fail("plan", status.error(), common);
  if (common.json) {
    Command ask;
    ask.verb = Verb::kStatus;
    ask.json = true;
    if (const auto reply = client->send(ask)) std::fputs(reply->c_str(), stdout);
  }
  return kExitDone;
}

}  // namespace clonefs
