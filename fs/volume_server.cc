#include "fs/volume_server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "engine/engine.h"
#include "fs/clones_mount.h"
#include "fs/command_exec.h"
#include "fs/command_paths.h"
#include "fs/command_runner.h"
#include "fs/control_tree.h"
#include "fs/daemon_log.h"
#include "fs/json_text.h"
#include "fs/mount_table.h"
#include "fs/open_files.h"
#include "fs/own_mount.h"
#include "fs/service_notify.h"
#include "fs/status_text.h"
#include "fs/unique_fd.h"
#include "fs/volume.h"

namespace clonefs {

namespace {

constexpr unsigned kCommands = 256;  // that run at the same time; most of them wait
// After the last unmount.
constexpr auto kEndsWithin = std::chrono::milliseconds(500);
constexpr char kElsewhere[] = "it is unmounted here, but files of it are open in another mount namespace";

// --- what the command that started the daemon is told --------------------------------------------

// One line a message: 'N' note (for people at a terminal), 'W' warning, 'E' error, 'J' all that there is
// to say as JSON, 'R' ready. Newlines in texts become blanks.
class StartReport {
 public:
  // One message of KIND, as people or programs get it.
  static void print(char kind, const std::string& text) {
    if (kind == 'J') {
      std::printf("%s\n", text.c_str());
      std::fflush(stdout);
    } else if (kind == 'N' ? ::isatty(STDERR_FILENO) == 1 : kind != 'R') {
      std::fprintf(stderr, "clonefs: mount: %s\n", printable_lines(text).c_str());
    }
  }

  StartReport(int fd, bool json) : fd_(fd), json_(json) {}
  void note(const std::string& text) {
    if (!json_) send('N', text);
  }
  void warn(const std::string& text) {
    if (json_) {
      warnings_.push_back(text);
    } else {
      send('W', text);
    }
  }
  void fail(const Error& error) {
    if (json_) {
      answer(error_json(error));
    } else {
      send('E', error.message);
    }
  }
  // Lets the command return; nothing is said afterwards.
  void ready(const VolumeInfo& info) {
    if (json_) {
      Json json = new_answer();
      put_name(&json, "volume", info.volume);
      put_name(&json, "source", info.source);
      put_name(&json, "pool", info.pool);
      json["pid"] = info.pid;
      json["no_clones"] = info.no_clones;
      answer(std::move(json));
    }
    send('R', "");
    if (fd_ != STDERR_FILENO) {
      ::close(fd_);
      fd_ = -1;
    }
  }

 private:
  void answer(Json json) {
    json["warnings"] = warnings_;
    std::string line = dump_json_line(json);
    line.pop_back();
    send('J', line);
  }
  void send(char kind, std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    if (fd_ == STDERR_FILENO) {
      print(kind, text);
      return;
    }
    text = kind + text + "\n";
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
      if (n <= 0) return;  // nobody listens any more
      done += static_cast<size_t>(n);
    }
  }
  int fd_;
  const bool json_;
  std::vector<std::string> warnings_;
};

// The other end: prints, and returns the exit code.
int follow_start(int fd, bool json) {
  std::string text;
  char part[4096];
  bool ready = false;
  bool failed = false;
  for (ssize_t n; (n = ::read(fd, part, sizeof part)) > 0 || (n < 0 && errno == EINTR);) {
    if (n > 0) text.append(part, static_cast<size_t>(n));
    for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      if (text[0] == 'R') ready = true;
      if (text[0] == 'E' || text[0] == 'J') failed = true;
      StartReport::print(text[0], text.substr(1, end - 1));
    }
  }
  if (!ready && !failed) {
    StartReport(STDERR_FILENO, json)
        .fail({EIO, "the daemon ended before the volume was mounted. Try --foreground, or look into "
                    "clonefs.log in the pool."});
  }
  return ready ? 0 : 1;
}

// --- the socket of `clonefs umount` --------------------------------------------------------------

