// A clone beside the volume as it is now, as `clonefs diff` and `clonefs restore` look at them.
// Errors: there is no such clone, it is not to be seen, a path is not in it; with what to type next.
// Thread safety: one thread.
#pragma once

#include <string>
#include <vector>

#include "extents/result.h"
#include "fs/json_text.h"
#include "fs/unique_fd.h"
#include "tools/client.h"
#include "tools/tree_diff.h"

namespace clonefs {

struct CloneView {
  std::string name;
  std::string volume;  // where it is mounted
  UniqueFd clone;      // roots
  UniqueFd now;
  DiffOptions options;  // paths: those that were asked for, as far as the clone has them
};

// PATHS as the user wrote them; none: all that was cloned.
Result<CloneView> view_clone(const Client& client, const std::string& name,
                             const std::vector<std::string>& paths);

// "modified" and the rest of a line for people; ' -> ' for a name that changed.
std::string change_line(const char* word, const TreeChange& change);
// {"change":"modified","path":...}
Json change_json(const TreeChange& change);
Json problems_json(const std::vector<TreeProblem>& problems);
// "3 modified, 1 added"; "no differences".
std::string count_text(const std::vector<std::pair<std::string, size_t>>& counts);

}  // namespace clonefs
