#include "tools/clone_view.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "fs/command_paths.h"
#include "fs/words.h"

namespace clonefs {

namespace {

bool is_beneath(const std::string& directory, const std::string& path) {
  return directory == "." || path == directory || path.starts_with(directory + "/");
}

// Paths without those that lie in others of them, sorted.
std::vector<std::string> outermost(std::vector<std::string> paths) {
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> kept;
  for (const std::string& path : paths) {
    const bool within = std::any_of(kept.begin(), kept.end(), [&](const std::string& other) {
      return is_beneath(other, path);
    });
    if (!within) kept.push_back(path);
  }
  return kept;
}

Result<UniqueFd> open_root(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Error::from_errno(errno, path);
  return fd;
}

bool exists(int root, const std::string& path) {
  return static_cast<bool>(UniqueFd(open_in_tree(root, path, O_PATH)));
}

}  // namespace

Result<CloneView> view_clone(const Client& client, const std::string& name,
                             const std::vector<std::string>& paths) {
  Command ask;
  ask.verb = Verb::kStatus;
  ask.names = {name};
  ask.json = true;
  const auto reply = client.send(ask);
  if (!reply) return reply.error();
  const Json status = Json::parse(*reply, nullptr, false);
  if (!status.is_object() || !status.contains("sessions") || status["sessions"].empty()) {
    return Error{EPROTO, "the daemon's answer is not understood. Is it of another version?"};
  }
  const Json& session = status["sessions"][0];
  const std::string state = session["state"];
  // While the next generation is prepared the one before is shown.
  const Json previous_at = session.value("previous_at", Json());
  const Json& activated_at = previous_at.is_string() ? previous_at : session["activated_at"];
  if (!activated_at.is_string()) {
    return Error{ENOENT, name + " is " + state + ": it shows nothing before its activation. Type: "
                                                 "clonefs activate " + name};
  }
  if (state == "Failed" && !previous_at.is_string()) {
    return Error{EIO, name + " is Failed, nothing can be read from it."};
  }

  CloneView view;
  view.name = name;
  view.volume = client.mountpoint();
  auto clone = open_root(view.volume + "/.clonefs/clones/" + name);
  if (!clone) return clone.error();
  auto now = open_root(view.volume);
  if (!now) return now.error();
  view.clone = std::move(*clone);
  view.now = std::move(*now);
  view.options.consistency_point = parse_time(activated_at.get<std::string>());
  for (const Json& range : session["extents"]) {
    view.options.extents.push_back({range["offset"], range["length"]});
  }

  const std::vector<std::string> cloned = outermost(read_names(session, "paths"));
  std::vector<std::string> asked;
  for (const std::string& path : paths) {
    const auto relative = client.volume_path(path);
    if (!relative) return relative.error();
    std::string clean = clean_path(*relative);
    if (clean.empty()) clean = ".";
    bool found = false;
    for (const std::string& root : cloned) {
      if (is_beneath(root, clean)) asked.push_back(clean), found = true;
      else if (is_beneath(clean, root)) asked.push_back(root), found = true;
    }
    if (!found) {
      std::string all;
      for (size_t i = 0; i < cloned.size() && i < 8; i++) all += " " + quote_name(cloned[i]);
      return Error{ENOENT, quote_name(path) + " is not in the clone " + name + ", which has:" + all +
                               (cloned.size() > 8 ? " ..." : "") + "."};
    }
    const bool there = exists(view.clone.get(), clean) || exists(view.now.get(), clean);
    if (!there) {
      return Error{ENOENT, quote_name(path) + " is neither in the clone " + name +
                               " nor in the volume. ls " +
                               quote_name(view.volume + "/.clonefs/clones/" + name) +
                               " shows what it has."};
    }
  }
  view.options.paths = paths.empty() ? cloned : outermost(asked);
  return view;
}

std::string change_line(const char* word, const TreeChange& change) {
  const auto name = [](const std::string& path, mode_t mode) {
    return quote_name(path) + (S_ISDIR(mode) && path != "." ? "/" : "");
  };
  const bool then = change.then.st_mode != 0;
  char text[16];
  std::snprintf(text, sizeof text, "%-9s ", word);
  std::string line = text;
  line += then ? name(change.path, change.then.st_mode) : name(change.path_now, change.now.st_mode);
  if (then && !change.path_now.empty() && change.path_now != change.path) {
    line += " -> " + name(change.path_now, change.now.st_mode);
  }
  if (change.kind == ChangeKind::kReplaced) {
    line += std::string("  (") + type_word(change.then.st_mode) + " -> " +
            type_word(change.now.st_mode) + ")";
  }
  std::string attributes;
  for (const std::string& attribute : attribute_words(change.attributes)) {
    attributes += (attributes.empty() ? "" : ", ") + attribute;
  }
  return attributes.empty() ? line : line + "  (" + attributes + ")";
}

Json change_json(const TreeChange& change) {
  Json json;
  json["change"] = to_string(change.kind);
  put_name(&json, "path", change.path);
  if (!change.path_now.empty() && change.path_now != change.path) {
    put_name(&json, "path_now", change.path_now);
  }
  const auto side = [](const struct stat& st) -> Json {
    if (st.st_mode == 0) return nullptr;
    return {{"type", type_word(st.st_mode)}, {"size", static_cast<uint64_t>(st.st_size)},
            {"mode", st.st_mode & 07777},    {"uid", st.st_uid},
            {"gid", st.st_gid},              {"mtime", time_json(st.st_mtim)}};
  };
  json["attributes"] = attribute_words(change.attributes);
  json["then"] = side(change.then);
  json["now"] = side(change.now);
  return json;
}

Json problems_json(const std::vector<TreeProblem>& problems) {
  Json json = Json::array();
  for (const TreeProblem& problem : problems) {
    Json entry = error_json({problem.code, problem.what})["error"];
    put_name(&entry, "path", problem.path);
    json.push_back(entry);
  }
  return json;
}

std::string count_text(const std::vector<std::pair<std::string, size_t>>& counts) {
  std::string text;
  for (const auto& [word, count] : counts) {
    if (count == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + word;
  }
  return text;
}

}  // namespace clonefs
