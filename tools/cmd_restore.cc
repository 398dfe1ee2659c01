// clonefs restore: copies back from a clone what differs from it.
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>

#include "fs/words.h"
#include "tools/clone_view.h"
#include "tools/commands.h"
#include "tools/tree_restore.h"

namespace clonefs {

namespace {

// A rename that was undone may show more of them.
constexpr int kRounds = 16;
constexpr size_t kLongestName = 64;

std::string guard_name(const std::string& clone) {
  const std::time_t now = std::time(nullptr);
  tm broken{};
  ::gmtime_r(&now, &broken);
  char text[40];
  ::strftime(text, sizeof text, "-before-restore-%Y%m%d-%H%M%S", &broken);
  return clone.substr(0, kLongestName - std::char_traits<char>::length(text)) + text;
}

// Clones what is now at the paths of VIEW, as NAME.
Status make_guard(const Client& client, const CloneView& view, const std::string& name) {
  Command copy;
  copy.verb = Verb::kCopy;
  copy.create.name = name;
  for (const std::string& path : view.options.paths) {
    if (UniqueFd(open_in_tree(view.now.get(), path, O_PATH))) copy.create.paths.push_back(path);
  }
  if (copy.create.paths.empty()) return {};
  const auto reply = client.send(copy);
  if (!reply) {
    return Error{reply.error().code, "the present state could not be cloned, nothing was restored: " +
                                         reply.error().message};
  }
  return {};
}

Json outcome_json(const Outcome& outcome, bool dry_run) {
  Json json;
  json["action"] = to_string(outcome.action);
  json["done"] = !dry_run && outcome.code == 0;
  json["error"] = outcome.code == 0 ? Json(nullptr)
                                    : error_json({outcome.code, outcome.error})["error"];
  json.update(change_json(*outcome.change));
  json["bytes_written"] = outcome.bytes_written;
  return json;
}

}  // namespace

int restore_clone(const RestoreCommand& command, const CommonOptions& common) {
  const auto client = Client::find(common.mount, command.paths);
  if (!client) return fail("restore", client.error(), common);
  auto view = view_clone(*client, command.name, command.paths);
  if (!view) return fail("restore", view.error(), common);
  DiffOptions& options = view->options;
  options.thorough = command.thorough;
  // A name that is kept is none to be given another.
  options.renames = command.remove;
  std::string guard;
  if (!command.to.empty()) {
    if (!command.dry_run && ::mkdir(command.to.c_str(), 0700) != 0 && errno != EEXIST) {
      return fail("restore", Error::from_errno(errno, quote_name(command.to)), common);
    }
    view->now.reset(::open(command.to.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!view->now && !(command.dry_run && errno == ENOENT)) {
      return fail("restore", Error::from_errno(errno, quote_name(command.to)), common);
    }
  } else if (command.guard) {
    guard = guard_name(command.name);
    if (!command.dry_run) {
      if (const Status made = make_guard(*client, *view, guard); !made) {
        return fail("restore", made.error(), common);
      }
    }
    if (!common.json) {
      std::printf("%s %s\n", command.dry_run ? "would clone the present state as" : "the present state is in",
                  guard.c_str());
      std::fflush(stdout);
    }
  }

  const int then = view->clone.get();
  const int now = view->now.get();
  TreeRestorer restorer(then, now, options, command.remove);
  // Outcomes point into the comparison that they are of.
  std::vector<TreeDiff> diffs;
  diffs.reserve(kRounds);
  std::vector<Outcome> outcomes;
  diffs.push_back(compare_trees(then, now, options));
  if (command.dry_run) {
    for (const TreeChange& change : diffs[0].changes) {
      outcomes.push_back({restorer.action_for(change), &change, "", 0, 0});
    }
  } else {
    while (command.remove && diffs.size() < kRounds) {
      const auto renamed = restorer.rename_back(diffs.back());
      if (renamed.empty()) break;
      outcomes.insert(outcomes.end(), renamed.begin(), renamed.end());
      diffs.push_back(compare_trees(then, now, options));
    }
    const auto applied = restorer.apply(diffs.back());
    outcomes.insert(outcomes.end(), applied.begin(), applied.end());
  }
  const std::vector<TreeProblem>& problems = diffs.back().problems;

  constexpr RestoreAction kActions[] = {
      RestoreAction::kCreate, RestoreAction::kUpdate, RestoreAction::kReplace, RestoreAction::kLink,
      RestoreAction::kRename, RestoreAction::kDelete, RestoreAction::kKeep};
  std::vector<std::pair<std::string, size_t>> counts;
  uint64_t written = 0;
  size_t failed = 0;
  for (const RestoreAction action : kActions) counts.emplace_back(to_string(action), 0);
  for (const Outcome& outcome : outcomes) {
    counts[static_cast<size_t>(outcome.action)].second += outcome.code == 0;
    failed += outcome.code != 0;
    written += outcome.bytes_written;
  }
  if (common.json) {
    Json json = new_answer();
    json["name"] = view->name;
    put_name(&json, "to", command.to.empty() ? view->volume : command.to);
    json["dry_run"] = command.dry_run;
    json["guard"] = guard.empty() ? Json(nullptr) : Json(guard);
    json["changes"] = Json::array();
    for (const Outcome& outcome : outcomes) {
      json["changes"].push_back(outcome_json(outcome, command.dry_run));
    }
    for (const auto& [word, count] : counts) json["summary"][word] = count;
    json["summary"]["failed"] = failed;
    json["summary"]["bytes_written"] = written;
    json["problems"] = problems_json(problems);
    std::fputs(dump_json(json).c_str(), stdout);
  } else {
    for (const Outcome& outcome : outcomes) {
      if (outcome.code == 0 && !common.quiet) {
        std::printf("%s\n", change_line(to_string(outcome.action), *outcome.change).c_str());
      }
    }
    std::fflush(stdout);
    for (const Outcome& outcome : outcomes) {
      if (outcome.code != 0) {
        std::fprintf(stderr, "clonefs: restore: %s: %s\n", quote_name(outcome.change->path).c_str(),
                     outcome.error.c_str());
      }
    }
    for (const TreeProblem& problem : problems) {
      std::fprintf(stderr, "clonefs: restore: %s: %s\n", quote_name(problem.path).c_str(),
                   problem.what.c_str());
    }
    if (!common.quiet) {
      if (failed > 0) counts.emplace_back("failed", failed);
      const std::string text = count_text(counts);
      std::printf("%s%s%s\n", command.dry_run ? "would do: " : "",
                  text.empty() ? "nothing differs" : text.c_str(),
                  command.dry_run ? "" : (", " + format_size(written) + " written").c_str());
    }
  }
  return failed > 0 || !problems.empty() ? kExitFailed : kExitDone;
}

}  // namespace clonefs
