// clonefs diff: what changed between a clone and now.
#include <array>
#include <cstdio>

#include "fs/words.h"
#include "tools/clone_view.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/tree_diff.h"

namespace clonefs {

int diff_clone(const DiffCommand& command, const CommonOptions& common) {
  const auto client = Client::find(common.mount, command.paths);
  if (!client) return fail("diff", client.error(), common);
  auto view = view_clone(*client, command.name, command.paths);
  if (!view) return fail("diff", view.error(), common);
  view->options.thorough = command.thorough;
  const TreeDiff diff = compare_trees(view->clone.get(), view->now.get(), view->options);

  constexpr ChangeKind kKinds[] = {ChangeKind::kAdded, ChangeKind::kRemoved, ChangeKind::kModified,
                                   ChangeKind::kRenamed, ChangeKind::kReplaced};
  std::vector<std::pair<std::string, size_t>> counts;
  for (const ChangeKind kind : kKinds) {
    size_t count = 0;
    for (const TreeChange& change : diff.changes) count += change.kind == kind;
    counts.emplace_back(to_string(kind), count);
  }
  if (common.json) {
    Json json = new_answer();
    json["name"] = view->name;
    put_name(&json, "volume", view->volume);
    json["activated_at"] = time_json(view->options.consistency_point);
    json["changes"] = Json::array();
    for (const TreeChange& change : diff.changes) json["changes"].push_back(change_json(change));
    for (const auto& [word, count] : counts) json["summary"][word] = count;
    json["problems"] = problems_json(diff.problems);
    std::fputs(dump_json(json).c_str(), stdout);
  } else {
    for (const TreeChange& change : diff.changes) {
      std::printf("%s\n", change_line(to_string(change.kind), change).c_str());
    }
    const std::string text = count_text(counts);
    if (!common.quiet) {
      std::printf("%s%s since %s\n", text.empty() ? "no differences" : text.c_str(),
                  diff.problems.empty() ? "" : ", as far as it can be read,",
                  format_time(view->options.consistency_point).c_str());
    }
    for (const TreeProblem& problem : diff.problems) {
      std::fprintf(stderr, "clonefs: diff: %s: %s\n", quote_name(problem.path).c_str(),
                   problem.what.c_str());
    }
  }
  if (!diff.problems.empty()) return kExitFailed;
  return command.exit_code && !diff.changes.empty() ? kExitDiffers : kExitDone;
}

}  // namespace clonefs