// Abstract, so that it needs no place in any file system.
socklen_t control_address(pid_t pid, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  const std::string name = "clonefs." + std::to_string(pid);
  std::memcpy(address->sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

std::string read_all(int fd) {
  std::string text;
  char part[4096];
  for (ssize_t n; (n = ::read(fd, part, sizeof part)) > 0 || (n < 0 && errno == EINTR);) {
    if (n > 0) text.append(part, static_cast<size_t>(n));
  }
  return text;
}

// --- checks before anything is opened ------------------------------------------------------------

Error refuse(int code, std::string text) {
  return {code, std::move(text)};
}

// As far as PATH exists it is resolved; the rest, which will be made, is appended.
std::string resolve_existing(const std::string& path) {
  const auto resolved = absolute_path(path, false);
  if (resolved) return *resolved;
  const size_t slash = path.find_last_not_of('/') == std::string::npos
                           ? std::string::npos
                           : path.rfind('/', path.find_last_not_of('/'));
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  const std::string above = slash == std::string::npos ? "."
                            : slash == 0               ? "/"
                                                       : path.substr(0, slash);
  if (above == path) return path;
  return "/" + clean_path(resolve_existing(above) + "/" + name);
}

// Takes away what a daemon that was killed has left at PATH. True: there was one.
bool clear_dead_mount(const std::string& path, StartReport& report) {
  const auto at = absolute_path(path, true);
  if (!at || !is_dead_mount(*at)) return false;
  const auto table = read_mount_table();
  if (!table) return false;
  const MountEntry* entry = mount_of(*table, *at);
  if (entry == nullptr || entry->mountpoint != *at || !entry->is_volume()) return false;
  if (const Status cleared = unmount_path(*at, true); !cleared) {
    report.warn("the dead mount at " + *at + " could not be cleared: " + cleared.error().message);
    return false;
  }
  report.warn("found the mount of a daemon that had ended at " + *at + "; cleared it");
  return true;
}

Status check_places(ServerOptions& options, StartReport& report) {
  if (options.mountpoint.empty()) options.mountpoint = options.source;
  while (clear_dead_mount(options.mountpoint, report)) {
  }
  for (std::string* path : {&options.source, &options.mountpoint}) {
    const auto resolved = absolute_path(*path, false);
    struct stat st {};
    if (!resolved || ::stat(resolved->c_str(), &st) != 0) {
      return refuse(resolved ? errno : resolved.error().code,
                    *path + ": " + std::strerror(resolved ? errno : resolved.error().code) +
                        ". Give a directory that exists.");
    }
    if (!S_ISDIR(st.st_mode)) {
      return refuse(ENOTDIR, *path + " is not a directory. Only directories can be mounted.");
    }
    *path = *resolved;
  }
  const std::string& source = options.source;
  const std::string& mountpoint = options.mountpoint;
  std::string relative;
  if (mountpoint == "/") {
    return refuse(EINVAL, "clonefs is not mounted over /: whatever the machine does would wait for it, and the "
                          "daemon as well. Mount the directories that are to be cloned.");
  }

  const auto table = read_mount_table();
  if (!table) return table.error();
  const MountEntry* over = mount_of(*table, source);
  if (over != nullptr && over->is_volume()) {
    return refuse(EBUSY, source + " is mounted by clonefs already (at " + over->mountpoint +
                             "). Unmount it first: clonefs umount " + over->mountpoint);
  }
  if (over != nullptr && over->is_clones()) {
    return refuse(EINVAL, source + " lies in a clone. Mount a directory outside the clones.");
  }
  for (const MountEntry& entry : *table) {
    if (entry.is_volume() && entry.mountpoint == mountpoint) {
      return refuse(EBUSY, "a volume is mounted at " + mountpoint +
                               " already. Unmount it first: clonefs umount " + mountpoint);
    }
  }
  if (mountpoint != source && path_beneath(source, mountpoint, &relative)) {
    return refuse(EINVAL, "the mountpoint " + mountpoint + " lies in " + source +
                              ". Mount in place, or at a directory outside of it.");
  }
  if (options.log == "stderr" && !options.foreground) {
    return refuse(EINVAL, "a daemon in the background has no stderr for its log. Use pool, journal, syslog or "
                          "a file, or --foreground.");
  }
  if (options.log == "pool" && options.no_clones) {
    return refuse(EINVAL, "without its clones the pool is not opened, not for a log either. Use journal, "
                          "syslog or a file.");
  }
  if (options.log.find('/') != std::string::npos) {
    options.log = resolve_existing(options.log);
    if (path_beneath(source, options.log, &relative) || path_beneath(mountpoint, options.log, &relative)) {
      return refuse(EINVAL, "the log " + options.log + " lies in the volume: writing it would wait for the "
                            "daemon that writes it. Give a file outside, or --log pool.");
    }
  }
  if (!options.pool.empty()) {
    const std::string pool = resolve_existing(options.pool);
    if (path_beneath(pool, source, &relative) || path_beneath(pool, mountpoint, &relative)) {
      return refuse(EINVAL,
                    "the pool " + pool + " contains the volume. Give a directory of its own.");
    }
    if (pool == source + "/.clonefs/pool") {
      options.pool.clear();
    } else if (path_beneath(source, pool, &relative) || path_beneath(mountpoint, pool, &relative)) {
      return refuse(EINVAL, "the pool " + pool +
                                " lies in the volume: it would be cloned with it. Give a directory "
                                "outside, or leave --pool out (then it is .clonefs/pool, hidden).");
    } else {
      options.pool = pool;
    }
  }
  return {};
}

bool is_root() {
  return ::geteuid() == 0;
}

// The kernel knows FUSE over io_uring, and its administrator has not enabled it.
bool io_uring_is_off() {
  const UniqueFd fd(::open("/sys/module/fuse/parameters/enable_uring", O_RDONLY | O_CLOEXEC));
  char value = 'Y';
  return fd && ::read(fd.get(), &value, 1) == 1 && value == 'N';
}

}  // namespace

// --- the daemon ----------------------------------------------------------------------------------

namespace {

class VolumeServer {
 public:
  VolumeServer(ServerOptions options, StartReport& report)
      : options_(std::move(options)), report_(report) {}

  int run();

 private:
  enum class Why { kSignal, kAsked, kUnmounted };

  Status start();
  Status check_rights() const;
  Status choose_clones_place();
  Status mount_clones();
  void set_up_process();
  Status start_log();
  void warn_of_open_files();
  // Waits until it is time to end.
  Why serve();
  // `clonefs umount`. True: unmounted.
  bool serve_unmount(int connection);
  bool try_unmount(std::string* why);
  bool end_live();
  Status unmount_live(bool lazy);
  void heal_clones();
  void end(Why why);
  [[noreturn]] void end_stalled(Why why);
  void wake() const;
  FuseSessionOptions session_options(bool clones) const;

  ServerOptions options_;
  StartReport& report_;
  UniqueFd source_;
  UniqueFd pool_;  // by its path it is out of reach once the volume is mounted over it
  bool flusher_ = false;  // an I/O flusher to the kernel
  UniqueFd signals_;
  UniqueFd listener_;
  UniqueFd wake_;
  UniqueFd asker_;           // who waits for the end
  std::string private_dir_;  // of the clones mount, where it cannot be in the volume
  std::string clones_at_;

  std::unique_ptr<Engine> engine_;
  std::optional<VirtualOwner> owner_;
  std::unique_ptr<CommandRunner> runner_;
  std::unique_ptr<CommandExecutor> executor_;
  std::unique_ptr<CloneTree> view_;
  std::unique_ptr<ControlTree> control_;
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<FuseSession> live_;
  std::thread live_thread_;
  std::atomic<bool> live_ended_{false};
  std::atomic<bool> elsewhere_{false};  // it is served in other mount namespaces only
  std::unique_ptr<ClonesMount> clones_;
  ManagerWatchdog watchdog_;
};

void VolumeServer::set_up_process() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  // Memory that the daemon asks for must not wait for write-back that waits for the daemon.
  flusher_ = ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0;

  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, nullptr);
  if (!options_.foreground) ::sigaction(SIGHUP, &ignore, nullptr);

  sigset_t waited;
  sigemptyset(&waited);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&waited, signal);
  if (options_.foreground) sigaddset(&waited, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &waited, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &waited, SFD_CLOEXEC | SFD_NONBLOCK));
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  prepare_threads_apart(options_.foreground);
}

