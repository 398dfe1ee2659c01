// Nodes of the live mount: the objects of the source. fs/SEMANTICS.md says what is done how, and
// why.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "fs/inode_ref.h"
#include "fs/node.h"
#include "fs/source_volume.h"

namespace clonefs {

class SourceFile;

// Inode number that the mount shows: the source's own, marked where it is of another file system
// than the volume's (a mount or a subvolume beneath it), since the mount has one st_dev.
ino_t shown_ino(dev_t device, ino_t ino, dev_t volume_device);

class SourceNode : public Node {
 public:
  SourceNode(SourceVolume& volume, const struct stat& st, HandleBytes handle,
             std::shared_ptr<const HandleSpace> space);
  ~SourceNode() override;

  const NodeTable::Key& key() const { return key_; }
  const HandleBytes& handle() const { return handle_; }
  const std::shared_ptr<const HandleSpace>& space() const { return space_; }
  SourceVolume& volume() const { return volume_; }
  // What the engine knows the object by; 0 on another file system than the volume's.
  SourceId id() const { return key_.device == volume_.device() ? key_.ino : 0; }

  // O_PATH descriptor of the object.
  FdUse use();
  // From now on a descriptor is kept: the object is about to lose its last name, and could not be
  // opened any more once no other descriptor holds it.
  void pin(UniqueFd fd) { volume_.descriptors.pin(this, std::move(fd)); }
  // Without a handle the object is opened again by a name that it has. Its directory lives as long.
  void located_at(SourceDirectory* directory, const char* name);
  bool is_located_at(const SourceDirectory* directory, const char* name);
  // Opens the object: -1 and errno.
  int open_object(int flags);

  // With the writeback cache the kernel owns the mtime of a regular file: its delayed writes move
  // the source's, and it sends its own only if that changed (a write within the same tick as the
  // creation does not). So we put it right again when the kernel has written back.
  void kernel_mtime_is(const timespec& mtime);
  void mtime_moved() { mtime_moved_.store(true, std::memory_order_release); }
  // FD: -1, or an open file of the object.
  void restore_mtime(int fd);

  // ST, just read, as the mount shows it, with its timeouts.
  void fill(fuse_entry_param* entry, const struct stat& st) const;

  void forget(uint64_t count) override { volume_.nodes.forget(this, count); }
  bool may_wait(uint32_t opcode) const override;
  int describe(fuse_entry_param* entry) override;
  void getattr(fuse_req_t req, Handle* handle) override;
  void setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) override;
  void readlink(fuse_req_t req) override;
  void statfs(fuse_req_t req) override;
  void setxattr(fuse_req_t req, const char* name, const char* value, size_t size,
                int flags) override;
  void getxattr(fuse_req_t req, const char* name, size_t size) override;
  void listxattr(fuse_req_t req, size_t size) override;
  void removexattr(fuse_req_t req, const char* name) override;
  void open(fuse_req_t req, fuse_file_info* fi) override;

 protected:
  friend class NodeTable;
  friend class DescriptorCache;

  // Whether the descriptor of use() is kept for the next.
  virtual bool keeps_descriptor() const { return handle_.empty(); }
  // O_PATH descriptor; -1 and errno.
  int reopen();
  int reopen_by_name();

  void reply_attributes(fuse_req_t req, int fd);
  // 0 or an errno. FILE: the open file of the request, or null; PATH_FD: the object.
  int set_attributes(fuse_req_t req, const struct stat& attr, int to_set, SourceFile* file,
                     int path_fd);

  SourceVolume& volume_;
  const NodeTable::Key key_;
  const HandleBytes handle_;
  const std::shared_ptr<const HandleSpace> space_;
  std::mutex mutex_;
  std::shared_ptr<const UniqueFd> fd_;  // kept descriptor, under mutex_
  struct Location {
    SourceDirectory* directory;  // with one lookup for us
    std::string name;
  };
  std::unique_ptr<Location> location_;       // under mutex_
  std::list<SourceNode*>::iterator cached_;  // under DescriptorCache's lock
  bool is_cached_ = false;
  timespec kernel_mtime_{};  // under mutex_; while there are writable opens
  std::atomic<bool> mtime_moved_{false};
};

class SourceDirectory : public SourceNode {
 public:
  using SourceNode::SourceNode;

