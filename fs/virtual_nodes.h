// Nodes of files and directories that exist nowhere but here: the control files and the lists of
// clones. Thread safety: as Node.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fs/node.h"

namespace clonefs {

// Who owns the virtual files: whoever owns the volume's root directory, at any time.
class VirtualOwner {
 public:
  explicit VirtualOwner(int source) : source_(source) {}
  void apply(struct stat* st) const;
  // May UID command? So do root and the owner.
  bool admits(uid_t uid) const;

 private:
  const int source_;
};

// Inode numbers of virtual objects: above all that file systems give out.
inline constexpr uint64_t kVirtualInodes = uint64_t{1} << 62;

// A table of nodes by key: while a node lives, a lookup of its key finds it again, so that its
// nodeid stays the same.
class KeyedNode;
class KeyedNodes {
 public:
  KeyedNodes() = default;
  // Nodes that the kernel never gave back (it does not when a mount ends) go too.
  ~KeyedNodes();
  // The node of KEY with one more lookup; MAKE makes it (with its first one) when there is none.
  Node* get(const std::string& key, const std::function<KeyedNode*()>& make);

 private:
  friend class KeyedNode;
  std::mutex mutex_;
  std::map<std::string, KeyedNode*> nodes_;
};

class KeyedNode : public Node {
 public:
  explicit KeyedNode(KeyedNodes& table) : table_(table) {}
  void forget(uint64_t count) override;

 private:
  friend class KeyedNodes;
  KeyedNodes& table_;
  std::string key_;
};

// Attributes that virtual nodes have in common, mixed into Node or KeyedNode.
struct VirtualAttributes {
  uint64_t ino = 0;
  mode_t mode = 0;  // with the type
  double timeout = kLongTimeout;
  timespec time{};
};
void describe_virtual(const VirtualOwner& owner, const VirtualAttributes& attributes,
                      fuse_entry_param* entry);

// A node that lives as long as its owner, whatever the kernel forgets.
class FixedNode : public Node {
 public:
  FixedNode(const VirtualOwner& owner, uint64_t number, mode_t mode);
  void forget(uint64_t count) override { lookups_.fetch_sub(count); }
  int describe(fuse_entry_param* entry) override;
  // What a lookup of its name finds, with one more lookup: this.
  virtual Node* found() {
    remember();
    return this;
  }

 protected:
  const VirtualOwner& owner_;
  VirtualAttributes attributes_;
};

// A file whose text is made when it is opened.
using MakeText = std::function<std::string()>;
class TextHandle : public Handle {
 public:
  explicit TextHandle(std::string text)
      : text_(std::make_shared<const std::string>(std::move(text))) {}
  void read(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;

 private:
  // Shared with the replies: once the kernel has one, this may be released.
  const std::shared_ptr<const std::string> text_;
};
class TextNode : public FixedNode {
 public:
  TextNode(const VirtualOwner& owner, uint64_t number, mode_t permissions, MakeText make);
  void open(fuse_req_t req, fuse_file_info* fi) override;

 private:
  const MakeText make_;
};

// Replies with what of TEXT a read asks for.
void reply_text(fuse_req_t req, const std::string& text, size_t size, off_t offset);
// Opens a handle whose reads and writes always reach it.
void reply_open_virtual(fuse_req_t req, Handle* handle, fuse_file_info* fi);
bool opens_for_write(const fuse_file_info* fi);

// Entries of a virtual directory as they were when it was opened.
struct VirtualEntry {
  std::string name;
  uint64_t ino = 0;
  mode_t type = 0;
};
class EntriesHandle : public Handle {
 public:
  explicit EntriesHandle(std::vector<VirtualEntry> entries) : entries_(std::move(entries)) {}
  void readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;
  void readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;

 private:
  const std::vector<VirtualEntry> entries_;
};
void open_entries(fuse_req_t req, fuse_file_info* fi, std::vector<VirtualEntry> entries);

// Of directories in which nobody can make anything, or which ask who it is, so that their owner may
// be known late.
inline constexpr double kDirectoryTimeout = 1;

// A directory of fixed nodes.
class FixedDirectory : public FixedNode {
 public:
  FixedDirectory(const VirtualOwner& owner, uint64_t number);
  // CHILD outlives this.
  void add(std::string name, FixedNode* child);
  void lookup(fuse_req_t req, const char* name) override;
  void opendir(fuse_req_t req, fuse_file_info* fi) override;

 private:
  std::map<std::string, FixedNode*> children_;
};

// Replies to a lookup of what is not there: the kernel may not keep that in mind.
void reply_no_entry(fuse_req_t req);

}  // namespace clonefs