Status VolumeServer::start_log() {
  LogTarget target{options_.log, options_.mountpoint, pool_.get()};
  if (target.where.empty()) {
    target.where = options_.foreground ? "stderr" : options_.no_clones ? "syslog" : "pool";
  }
  if (const Status level = set_log_level(options_.log_level); !level) return level;
  Status started = clonefs::start_log(target);
  if (started || !options_.log.empty()) return started;
  report_.warn(started.error().message);  // nobody asked for it
  return {};
}

void VolumeServer::warn_of_open_files() {
  constexpr size_t kNamed = 8;
  const auto processes = processes_inside(options_.source);
  size_t named = 0;
  for (const ProcessInside& process : processes) {
    const bool is_command = !options_.foreground && process.pid == ::getppid();
    if (is_command || ++named > kNamed) continue;
    report_.warn(process.name + " (pid " + std::to_string(process.pid) + ") uses " + process.what +
                 " beneath the mount: its changes are not seen. Restart it, or enter the "
                 "directory again.");
  }
  if (named > kNamed) {
    report_.warn("... and " + std::to_string(named - kNamed) + " processes more");
  }
}

FuseSessionOptions VolumeServer::session_options(bool clones) const {
  FuseSessionOptions options;
  options.source = options_.source;
  options.writeback = !clones && options_.writeback;
  options.passthrough = clones;
  options.mount_options = options_.mount_options;
  if (clones) {
    options.mount_options.push_back(std::string("subtype=") + kClonesSubtype);
    std::erase(options.mount_options, "ro");
  }
  if (is_root()) {
    const auto given = [&](const char* option) {
      return std::find(options.mount_options.begin(), options.mount_options.end(), option) !=
             options.mount_options.end();
    };
    if (!given("allow_other") && !given("allow_root")) {
      options.mount_options.emplace_back("allow_other");
    }
    // What the source's own mount forbids stays forbidden, whatever is asked for.
    struct statvfs fs {};
    if (::fstatvfs(source_.get(), &fs) != 0) fs.f_flag = ST_NODEV | ST_NOSUID;
    const auto follow = [&](const char* allow, const char* forbid, bool forbidden) {
      if (!forbidden && given(forbid)) return;
      std::erase(options.mount_options, allow);
      options.mount_options.emplace_back(forbidden ? forbid : allow);
    };
    follow("dev", "nodev", (fs.f_flag & ST_NODEV) != 0);
    follow("suid", "nosuid", (fs.f_flag & ST_NOSUID) != 0);
    follow("exec", "noexec", (fs.f_flag & ST_NOEXEC) != 0);
  }
  return options;
}

