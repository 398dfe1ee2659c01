// How a tree differs from what a clone of it shows: what `clonefs diff` lists and `clonefs restore`
// works through.
//
// What decides, for a name that both have: type, size, mode, owner, group, mtime, and (where there is
// more than one) which names are links to one file. Data, xattrs and ACLs are read only when the times
// leave it open: when both sides' ctime is a second or more before the consistency point, or the same,
// and all of the above is equal for the same inode, nobody has changed it.
//
// Renames: a name that only the clone has and one that only the tree has are the same object when the
// inode number is, and its type, and what it is made of speaks for it (an inode number is used again):
// for a file the same size and mtime or the same first 4 KiB, for a directory the same mtime or a child
// with the same name and number. Names that both have are compared by name.
//
// Thread safety: no state. Errors: what could not be looked at is in TreeDiff::problems.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "extents/geometry.h"
#include "extents/result.h"
#include "tools/tree_place.h"

namespace clonefs {

enum Attribute : unsigned {
  kData = 1 << 0,
  kSize = 1 << 1,
  kMode = 1 << 2,
  kOwner = 1 << 3,
  kGroup = 1 << 4,
  kMtime = 1 << 5,
  kXattrs = 1 << 6,
  kAcl = 1 << 7,
  kTarget = 1 << 8,  // of a symbolic link
  kDevice = 1 << 9,  // number of a device
  kLinks = 1 << 10,  // which other names are the same file
};
// "data", "size", ... of those in ATTRIBUTES.
std::vector<std::string> attribute_words(unsigned attributes);

enum class ChangeKind { kAdded, kRemoved, kModified, kRenamed, kReplaced };
const char* to_string(ChangeKind kind);  // "added": the tree has it, the clone hasn't
const char* type_word(mode_t mode);      // "file", "directory", "symlink", "fifo", ...

struct TreeChange {
  ChangeKind kind = ChangeKind::kModified;
  std::string path;        // in the clone; of what was added: in the tree
  std::string path_now;    // in the tree; "" if it isn't there
  unsigned attributes = 0;
  struct stat then {};     // st_mode 0: the clone hasn't it
  struct stat now {};      // st_mode 0: the tree hasn't it
};

// A name, in the clone, of a file with several.
struct LinkedName {
  std::string path;
  uint64_t then_ino = 0;
  uint64_t now_ino = 0;  // 0: the tree has no such name
};

struct TreeProblem {
  std::string path;
  int code = 0;
  std::string what;
};

struct TreeDiff {
  std::vector<TreeChange> changes;  // by path; parents before what is in them
  std::vector<LinkedName> linked;   // all of the clone's, by path
  std::vector<TreeProblem> problems;
};

struct DiffOptions {
  std::vector<std::string> paths;   // what is compared; "." is all. Where one is, no other is beneath it
  std::vector<ByteRange> extents;   // of each file; empty: all
  timespec consistency_point{};
  bool renames = true;
  bool thorough = false;            // the times are not trusted: all data are compared
};

// THEN: the clone's root, NOW: the tree's.
TreeDiff compare_trees(int then, int now, const DiffOptions& options);

// Attributes that differ, without data, size and links.
unsigned differing_attributes(const TreePlace& then, const struct stat& then_stat,
                              const TreePlace& now, const struct stat& now_stat, bool with_xattrs,
                              int* error);

}  // namespace clonefs
