#include "fs/daemon_log.h"

#include <linux/fuse.h>
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/ringbuffer_sink.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>

#include "fs/command_paths.h"
#include "fs/unique_fd.h"
#include "fs/words.h"

namespace clonefs {

namespace {

constexpr size_t kLogSize = 8 << 20;
constexpr size_t kLogQueue = 1024;  // messages
constexpr size_t kRecent = 500;     // lines
constexpr char kPattern[] = "%Y-%m-%dT%H:%M:%S.%e%z %l %v";

constexpr std::pair<const char*, spdlog::level::level_enum> kLevels[] = {
    {"trace", spdlog::level::trace}, {"debug", spdlog::level::debug}, {"info", spdlog::level::info},
    {"warn", spdlog::level::warn},   {"error", spdlog::level::err}};

constexpr char kJournalSocket[] = "/run/systemd/journal/socket";

// systemd's journal by its native protocol: a datagram of fields. What it cannot take at once is lost:
// nobody waits for it.
class JournalSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  static Result<std::shared_ptr<JournalSink>> open(const std::string& volume) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, kJournalSocket, sizeof kJournalSocket);
    if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return Error{errno, std::string("the journal of systemd does not answer here: ") +
                              std::strerror(errno) + ". Use syslog, pool or a file's path"};
    }
    auto sink = std::make_shared<JournalSink>();
    sink->fd_ = std::move(fd);
    sink->fixed_ = field("SYSLOG_IDENTIFIER", "clonefs") + field("CLONEFS_VOLUME", volume);
    return sink;
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    constexpr size_t kMost = 64 << 10;
    const std::string text(message.payload.data(), std::min(message.payload.size(), kMost));
    const std::string all = fixed_ + field("PRIORITY", std::to_string(priority(message.level))) +
                            field("MESSAGE", text);
    (void)::send(fd_.get(), all.data(), all.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  void flush_() override {}

 private:
  static int priority(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::critical:
        return 2;
      case spdlog::level::err:
        return 3;
      case spdlog::level::warn:
        return 4;
      case spdlog::level::info:
        return 6;
      default:
        return 7;
    }
  }
  // A value of several lines has its length before it.
  static std::string field(const std::string& name, const std::string& value) {
    if (value.find('\n') == std::string::npos) return name + "=" + value + "\n";
    std::string length;
    for (int i = 0; i < 8; i++) length += static_cast<char>(uint64_t{value.size()} >> (8 * i));
    return name + "\n" + length + value + "\n";
  }

  UniqueFd fd_;
  std::string fixed_;
};

// A file on a disk: nobody waits for it.
std::shared_ptr<spdlog::logger> file_logger(const std::string& path) {
  spdlog::init_thread_pool(kLogQueue, 1);
  return std::make_shared<spdlog::async_logger>(
      "clonefs", std::make_shared<spdlog::sinks::rotating_file_sink_mt>(path, kLogSize, 2),
      spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
}

const std::shared_ptr<spdlog::sinks::ringbuffer_sink_mt>& shared_recent() {
  static const auto sink = [] {
    auto made = std::make_shared<spdlog::sinks::ringbuffer_sink_mt>(kRecent);
    made->set_pattern(kPattern);
    return made;
  }();
  return sink;
}

const char* opcode_name(unsigned opcode) {
  constexpr const char* kNames[] = {
      nullptr,       "LOOKUP",      "FORGET",   "GETATTR",   "SETATTR",      "READLINK",     "SYMLINK",
      nullptr,       "MKNOD",       "MKDIR",    "UNLINK",    "RMDIR",        "RENAME",       "LINK",
      "OPEN",        "READ",        "WRITE",    "STATFS",    "RELEASE",      nullptr,        "FSYNC",
      "SETXATTR",    "GETXATTR",    "LISTXATTR", "REMOVEXATTR", "FLUSH",     "INIT",         "OPENDIR",
      "READDIR",     "RELEASEDIR",  "FSYNCDIR", "GETLK",     "SETLK",        "SETLKW",       "ACCESS",
      "CREATE",      "INTERRUPT",   "BMAP",     "DESTROY",   "IOCTL",        "POLL",         "NOTIFY_REPLY",
      "BATCH_FORGET", "FALLOCATE",  "READDIRPLUS", "RENAME2", "LSEEK",       "COPY_FILE_RANGE",
      "SETUPMAPPING", "REMOVEMAPPING", "SYNCFS", "TMPFILE",  "STATX"};
  static_assert(FUSE_LOOKUP == 1 && FUSE_STATFS == 17 && FUSE_LSEEK == 46 && FUSE_SYNCFS == 50);
  const char* name = opcode < std::size(kNames) ? kNames[opcode] : nullptr;
  return name != nullptr ? name : "?";
}

}  // namespace