// What an ordinary user may not do is said before something has failed by it.
Status VolumeServer::check_rights() const {
  const auto refused = [](int dir, const std::string& path) {
    return ::faccessat(dir, path.c_str(), W_OK, AT_EACCESS) != 0 && errno == EACCES;
  };
  if (options_.no_clones) return {};
  if (options_.pool.empty()) {
    // Once it is made, its own mode counts.
    const bool made = ::faccessat(source_.get(), ".clonefs/pool", W_OK, AT_EACCESS) == 0;
    if (made || !refused(source_.get(), ".")) return {};
    return Error{EACCES, "you may not write to " + options_.source + ", where its clones are kept. Mount it as its " +
                             "owner or as root."};
  }
  struct stat st {};
  const bool there = ::stat(options_.pool.c_str(), &st) == 0 || errno == EACCES;
  std::string place = options_.pool;
  if (!there) place.resize(place.find_last_of('/', place.find_last_not_of('/')) + 1);
  if (!refused(AT_FDCWD, place.empty() ? "." : place)) return {};
  return Error{EACCES, "you may not write to " + (place.empty() ? "the working directory" : place) +
                           ", for the pool. Name a directory of yours: --pool DIR"};
}

Status VolumeServer::start() {
  set_up_process();
  source_ = UniqueFd(::open(options_.source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!source_) return Error::from_errno(errno, options_.source);
  if (options_.mountpoint == options_.source) {
    warn_of_open_files();
  } else {
    report_.warn("changes made in " + options_.source + " itself are not seen: work in " +
                 options_.mountpoint + " only, or mount in place");
  }

  if (const Status may = check_rights(); !may) return may;
  EngineOptions engine_options;
  engine_options.source = source_.get();
  engine_options.source_name = options_.source;
  engine_options.pool = options_.pool;
  engine_options.track_size = options_.track_size;
  engine_options.max_columns = options_.max_columns;
  engine_options.durability = options_.durability;
  engine_options.stall_limit = options_.stall_limit;
  engine_options.on_error = options_.on_error;
  engine_options.share = options_.reflink;
  engine_options.no_clones = options_.no_clones;
  auto engine = Engine::open(engine_options);
  if (!engine) return engine.error();
  engine_ = std::move(*engine);
  if (options_.no_clones) {
    report_.warn("mounted without its clones: the pool is not opened, commands are refused");
    for (const EngineEvent& event : engine_->events(0)) report_.warn(event.text);
  } else {
    pool_ = UniqueFd(::open(engine_->pool_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!pool_) return Error::from_errno(errno, "the pool " + engine_->pool_path());
  }
  if (const Status started = start_log(); !started) return started;

  owner_.emplace(source_.get());
  runner_ = std::make_unique<CommandRunner>(kCommands);
  executor_ = std::make_unique<CommandExecutor>(
      *engine_, source_.get(),
      VolumeInfo{options_.mountpoint, options_.source, engine_->pool_path(), ::getpid(),
                 to_string(options_.durability), {}, {}, options_.no_clones});
  // Without clones nothing is ever looked for in it.
  const int clones = options_.no_clones ? source_.get() : pool_.get();
  auto view = CloneTree::open(*engine_, clones, {true, false, uint64_t{1} << 63});
  if (!view) return view.error();
  view_ = std::move(*view);
  control_ = std::make_unique<ControlTree>(*owner_, *executor_, *runner_, *view_);
  if (const Status chosen = choose_clones_place(); !chosen) return chosen;

  VolumeOptions volume_options;
  volume_options.source = source_.get();
  volume_options.writeback = options_.writeback;
  volume_options.switch_ids = is_root();
  volume_options.no_atime = std::any_of(
      options_.mount_options.begin(), options_.mount_options.end(),
      [](const std::string& option) { return option == "noatime" || option == "ro"; });
  auto volume = Volume::open(*engine_, volume_options);
  if (!volume) return volume.error();
  volume_ = std::move(*volume);
  volume_->set_virtual_entries(control_.get());
  engine_->set_flush([this](const Engine::Wanted& wanted) { return volume_->flush_dirty(wanted); });

  // Whoever sees the mount may ask for its end.
  sockaddr_un address{};
  const socklen_t length = control_address(::getpid(), &address);
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener_ || ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(listener_.get(), 8) != 0) {
    return Error::from_errno(errno, "the socket for clonefs umount");
  }
  auto live = FuseSession::create(volume_->root(), session_options(false));
  if (!live) return live.error();
  live_ = std::move(*live);
  if (const Status mounted = live_->mount(options_.mountpoint); !mounted) return mounted.error();
  live_thread_ = std::thread([this] {
    live_->run();
    live_ended_ = true;
    wake();
  });
  // From here on this thread uses the mount as anybody does; others serve it.
  live_->tune(options_.mountpoint);
  if (const Status attached = volume_->attach_mount(options_.mountpoint); !attached) {
    return attached.error();
  }
  if (live_->over_io_uring()) {
    executor_->set_over_io_uring(true);
    // Commands that wait must leave room for the requests of applications.
    runner_->set_limit(std::min(kCommands, live_->ring_entries() / 2));
  }
  control_->events().start(live_.get());
  if (const Status mounted = mount_clones(); !mounted) return mounted.error();

  return {};
}

Status VolumeServer::choose_clones_place() {
  if (options_.no_clones) return {};
  // fusermount3 looks at a mountpoint as root, whom a user's own mount does not let in.
  const auto& given = options_.mount_options;
  const bool in_volume = is_root() || std::any_of(given.begin(), given.end(), [](const auto& o) {
                           return o == "allow_other" || o == "allow_root";
                         });
  if (in_volume) {
    clones_at_ = options_.mountpoint + "/.clonefs/clones";
    return {};
  }
  // In a directory of the user's own, then, with a link to it.
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  std::string pattern = runtime != nullptr && *runtime == '/'
                            ? std::string(runtime) + "/clonefs-XXXXXX"
                            : "/tmp/clonefs-" + std::to_string(::geteuid()) + "-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) return Error::from_errno(errno, pattern);
  private_dir_ = clones_at_ = pattern;
  control_->set_clones_link(private_dir_);
  return {};
}

Status VolumeServer::mount_clones() {
  if (options_.no_clones) return {};
  // The kernel knows the way then, and does not ask us for it within mount(2).
  const Status known = on_own_mount([&]() -> Status {
    struct stat st {};
    if (::stat(clones_at_.c_str(), &st) == 0) return {};
    return Error::from_errno(errno, clones_at_);
  });
  if (!known) return known;
  auto clones = ClonesMount::open({*owner_, *engine_, *runner_, pool_.get()}, clones_at_,
                                  session_options(true), is_root(), [this] { wake(); });
  if (!clones) {
    return Error{clones.error().code, "the clones: " + clones.error().message};
  }
  clones_ = std::move(*clones);
  return {};
}

void VolumeServer::wake() const {
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) < 0) return;  // full: awake already
}

