// Makes a tree what a clone of it shows, one difference after the other: what `clonefs restore` does.
//
// A file that is there is changed in place, and only where its data differ: who has it open, and its
// other names, see the restored data. What is missing is made whole before it gets its name. A name
// that must be another file (its links differ, another type) gets it by a rename. Data first, then
// owner, mode, xattrs and ACLs, times; directories last, from the leaves to the root. So what an
// interruption leaves is found as a difference again, and restoring once more finishes it.
//
// Durability: that of writes, as with cp. Thread safety: one thread. Errors: in Outcome, one for each
// change that was not done; the others are done all the same.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "tools/tree_diff.h"

namespace clonefs {

enum class RestoreAction { kCreate, kUpdate, kReplace, kLink, kRename, kDelete, kKeep };
const char* to_string(RestoreAction action);

struct Outcome {
  RestoreAction action = RestoreAction::kUpdate;
  const TreeChange* change = nullptr;
  std::string error;  // "": done, or would be
  int code = 0;
  uint64_t bytes_written = 0;
};

class TreeRestorer {
 public:
  // THEN: the clone's root, NOW: that of the tree that is changed. REMOVE: what only the tree has goes.
  // Of OPTIONS the paths and extents.
  TreeRestorer(int then, int now, const DiffOptions& options, bool remove)
      : then_root_(then),
        now_root_(now),
        paths_(options.paths),
        extents_(options.extents),
        remove_(remove) {}

  // What would be done with CHANGE.
  RestoreAction action_for(const TreeChange& change) const;
  // Gives what was renamed its old name, where nothing else has it: the first step, if names that only
  // the tree has go. Changes of DIFF that were undone; the trees are to be compared anew then.
  std::vector<Outcome> rename_back(const TreeDiff& diff);
  // All of DIFF (without renames that could be undone).
  std::vector<Outcome> apply(const TreeDiff& diff);

 private:
  struct Failure {
    int code = 0;
    std::string what;
  };

  Failure apply_one(const TreeChange& change, Outcome* outcome);
  Failure create(const TreeChange& change, Outcome* outcome);
  Failure create_file(const TreeChange& change, const TreePlace& now, uint64_t* written);
  Failure update(const TreeChange& change, Outcome* outcome);
  Failure update_file(const TreeChange& change, const TreePlace& now, uint64_t* written);
  // Makes NOW's name (a file that is not a directory) one of a new file like the clone's.
  Failure replace(const TreeChange& change, Outcome* outcome);
  Failure remove(const std::string& path, mode_t type);
  Failure set_attributes(const std::string& path, const TreePlace& now, bool is_new);
  // The directories above PATH, as the clone has them, where they are missing.
  Failure make_parents(const std::string& path);
  bool is_selected(const std::string& path) const;
  void finish_directories();
  static void fail_outcome(const Failure& failure, Outcome* outcome);

  const int then_root_;
  const int now_root_;
  const std::vector<std::string> paths_;
  const std::vector<ByteRange> extents_;
  const bool remove_;
  std::unordered_map<uint64_t, std::string> first_name_;  // of files with several, by the clone's inode
  std::map<std::string, bool> directories_;  // to be given their attributes; true: made here
  std::map<std::string, Failure> failed_directories_;
};

}  // namespace clonefs
