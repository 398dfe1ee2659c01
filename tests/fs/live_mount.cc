#include "tests/fs/live_mount.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "engine/engine.h"
#include "fs/fuse_session.h"
#include "fs/volume.h"

namespace clonefs::testing {
namespace {

namespace stdfs = std::filesystem;

void send_line(int channel, const std::string& text) {
  const std::string message = text + '\n';
  ASSERT_EQ(send(channel, message.data(), message.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(message.size()));
}

// "": the other side is gone.
std::string receive_line(int channel) {
  std::string line;
  for (char c = 0; recv(channel, &c, 1, 0) == 1 && c != '\n';) line += c;
  return line;
}

// Of those that are asked for: what Linux 6.1 or 5.11 does not have, and what can be done without.
constexpr uint64_t kNewCapabilities = 0
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
                                      | FUSE_CAP_HANDLE_KILLPRIV_V2
#endif
#ifdef FUSE_CAP_NO_EXPORT_SUPPORT
                                      | FUSE_CAP_NO_EXPORT_SUPPORT
#endif
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
                                      | FUSE_CAP_DIRECT_IO_ALLOW_MMAP
#endif
                                      | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                                      FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_PARALLEL_DIROPS |
                                      FUSE_CAP_ASYNC_DIO;

struct Daemon {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Volume> volume;
  std::unique_ptr<FuseSession> session;

  std::string execute(const std::string& line) {
    std::istringstream words(line);
    std::string verb, name, path;
    words >> verb >> name >> path;
    Status status;
    if (verb == "flush") {
      status = volume->flush_dirty([](SourceId) { return true; });
    } else if (verb == "create" || verb == "copy") {
      CreateOptions options;
      options.name = name;
      options.paths = {path};
      options.activate = verb == "copy";
      status = engine->create(options);
    } else if (verb == "activate") {
      status = engine->activate({name});
    } else if (verb == "drain") {
      while (engine->step(name)) {
      }
      status = engine->wait(name, Engine::Goal::kCopied, std::chrono::seconds(20));
    } else if (verb == "where") {
      const auto session_status = engine->status(name);
      return session_status ? "at " + session_status->destination : session_status.error().message;
    } else if (verb == "lacks") {
      std::string all;
      for (const std::string& text : session->lacks()) all += text + "; ";
      return all;
    } else {
      return "no such command: " + line;
    }
    return status ? "" : status.error().message;
  }
};

int serve(int channel, const std::string& source, const std::string& mountpoint,
          const LiveMount::Options& options) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  umask(0);
  const int fd = open(source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  EngineOptions engine_options;
  engine_options.source = fd;
  engine_options.source_name = source;
  engine_options.copy_threads = options.copy_threads;
  Daemon daemon;
  const auto failed = [&](const Error& error) {
    send_line(channel, "failed: " + error.message);
    return 1;
  };
  auto engine = Engine::open(engine_options);
  if (!engine) return failed(engine.error());
  daemon.engine = std::move(*engine);
  VolumeOptions volume_options;
  volume_options.source = fd;
  volume_options.writeback = options.writeback;
  volume_options.switch_ids = geteuid() == 0;
  volume_options.use_handles = options.handles;
  if (!options.handles) {
    rlimit few{};
    getrlimit(RLIMIT_NOFILE, &few);
    few.rlim_cur = 512;
    setrlimit(RLIMIT_NOFILE, &few);
  }
  auto volume = Volume::open(*daemon.engine, volume_options);
  if (!volume) return failed(volume.error());
  daemon.volume = std::move(*volume);
  daemon.engine->set_flush(
      [&](const Engine::Wanted& wanted) { return daemon.volume->flush_dirty(wanted); });
  FuseSessionOptions session_options;
  session_options.source = source;
  session_options.writeback = options.writeback;
  if (options.old_kernel) session_options.without = kNewCapabilities;
  if (geteuid() == 0) session_options.mount_options = {"allow_other", "dev", "suid"};
  auto session = FuseSession::create(daemon.volume->root(), session_options);
  if (!session) return failed(session.error());
  daemon.session = std::move(*session);
  if (const Status status = daemon.session->mount(mountpoint); !status) {
    return failed(status.error());
  }
  std::thread commands([&] {
    const Status attached = daemon.volume->attach_mount(mountpoint);
    send_line(channel, attached ? "ready" : "failed: " + attached.error().message);
    for (std::string line; !(line = receive_line(channel)).empty() && line != "quit";) {
      send_line(channel, "> " + daemon.execute(line));
    }
    daemon.volume->detach_mount();
    // Who looks through all processes, or all mounts, holds this one for a moment.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    Status status = daemon.session->unmount(false);
    while (!status && status.error().code == EBUSY && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      status = daemon.session->unmount(false);
    }
    if (!status) (void)daemon.session->unmount(true);
    send_line(channel, "> " + (status ? "" : status.error().message));
  });
  const int result = daemon.session->run();
  commands.join();
  daemon.session.reset();
  daemon.volume.reset();
  return result != 0 || !daemon.engine->close() ? 1 : 0;
}

struct Described {
  std::string text;
  std::string data;
};

Described describe(const std::string& path) {
  struct stat st {};
  Described result;
  if (lstat(path.c_str(), &st) != 0) return {"not there: " + std::string(strerror(errno)), ""};
  std::ostringstream text;
  text << std::oct << st.st_mode << std::dec << " owner " << st.st_uid << ':' << st.st_gid;
  if (!S_ISDIR(st.st_mode)) text << " links " << st.st_nlink << " size " << st.st_size;
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) text << " device " << st.st_rdev;
  text << " mtime " << st.st_mtim.tv_sec << '.' << st.st_mtim.tv_nsec;
  if (S_ISLNK(st.st_mode)) text << " -> " << stdfs::read_symlink(path).string();
  char names[4096], value[4096];
  const ssize_t length = llistxattr(path.c_str(), names, sizeof names);
  std::map<std::string, std::string> xattrs;
  for (ssize_t at = 0; at < length; at += static_cast<ssize_t>(strlen(names + at)) + 1) {
    const ssize_t size = lgetxattr(path.c_str(), names + at, value, sizeof value);
    xattrs[names + at] = std::string(value, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  }
  for (const auto& [name, bytes] : xattrs) text << " [" << name << '=' << bytes << ']';
  result.text = text.str();
  if (S_ISREG(st.st_mode)) result.data = read_file(path);
  return result;
}

}  // namespace

std::string LiveMount::unavailable() {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::string("/dev/fuse cannot be opened: ") + strerror(errno);
  close(fd);
  return "";
}

LiveMount::LiveMount(Options options) {
  std::string pattern = (stdfs::temp_directory_path() / "clonefs-live-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  base_ = pattern;
  chmod(base_.c_str(), 0755);
  source_ = base_ + "/source";
  mountpoint_ = base_ + "/mount";
  stdfs::create_directory(source_);
  stdfs::create_directory(mountpoint_);
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) {
    throw std::runtime_error("socketpair failed");
  }
  daemon_ = fork();
  if (daemon_ == 0) {
    close(channel[0]);
    int result = 1;
    try {
      result = serve(channel[1], source_, mountpoint_, options);
    } catch (const std::exception& error) {
      send_line(channel[1], std::string("failed: ") + error.what());
    }
    _exit(result);
  }
  close(channel[1]);
  channel_ = channel[0];
  const std::string answer = receive_line(channel_);
  EXPECT_EQ(answer, "ready");
}

LiveMount::~LiveMount() {
  const std::string answer = command("quit");
  EXPECT_EQ(answer, "");
  // A failed test may still have files open, which would keep the daemon serving.
  if (!answer.empty()) kill(daemon_, SIGKILL);
  close(channel_);
  umount2(mountpoint_.c_str(), MNT_DETACH);  // if the daemon could not
  int status = 0;
  EXPECT_EQ(waitpid(daemon_, &status, 0), daemon_);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  std::error_code ignored;
  stdfs::remove_all(base_, ignored);
}

std::string LiveMount::command(const std::string& line) {
  send_line(channel_, line);
  const std::string answer = receive_line(channel_);
  return answer.starts_with("> ") ? answer.substr(2) : "the daemon is gone: " + answer;
}

std::string LiveMount::clone_in_pool(const std::string& name) {
  const std::string answer = command("where " + name);
  EXPECT_TRUE(answer.starts_with("at ")) << answer;
  return answer.substr(3);
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream data;
  data << file.rdbuf();
  return data.str();
}

void write_file(const std::string& path, const std::string& data) {
  std::ofstream file(path, std::ios::binary);
  file << data;
  file.close();
  EXPECT_TRUE(file.good()) << path;
}

std::string tree_difference(const std::string& a, const std::string& b) {
  const Described left = describe(a), right = describe(b);
  if (left.text != right.text) return a + ": " + left.text + "\n" + b + ": " + right.text;
  if (left.data != right.data) {
    size_t at = 0;
    while (left.data[at] == right.data[at]) ++at;
    return a + " and " + b + " differ from byte " + std::to_string(at);
  }
  if (!stdfs::is_directory(stdfs::symlink_status(a))) return "";
  std::map<std::string, int> names;
  for (const auto& entry : stdfs::directory_iterator(a)) names[entry.path().filename()] |= 1;
  for (const auto& entry : stdfs::directory_iterator(b)) names[entry.path().filename()] |= 2;
  for (const auto& [name, where] : names) {
    if (where != 3) return name + " is only in " + (where == 1 ? a : b);
    std::string found = tree_difference(a + "/" + name, b + "/" + name);
    if (!found.empty()) return found;
  }
  return "";
}

}  // namespace clonefs::testing