int VolumeServer::run() {
  const Status started = start();
  if (!started) {
    if (pool_ && !options_.foreground) spdlog::error("{}", started.error().message);
    report_.fail(started.error());
    end(Why::kSignal);
    return 1;
  }
  spdlog::info("clonefs {}: {} is mounted at {}, its pool is {}", CLONEFS_VERSION, options_.source,
               options_.mountpoint, engine_->pool_path());
  if (live_->over_io_uring()) {
    spdlog::info("requests come over io_uring");
  } else if (io_uring_is_off()) {
    const char* hint = "requests come through /dev/fuse; FUSE over io_uring makes each several times cheaper. "
                       "To use it: echo Y > /sys/module/fuse/parameters/enable_uring, and mount again";
    spdlog::info(hint);
    report_.note(hint);
  }
  if (clones_) {
    spdlog::info("drained clones are read {}",
                 clones_->passthrough() ? "by passthrough" : "through the daemon");
  }
  for (const std::string& line : live_->lacks()) spdlog::info("here is {}", line);
  if (!volume_->uses_handles()) {
    spdlog::info("here are no file handles that may be opened: the source's objects are found by their names");
  }
  if (!flusher_)
    spdlog::info("not an I/O flusher (that needs CAP_SYS_RESOURCE): when the machine is short of memory, "
                 "the daemon may wait for pages that are written back through it");
  engine_->start_timekeeping();
  report_.ready(executor_->info());
  notify_manager("READY=1\nSTATUS=" + options_.source + " is mounted at " + options_.mountpoint);
  // Asks the mount, as anybody would.
  watchdog_.start([this] {
    const Status answered = on_own_mount([this]() -> Status {
      struct stat st {};
      if (elsewhere_) return {};
      if (::stat((options_.mountpoint + "/.clonefs").c_str(), &st) == 0) return {};
      return Error::from_errno(errno, options_.mountpoint);
    });
    return static_cast<bool>(answered);
  });
  if (!options_.foreground) {
    // Whoever started us may wait for the end of these.
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null.get(), fd);
  }
  end(serve());
  return 0;
}

