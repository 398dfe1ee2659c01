#include "fs/mount_options.h"

#include <algorithm>
#include <iterator>

#include "fs/daemon_log.h"
#include "fs/words.h"

namespace clonefs {

namespace {

constexpr const char* kForKernel[] = {"ro",       "rw",         "dev",         "nodev",     "suid",
                                      "nosuid",   "exec",       "noexec",      "noatime",   "atime",
                                      "relatime", "nodiratime", "allow_other", "allow_root"};
constexpr const char* kIgnored[] = {"defaults", "auto",   "noauto", "user",
                                    "nouser",   "users",  "owner",  "group",
                                    "_netdev",  "nofail", "async",  "default_permissions",
                                    "loud",     "silent"};
constexpr uint64_t kMaxColumns = 4096;

template <size_t N>
bool among(const std::string& word, const char* const (&list)[N]) {
  return std::any_of(std::begin(list), std::end(list),
                     [&word](const char* entry) { return word == entry; });
}

Status set_cache(const std::string& text, ServerOptions* options) {
  if (text != "writeback" && text != "writethrough") {
    return Error{EINVAL, "cache=" + text + " is not known. Write writeback or writethrough."};
  }
  options->writeback = text == "writeback";
  return {};
}

Status set_track_size(const std::string& text, ServerOptions* options) {
  const auto bytes = parse_size(text);
  if (!bytes || !TrackSize::valid(*bytes)) {
    return Error{EINVAL, "'" + text + "' is no track size. Use a power of two from 4K to 16M."};
  }
  options->track_size = TrackSize(*bytes);
  return {};
}

Status set_columns(const std::string& text, ServerOptions* options) {
  const auto count = parse_size(text);
  if (!count || *count == 0 || *count > kMaxColumns) {
    return Error{EINVAL, "'" + text + "' is no number of session columns. Use 1 to 4096."};
  }
  options->max_columns = static_cast<unsigned>(*count);
  return {};
}

Status set_durability(const std::string& text, ServerOptions* options) {
  if (text == "power") {
    options->durability = Durability::kPower;
  } else if (text == "relaxed") {
    options->durability = Durability::kRelaxed;
  } else {
    return Error{EINVAL, "'" + text + "' is no durability. Use power or relaxed."};
  }
  return {};
}

Status set_on_error(const std::string& text, ServerOptions* options) {
  if (text == "fail-clone") {
    options->on_error = OnError::kFailClone;
  } else if (text == "fail-write") {
    options->on_error = OnError::kFailWrite;
  } else {
    return Error{EINVAL, "'" + text + "' is nothing to do on an error. Use fail-clone or fail-write."};
  }
  return {};
}

Status set_reflink(const std::string& text, ServerOptions* options) {
  if (text != "auto" && text != "never") {
    return Error{EINVAL, "reflink=" + text + " is not known. Write auto or never."};
  }
  options->reflink = text == "auto";
  return {};
}

Status set_log(const std::string& text, ServerOptions* options) {
  options->log = text;
  return check_log_target(&options->log);
}

Status set_start_log_level(const std::string& text, ServerOptions* options) {
  options->log_level = text;
  return check_log_level(text);
}

Status set_stall_limit(const std::string& text, ServerOptions* options) {
  constexpr uint64_t kMost = 24 * 3600;
  const auto seconds = parse_size(text);
  if (!seconds || *seconds == 0 || *seconds > kMost) {
    return Error{EINVAL, "'" + text + "' is no stall limit. Use 1 to 86400 seconds."};
  }
  options->stall_limit = std::chrono::seconds(*seconds);
  return {};
}

Status set_pool(const std::string& text, ServerOptions* options) {
  if (text.empty()) return Error{EINVAL, "the pool has no name. Give a directory."};
  options->pool = text;
  return {};
}

Status set_no_clones(const std::string&, ServerOptions* options) {
  options->no_clones = true;
  return {};
}

}  // namespace

const std::vector<MountOption>& mount_options() {
  static const std::vector<MountOption> options{
      {"pool", "DIR",
       "where the clones are kept; may be on another file system (default: .clonefs/pool in SOURCE)", set_pool},
      {"cache", "writeback|writethrough", "writeback (the default) or writethrough", set_cache},
      {"track-size", "N", "of new sessions: a power of two from 4K to 16M (default 64K)", set_track_size},
      {"columns", "N", "sessions at the same time (default 64)", set_columns},
      {"durability", "power|relaxed",
       "power (the default): clones that are not drained survive a power cut; relaxed: a killed daemon only",
       set_durability},
      {"on-error", "fail-clone|fail-write",
       "when a track cannot be saved before a write: fail-clone (the default: the write goes on) or "
       "fail-write (the write gets the error, the clone stays whole)",
       set_on_error},
      {"reflink", "auto|never",
       "auto (the default): drained clones share their blocks with the source where both lie on one XFS or "
       "btrfs; never: they have their own, and the source's files stay in one piece",
       set_reflink},
      {"stall-limit", "SECONDS",
       "how long a write waits for a pool that does not answer, or a full journal, before the clone fails "
       "(default 30)",
       set_stall_limit},
      {"log", "pool|journal|syslog|stderr|FILE",
       "where the log goes: pool (the default: clonefs.log in the pool), journal (systemd's), syslog, stderr "
       "(the default in the foreground), or a file's path",
       set_log},
      {"log-level", "trace|debug|info|warn|error",
       "how much goes to the log (default info); clonefs log-level changes it later", set_start_log_level},
      {"no-clones", nullptr,
       "don't open the pool: the volume without its clones, when the pool is damaged or away", set_no_clones},
  };
  return options;
}

Status add_mount_options(const std::string& list, ServerOptions* options) {
  for (size_t begin = 0; begin <= list.size();) {
    size_t end = list.find(',', begin);
    if (end == std::string::npos) end = list.size();
    const std::string option = list.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    const auto& known = mount_options();
    const auto ours = std::find_if(known.begin(), known.end(), [&](const MountOption& o) {
      return key == o.name && (equals == std::string::npos) == (o.value == nullptr);
    });
    Status taken;
    if (ours != known.end()) {
      taken = ours->set(equals == std::string::npos ? "" : option.substr(equals + 1), options);
    } else if (among(option, kForKernel)) {
      options->mount_options.push_back(option);
    } else if (!option.empty() && !among(option, kIgnored) && !key.starts_with("x-") &&
               key != "comment" && key != "X-mount.mkdir") {
      taken = Error{EINVAL, "the mount option '" + option +
                                "' is not known. clonefs mount --help lists them."};
    }
    if (!taken) return taken;
  }
  return {};
}

}  // namespace clonefs
