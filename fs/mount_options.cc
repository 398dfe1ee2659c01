#include "fs/mount_options.h"

#include <algorithm>
#include <iterator>

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

}  // namespace

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

Status set_stall_limit(const std::string& text, ServerOptions* options) {
  constexpr uint64_t kMost = 24 * 3600;
  const auto seconds = parse_size(text);
  if (!seconds || *seconds == 0 || *seconds > kMost) {
    return Error{EINVAL, "'" + text + "' is no stall limit. Use 1 to 86400 seconds."};
  }
  options->stall_limit = std::chrono::seconds(*seconds);
  return {};
}

Status add_mount_options(const std::string& list, ServerOptions* options) {
  for (size_t begin = 0; begin <= list.size();) {
    size_t end = list.find(',', begin);
    if (end == std::string::npos) end = list.size();
    const std::string option = list.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : option.substr(equals + 1);
    Status taken;
    if (key == "cache") {
      taken = set_cache(value, options);
    } else if (key == "track-size") {
      taken = set_track_size(value, options);
    } else if (key == "columns") {
      taken = set_columns(value, options);
    } else if (key == "durability") {
      taken = set_durability(value, options);
    } else if (key == "on-error") {
      taken = set_on_error(value, options);
    } else if (key == "reflink") {
      taken = set_reflink(value, options);
    } else if (key == "stall-limit") {
      taken = set_stall_limit(value, options);
    } else if (option == "no-clones") {
      options->no_clones = true;
    } else if (key == "pool" && !value.empty()) {
      options->pool = value;
    } else if (among(option, kForKernel)) {
      options->mount_options.push_back(option);
    } else if (!option.empty() && !among(option, kIgnored) && !key.starts_with("x-") &&
               key != "comment" && key != "X-mount.mkdir") {
      taken = Error{EINVAL, "the mount option '" + option +
                                "' is not known. clonefs mount --help " + "lists them."};
    }
    if (!taken) return taken;
  }
  return {};
}

}  // namespace clonefs