VolumeServer::Why VolumeServer::serve() {
  while (true) {
    pollfd events[] = {
        {signals_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(events, std::size(events), -1) < 0) continue;
    if (events[0].revents != 0) {
      signalfd_siginfo info{};
      if (::read(signals_.get(), &info, sizeof info) == sizeof info) {
        spdlog::info("ending: signal {} from pid {}", info.ssi_signo, info.ssi_pid);
        return Why::kSignal;
      }
    }
    if (events[1].revents != 0) {
      const int connection = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (connection >= 0 && serve_unmount(connection)) return Why::kAsked;
    }
    if (events[2].revents != 0) {
      uint64_t count = 0;
      if (::read(wake_.get(), &count, sizeof count) < 0) continue;
      if (live_ended_) return Why::kUnmounted;
      heal_clones();
    }
  }
}

// Somebody unmounted the clones, or `umount -R` is on its way to the volume.
void VolumeServer::heal_clones() {
  if (!clones_ || !clones_->ended()) return;
  pollfd live{wake_.get(), POLLIN, 0};
  if (::poll(&live, 1, 1000) > 0 && live_ended_) {
    wake();
    return;
  }
  clones_.reset();
  if (const Status again = mount_clones(); !again) {
    spdlog::error("the clones were unmounted and cannot be mounted again: {}",
                  again.error().message);
  } else {
    spdlog::warn("the clones were unmounted; mounted them again");
  }
}

bool VolumeServer::serve_unmount(int connection) {
  UniqueFd fd(connection);
  ucred peer{};
  socklen_t length = sizeof peer;
  std::string reply;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
      (peer.uid != 0 && peer.uid != ::geteuid())) {
    reply = "only the user who mounted the volume, and root, may unmount it";
  } else if (try_unmount(&reply)) {
    if (end_live()) {
      asker_ = std::move(fd);
      spdlog::info("unmounted, as uid {} (pid {}) asked", peer.uid, peer.pid);
      return true;
    }
    reply = kElsewhere + std::string(": the daemon (pid ") + std::to_string(::getpid()) +
            ") serves these, and ends when they are closed and the mount there is gone. To end it now, and lose "
            "what is not synced there: kill -TERM " + std::to_string(::getpid());
    spdlog::warn("{}", reply);
    elsewhere_ = true;
  }
  if (::send(fd.get(), reply.data(), reply.size(), MSG_NOSIGNAL) < 0) return false;
  return false;
}

