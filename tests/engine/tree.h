// A tree of files in memory: what a clone must show. Taken from a directory by capture(), compared
// with a directory by difference(). Both use plain system calls and change nothing (not even times
// of access).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace clonefs::test {

struct TreeObject {
  struct stat st {};
  bool own_ctime = false;  // the clone's user changed it: ctime is no longer the source's
  bool own_mtime = false;  // the same for mtime, until the model has seen the new one
  std::string data;        // of a regular file; holes are zeros
  std::string target;      // of a symbolic link
  std::map<std::string, std::string> xattrs;
};

// By path relative to the volume, "." is its root. Hard links share the object.
using Tree = std::map<std::string, std::shared_ptr<TreeObject>>;

// Adds PATH (relative to ROOT) and all beneath it to TREE; nothing when it does not exist.
// `.clonefs` in the root is left out. Hard links are recognized within one TREE.
void capture(int root, const std::string& path, Tree& tree);

// The paths beneath ROOT with their types (S_IFMT bits), without the root and `.clonefs`.
std::map<std::string, mode_t> list_tree(int root);

// Keeps of every file's data only the tracks (of TRACK_SIZE) that one of the ranges touches.
struct PartOfFile {
  uint64_t offset, length;
};
void keep_extents(Tree& tree, uint64_t track_size, const std::vector<PartOfFile>& ranges);

// How to look at the tree that is compared.
struct TreeView {
  int root = -1;
  // Attributes as they are shown; empty: as they are.
  std::function<void(struct stat*)> present;
  // Content of a regular file; empty: read it. DIR and NAME say where it is.
  std::function<std::string(int fd, const struct stat& st)> read;
  bool ctime = true;  // whether ctime must be that of the source
};

// "" when the directory shows TREE and nothing else, but for the directories that lead to the
// SELECTED paths; else a description of the first differences.
std::string difference(const Tree& tree, const std::vector<std::string>& selected,
                       const TreeView& view);

// Where two strings differ, in few words.
std::string difference(const std::string& expected, const std::string& found);

std::string join(const std::string& directory, const std::string& name);

// Whole content of an open file.
std::string read_all(int fd);

}  // namespace clonefs::test
