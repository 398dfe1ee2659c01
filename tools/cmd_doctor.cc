// clonefs doctor: what of this machine and of its mounts stands in clonefs's way, and what to do.
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "fs/json_text.h"
#include "fs/mount_table.h"
#include "fs/status_text.h"
#include "fs/words.h"
#include "tools/commands.h"
#include "tools/terminal.h"

namespace clonefs {

namespace {

enum class Grade { kOk, kHint, kProblem };

const char* to_string(Grade grade) {
  return grade == Grade::kOk ? "ok" : grade == Grade::kHint ? "hint" : "problem";
}

// Bytes in the pool that are as good as none: a catalog and a skeleton want them.
constexpr uint64_t kNoRoom = 4 << 20;

struct Finding {
  Grade grade;
  std::string check;   // a stable key
  std::string text;    // what was found
  std::string remedy;  // "" when there is nothing to do
};

class Doctor {
 public:
  void look() {
    look_at_device();
    look_at_kernel();
    look_at_users_ways();
    look_at_limits();
    look_at_mounts();
  }
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  void say(Grade grade, const char* check, std::string text, std::string remedy = {}) {
    findings_.push_back({grade, check, std::move(text), std::move(remedy)});
  }

  void look_at_device() {
    const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
      ::close(fd);
      say(Grade::kOk, "dev_fuse", "/dev/fuse can be opened");
    } else if (errno == EACCES || errno == EPERM) {
      say(Grade::kProblem, "dev_fuse", "/dev/fuse may not be opened by this user",
          "as root: chmod 666 /dev/fuse (or what your distribution's group for it is)");
    } else {
      say(Grade::kProblem, "dev_fuse", std::string("/dev/fuse cannot be opened: ") + std::strerror(errno),
          "as root: modprobe fuse. In a container: pass the device in (--device /dev/fuse)");
    }
  }

  void look_at_kernel() {
    utsname name{};
    ::uname(&name);
    unsigned major = 0, minor = 0;
    std::sscanf(name.release, "%u.%u", &major, &minor);
    const auto at_least = [&](unsigned a, unsigned b) { return major > a || (major == a && minor >= b); };
    if (!at_least(6, 1)) {
      say(Grade::kHint, "kernel", std::string("Linux ") + name.release + " is older than what clonefs is tested on",
          "6.1 or newer is advised");
    } else {
      say(Grade::kOk, "kernel", std::string("Linux ") + name.release + ", " + fuse_description());
    }
    if (!at_least(6, 9)) {
      say(Grade::kHint, "passthrough", "drained clones are read through the daemon: passthrough is Linux 6.9",
          "nothing; a newer kernel reads them at native speed");
    }
    std::ifstream uring("/sys/module/fuse/parameters/enable_uring");
    char value = 0;
    if (!(uring >> value)) {
      say(Grade::kHint, "io_uring", "this kernel has no FUSE over io_uring (Linux 6.14)",
          "nothing; where it is, small operations are two to three times faster");
    } else if (value == 'N') {
      say(Grade::kHint, "io_uring", "FUSE over io_uring is there, but not enabled",
          "echo Y > /sys/module/fuse/parameters/enable_uring, and mount again; for good: "
          "options fuse enable_uring=Y in /etc/modprobe.d/fuse.conf");
    } else {
      say(Grade::kOk, "io_uring", "FUSE over io_uring is enabled");
    }
  }