Status VolumeServer::unmount_live(bool lazy) {
  // It writes back what is dirty, through us.
  return on_own_mount([&] { return live_->unmount(lazy); });
}

// The session ends with its last mount. Where another mount namespace has a copy, nobody need use that, and
// then it ends as well. False: files are open there, and what is not written back yet would be lost.
bool VolumeServer::end_live() {
  const auto begin = std::chrono::steady_clock::now();
  while (!live_ended_) {
    const auto passed = std::chrono::steady_clock::now() - begin;
    if (passed > kEndsWithin && !live_->has_handles()) live_->stop();
    if (passed > 2 * kEndsWithin && live_->has_handles()) return false;
    pollfd wake{wake_.get(), POLLIN, 0};
    uint64_t count = 0;
    if (::poll(&wake, 1, 50) > 0 && ::read(wake_.get(), &count, sizeof count) < 0) continue;
  }
  return true;
}

bool VolumeServer::try_unmount(std::string* why) {
  volume_->detach_mount();
  Status done;
  if (clones_) done = clones_->unmount(false);
  if (done) {
    // Who serves a clone whose pool hangs can't be waited for.
    if (engine_->pool_answers()) clones_.reset();
    done = unmount_live(false);
  }
  if (done) return true;
  *why = done.error().message;
  const Status attached = volume_->attach_mount(options_.mountpoint);
  if (!attached) spdlog::error("{}", attached.error().message);
  if (!clones_) {
    if (const Status again = mount_clones(); !again) spdlog::error("{}", again.error().message);
  }
  return false;
}