  void forget(uint64_t count) override;

  void lookup(fuse_req_t req, const char* name) override;
  void mknod(fuse_req_t req, const char* name, mode_t mode, dev_t device) override;
  void mkdir(fuse_req_t req, const char* name, mode_t mode) override;
  void symlink(fuse_req_t req, const char* target, const char* name) override;
  void create(fuse_req_t req, const char* name, mode_t mode, fuse_file_info* fi) override;
  void tmpfile(fuse_req_t req, mode_t mode, fuse_file_info* fi) override;
  void unlink(fuse_req_t req, const char* name) override;
  void rmdir(fuse_req_t req, const char* name) override;
  void rename(fuse_req_t req, const char* name, Node* to, const char* new_name,
              unsigned flags) override;
  void link(fuse_req_t req, Node* target, const char* name) override;
  void opendir(fuse_req_t req, fuse_file_info* fi) override;

  bool is_root() const { return this == volume_.root(); }
  // Entries of the source that the mount does not show.
  bool hides(const char* name) const;

  bool keeps_descriptor() const override { return true; }

 private:
  // 0, or the errno with which a change of the entry NAME is refused.
  int refuse(const char* name) const;
  // What creates: MAKE makes the object NAME in the directory and returns 0 or an errno.
  template <class Make>
  void make_entry(fuse_req_t req, const char* name, Make&& make);
  void remove_entry(fuse_req_t req, const char* name, int flags);
  // The node of the object that is about to lose the name keeps a descriptor.
  void keep_victim(int dir_fd, const char* name, const struct stat& victim);

  // While an object changes its name it cannot be opened by one.
  class Moving;
};

// An open regular file of the source.
class SourceFile : public Handle {
 public:
  // The flags to open the source's file with for an application's FLAGS.
  static int backing_flags(int flags, const VolumeOptions& options);
  // How the kernel caches the file that is opened with FI's flags.
  static void choose_caching(fuse_req_t req, bool writeback, fuse_file_info* fi);
  // FLAGS: those that FD was opened with. Counts as a writable open of NODE if they say so.
  // ST: of the file as the kernel knows it.
  SourceFile(SourceNode& node, UniqueFd fd, int flags, const struct stat& st);
  ~SourceFile() override;

  int fd() const { return fd_.get(); }
  SourceNode& node() const { return node_; }

  void read(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;
  void write(fuse_req_t req, fuse_bufvec* data, off_t offset, fuse_file_info* fi) override;
  void flush(fuse_req_t req, fuse_file_info* fi) override;
  void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi) override;
  void fallocate(fuse_req_t req, int mode, off_t offset, off_t length) override;
  void lseek(fuse_req_t req, off_t offset, int whence) override;
  void copy_file_range(fuse_req_t req, off_t offset, Handle* to, off_t to_offset, size_t length,
                       int flags) override;

  // For Change: the descriptor if it can be read, else -1.
  int readable_fd() const { return readable_ ? fd_.get() : -1; }

 private:
  void seek_source(fuse_req_t req, off_t offset, int whence);

  SourceNode& node_;
  const UniqueFd fd_;
  const bool writable_;
  const bool readable_;
};

// Opened by the daemon itself through the mount, to make the kernel write back: nothing to sync.
class FlushHandle : public Handle {
 public:
  explicit FlushHandle(SourceNode& node) : node_(node) {}
  void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi) override;

 private:
  SourceNode& node_;
};

// An open directory: the source's entries with the source's offsets.
class DirectoryHandle : public Handle {
 public:
  DirectoryHandle(SourceDirectory& directory, UniqueFd fd);

  void readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;
  void readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;
  void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi) override;

 private:
  struct Entry;
  // The entry at the position, null at the end or, with *error, on failure. Stays until advance.
  const Entry* peek(int* error);
  void advance(const Entry& entry);
  void fill(fuse_req_t req, size_t size, off_t offset, bool plus);

  SourceDirectory& directory_;
  const UniqueFd fd_;
  std::mutex mutex_;
  std::vector<char> buffer_;  // as getdents64 filled it
  size_t at_ = 0;
  size_t end_ = 0;
  off_t position_ = 0;  // offset of the entry at at_
};

}  // namespace clonefs