  static std::string in_path(const std::string& program) {
    const char* path = std::getenv("PATH");
    const std::string text = path != nullptr ? path : "/usr/bin:/bin";
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(':', begin), text.size());
      const std::string candidate = text.substr(begin, end - begin) + "/" + program;
      if (::access(candidate.c_str(), X_OK) == 0) return candidate;
      begin = end + 1;
    }
    return {};
  }

  // What only ordinary users need.
  void look_at_users_ways() {
    if (::geteuid() == 0) return;
    const std::string fusermount = in_path("fusermount3");
    struct stat st{};
    if (fusermount.empty()) {
      say(Grade::kProblem, "fusermount3", "fusermount3 is not in PATH", "apt install fuse3");
    } else if (::stat(fusermount.c_str(), &st) != 0 || (st.st_mode & S_ISUID) == 0 || st.st_uid != 0) {
      say(Grade::kProblem, "fusermount3", fusermount + " is not set-uid root: users cannot mount",
          "as root: chmod u+s " + fusermount);
    } else {
      say(Grade::kOk, "fusermount3", fusermount + " mounts for users");
    }
    bool allowed = false;
    std::ifstream conf("/etc/fuse.conf");
    for (std::string line; std::getline(conf, line);) {
      const size_t begin = line.find_first_not_of(" \t");
      allowed = allowed || (begin != std::string::npos && line.compare(begin, 16, "user_allow_other") == 0);
    }
    if (allowed) {
      say(Grade::kOk, "allow_other", "users may let others into their mounts (-o allow_other)");
    } else {
      say(Grade::kHint, "allow_other", "only you will see your mounts: -o allow_other is not for users here",
          "as root, if that is wanted: echo user_allow_other >> /etc/fuse.conf");
    }
    const pid_t child = ::fork();
    if (child == 0) ::_exit(::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 ? 0 : 1);
    int status = 1;
    if (child > 0) ::waitpid(child, &status, 0);
    if (status != 0) {
      say(Grade::kHint, "user_namespaces", "no user namespaces: clonefs exec --in-place is for root only here",
          "sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu "
          "kernel.apparmor_restrict_unprivileged_userns=0");
    } else {
      say(Grade::kOk, "user_namespaces", "clonefs exec --in-place works");
    }
  }

  void look_at_limits() {
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < 4096) {
      say(Grade::kHint, "open_files",
          "only " + std::to_string(files.rlim_max) + " open files are allowed to a process",
          "LimitNOFILE=65536 in the unit, or ulimit -Hn");
    }
    if (::geteuid() != 0) return;
    if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) {
      say(Grade::kHint, "io_flusher",
          "without CAP_SYS_RESOURCE the daemon may wait for its own write-back when memory is short",
          "give it that capability");
    } else {
      ::prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
    }
  }

  void look_at_mounts() {
    const auto table = read_mount_table();
    if (!table) {
      say(Grade::kProblem, "mounts", table.error().message);
      return;
    }
    size_t volumes = 0;
    for (const MountEntry& entry : *table) {
      if (!entry.is_volume() || &first_mount_of(*table, entry) != &entry) continue;
      ++volumes;
      look_at_volume(entry.mountpoint);
    }
    if (volumes == 0) say(Grade::kOk, "volumes", "no volume is mounted");
  }

  void look_at_volume(const std::string& at) {
    if (is_dead_mount(at)) {
      say(Grade::kProblem, "dead_mount", "the daemon of " + at + " has ended, its mount has not",
          "clonefs mount, as before: it clears the dead mount and takes the clones up; or clonefs umount " +
              at);
      return;
    }
    const auto client = Client::find(at, {});
    const auto text = client ? client->read_file("status.json") : Result<std::string>(client.error());
    if (!text) {
      const bool other = text.error().code == EACCES || text.error().code == EPERM;
      say(other ? Grade::kHint : Grade::kProblem, "volume",
          at + (other ? " is another user's" : ": " + text.error().message));
      return;
    }
    const auto status = Json::parse(*text, nullptr, false);
    if (!status.is_object() || !status.contains("sessions")) {
      say(Grade::kProblem, "volume", at + " gives no status that can be read");
      return;
    }
    const auto value = [&](const char* key) { return status.value(key, Json()); };
    std::string line = at + " is mounted, " + count_word(status["sessions"].size(), "session");
    if (value("pool_free_bytes").is_number()) {
      line += ", " + format_size(value("pool_free_bytes").get<uint64_t>()) + " free in the pool";
    }
    say(Grade::kOk, "volume", line);
    if (value("pool_free_bytes").is_number() && value("pool_free_bytes").get<uint64_t>() < kNoRoom &&
        !value("pool_full_in_s").is_number()) {
      say(Grade::kProblem, "pool_space", "the pool of " + at + " is full: no clone can be made or copied",
          "delete clones, or make room: clonefs list");
    }
    if (value("version") != CLONEFS_VERSION) {
      say(Grade::kHint, "version", at + " is served by clonefs " + value("version").get<std::string>() +
                                       ", this is " CLONEFS_VERSION,
          "unmount it and mount it again when that suits you");
    }
    if (value("no_clones") == true) {
      say(Grade::kHint, "no_clones", at + " is mounted without its clones",
          "clonefs fsck " + value("pool").get<std::string>() + ", then mount it without --no-clones");
    }
    if (value("pool_full_in_s").is_number()) {
      say(Grade::kProblem, "pool_space",
          "the pool of " + at + " is full in " + std::to_string(value("pool_full_in_s").get<int64_t>()) +
              " s at this rate",
          "delete clones, or make room: clonefs status");
    }
    for (const Json& session : status["sessions"]) {
      const std::string name = session.value("name", "");
      if (session.value("state", "") == "Failed") {
        say(Grade::kProblem, "session", "the clone " + name + " of " + at + " is Failed",
            "clonefs status " + name + " says why; clonefs terminate --force " + name + " removes it");
      } else if (session.value("op_status", "") == "paused") {
        say(Grade::kProblem, "session", "the background copy of " + name + " is paused",
            "clonefs status " + name + " says why; then clonefs resume " + name);
      }
    }
  }

  std::vector<Finding> findings_;
};

}  // namespace

int examine_system(const CommonOptions& common) {
  Doctor doctor;
  doctor.look();
  const Terminal terminal = look_at_terminal();
  bool problem = false;
  Json findings = Json::array();
  for (const Finding& f : doctor.findings()) {
    problem = problem || f.grade == Grade::kProblem;
    findings.push_back({{"check", f.check},
                        {"grade", to_string(f.grade)},
                        {"text", f.text},
                        {"remedy", f.remedy.empty() ? Json() : Json(f.remedy)}});
    if (common.json || (common.quiet && f.grade != Grade::kProblem)) continue;
    char grade[16];
    std::snprintf(grade, sizeof grade, "%-8s ", to_string(f.grade));
    std::string lines = grade + printable(f.text) + "\n";
    if (!f.remedy.empty()) lines += "         do: " + printable(f.remedy) + "\n";
    std::fputs(fit_lines(lines, terminal).c_str(), stdout);
  }
  if (common.json) {
    Json json = new_answer();
    json["findings"] = findings;
    std::fputs(dump_json(json).c_str(), stdout);
  }
  return problem ? 1 : 0;
}

}  // namespace clonefs