Status check_log_target(std::string* where) {
  if (where->find('/') == std::string::npos) {
    for (const char* word : {"pool", "journal", "syslog", "stderr"}) {
      if (*where == word) return {};
    }
    return Error{EINVAL, "'" + *where + "' is no place for the log. Use pool, journal, syslog, stderr, or a "
                                        "file's path with a '/' in it."};
  }
  if ((*where)[0] != '/') {
    const auto here = ::canonicalize_file_name(".");
    if (here == nullptr) return Error::from_errno(errno, "the working directory");
    *where = std::string(here) + "/" + *where;
    ::free(here);
  }
  return {};
}

Status start_log(const LogTarget& target) {
  std::shared_ptr<spdlog::logger> logger;
  const std::string& where = target.where;
  try {
    if (where == "journal") {
      auto sink = JournalSink::open(target.volume);
      if (!sink) return sink.error();
      logger = std::make_shared<spdlog::logger>("clonefs", std::move(*sink));
    } else if (where == "syslog") {
      logger = std::make_shared<spdlog::logger>(
          "clonefs",
          std::make_shared<spdlog::sinks::syslog_sink_mt>("clonefs", LOG_PID, LOG_DAEMON, false));
    } else if (where == "stderr") {
      logger = std::make_shared<spdlog::logger>("clonefs",
                                                std::make_shared<spdlog::sinks::stderr_sink_mt>());
      logger->set_pattern(kPattern);
    } else {
      const std::string directory = where.substr(0, where.find_last_of('/') + 1);
      struct stat st {};
      // The sink would make it: of a word that is mistyped, or where another disk is to be mounted.
      if (where != "pool" && ::stat(directory.c_str(), &st) != 0) {
        return Error{errno, "no log: the directory of " + quote_word(where) + ": " + std::strerror(errno) +
                                ". Make it, or name another place: --log pool|journal|syslog|stderr|FILE"};
      }
      // By its path the pool is out of reach once the volume is mounted over it.
      logger = file_logger(where == "pool" ? "/proc/self/fd/" + std::to_string(target.pool) + "/clonefs.log"
                                           : where);
      logger->set_pattern(kPattern);
    }
  } catch (const spdlog::spdlog_ex& e) {
    return Error{EIO, std::string("no log: ") + e.what()};
  }
  // First: the others may have to wait.
  logger->sinks().insert(logger->sinks().begin(), shared_recent());
  logger->flush_on(spdlog::level::trace);
  logger->set_level(spdlog::default_logger_raw()->level());
  spdlog::set_default_logger(logger);
  return {};
}

std::string recent_log() {
  std::string text;
  for (const std::string& line : shared_recent()->last_formatted()) text += line;
  return text;
}

Status set_log_level(const std::string& level) {
  if (const Status known = check_log_level(level); !known) return known;
  for (const auto& [word, value] : kLevels) {
    if (level == word) spdlog::set_level(value);
  }
  return {};
}

std::string log_level() {
  for (const auto& [word, value] : kLevels) {
    if (spdlog::default_logger_raw()->level() == value) return word;
  }
  return "error";
}

bool traces_requests() { return spdlog::default_logger_raw()->should_log(spdlog::level::trace); }

void trace_request(unsigned opcode, unsigned long node, size_t size) {
  spdlog::trace("{} ({}), node {:x}, {} bytes", opcode_name(opcode), opcode, node, size);
}

}  // namespace clonefs