// The pool does not answer: whoever waits for it, commands, clones, the copy programs, would be waited
// for without an end. The volume is unmounted in order; the pool finds out at the next mount.
void VolumeServer::end_stalled(Why why) {
  spdlog::error("the pool {} does not answer; ending without it. Clones that are not drained are taken "
                "up at the next mount, or are Failed",
                engine_->pool_path());
  Status done;
  if (!live_ended_ && why == Why::kSignal) {
    if (clones_) (void)clones_->unmount(true);
    if (const Status flushed = volume_->flush_dirty([](SourceId) { return true; }); !flushed)
      spdlog::error("flush: {}", flushed.error().message);
    volume_->detach_mount();
    if (!unmount_live(false)) {
      spdlog::warn("the volume is in use; unmounting it lazily: its users get ENOTCONN");
      done = unmount_live(true);
      if (!done) spdlog::error("{}", done.error().message);
    }
  }
  if (asker_) {
    const std::string reply = "closed with an error: the pool does not answer";
    (void)::send(asker_.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
    // The kernel may keep threads that wait for the pool, and with them the process, until it answers.
    asker_.reset();
  }
  if (!private_dir_.empty()) ::rmdir(private_dir_.c_str());
  ::_exit(EXIT_FAILURE);
}

void VolumeServer::end(Why why) {
  notify_manager("STOPPING=1\nSTATUS=writing back and closing the pool");
  watchdog_.stop();
  if (engine_ && live_thread_.joinable() && !engine_->pool_answers()) end_stalled(why);
  if (runner_) runner_->stop();
  if (control_) control_->events().stop();
  clones_.reset();
  if (volume_ && live_thread_.joinable()) {
    // What only the kernel has must get here before users are cut off.
    if (!live_ended_ && why == Why::kSignal) {
      if (const Status flushed = volume_->flush_dirty([](SourceId) { return true; }); !flushed) {
        spdlog::error("flush: {}", flushed.error().message);
      }
    }
    volume_->detach_mount();
    if (!live_ended_ && why == Why::kSignal) {
      if (!unmount_live(false)) {
        spdlog::warn("the volume is in use; unmounting it lazily: its users get ENOTCONN");
        if (const Status lazily = unmount_live(true); !lazily) {
          spdlog::error("{}", lazily.error().message);
        }
        live_->stop();
      } else if (!end_live()) {
        spdlog::warn("files of the volume are open in another mount namespace: they get ENOTCONN");
        live_->stop();
      }
    }
    live_thread_.join();
    // What is open may change the source still (its mtime): before the engine writes down what it is.
    live_->close_handles();
  }
  Status closed;
  if (engine_) closed = engine_->close();
  if (!closed) spdlog::error("close: {}", closed.error().message);
  if (asker_) {
    const std::string reply = closed ? "ok" : "closed with an error: " + closed.error().message;
    if (::send(asker_.get(), reply.data(), reply.size(), MSG_NOSIGNAL) < 0) asker_.reset();
  }
  live_.reset();
  volume_.reset();
  control_.reset();
  view_.reset();
  executor_.reset();
  runner_.reset();
  engine_.reset();
  if (!private_dir_.empty()) ::rmdir(private_dir_.c_str());
  if (pool_) spdlog::info("ended");
}

}  // namespace

int mount_volume(ServerOptions options) {
  if (options.foreground) {
    StartReport report(STDERR_FILENO, options.json);
    if (const Status checked = check_places(options, report); !checked) {
      report.fail(checked.error());
      return 1;
    }
    if (::chdir("/") != 0) return 1;
    return VolumeServer(std::move(options), report).run();
  }
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) {
    std::perror("clonefs: mount");
    return 1;
  }
  const pid_t child = ::fork();
  if (child < 0) {
    std::perror("clonefs: mount");
    return 1;
  }
  if (child > 0) {
    ::close(pipe[1]);
    return follow_start(pipe[0], options.json);
  }
  ::close(pipe[0]);
  ::setsid();
  StartReport report(pipe[1], options.json);
  const Status checked = check_places(options, report);
  if (!checked || ::chdir("/") != 0) {
    report.fail(checked ? Error{errno, "cannot enter /"} : checked.error());
    return 1;
  }
  return VolumeServer(std::move(options), report).run();
}

std::string fuse_description() {
  std::string text = std::string("libfuse ") + ::fuse_pkgversion();
#ifdef CLONEFS_HAVE_PASSTHROUGH
  return text + ", with passthrough";
#else
  return text + ", without passthrough";
#endif
}

Status ask_to_unmount(pid_t pid) {
  sockaddr_un address{};
  const socklen_t length = control_address(pid, &address);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0) {
    return Error::from_errno(errno, "the daemon (pid " + std::to_string(pid) +
                                        ") does not answer here; if it runs in another namespace, "
                                        "unmount it there");
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid != pid)
    return Error{EPERM, "another process (pid " + std::to_string(peer.pid) +
                            ") answers in the place of the daemon (pid " + std::to_string(pid) +
                            "); end it, then kill -TERM the daemon"};
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const std::string reply = read_all(fd.get());
  if (reply == "ok") {
    // Closed, but the pool's lock goes with the process.
    pollfd ended{process.get(), POLLIN, 0};
    if (process) ::poll(&ended, 1, 10000);
    return {};
  }
  if (reply.empty()) return Error{EIO, "the daemon ended before it had closed the pool"};
  return Error{reply.starts_with("closed") ? EIO : reply.starts_with(kElsewhere) ? EXDEV : EBUSY, reply};
}

}  // namespace clonefs
