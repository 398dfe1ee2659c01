// Nodes and handles of a CloneTree; see there.
#pragma once

#include <dirent.h>

#include <memory>
#include <mutex>
#include <vector>

#include "fs/clone_tree.h"

namespace clonefs {

class CloneNode : public KeyedNode {
 public:
  CloneNode(CloneTree& tree, std::shared_ptr<Clone> clone, detail::FileRef ref, uint64_t pool_ino,
            bool is_root);

  int describe(fuse_entry_param* entry) override;
  bool may_wait(uint32_t opcode) const override;
  void setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) override;
  void readlink(fuse_req_t req) override;
  void statfs(fuse_req_t req) override;
  void setxattr(fuse_req_t req, const char* name, const char* value, size_t size,
                int flags) override;
  void getxattr(fuse_req_t req, const char* name, size_t size) override;
  void listxattr(fuse_req_t req, size_t size) override;
  void removexattr(fuse_req_t req, const char* name) override;
  void open(fuse_req_t req, fuse_file_info* fi) override;
  void opendir(fuse_req_t req, fuse_file_info* fi) override;
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

 private:
  friend class CloneFileHandle;
  friend class CloneDirHandle;

  // How the inode's opens reach its data.
  struct Opens {
    unsigned cached = 0;
    unsigned cached_writers = 0;  // may hold data that only their cache has
    unsigned passthrough = 0;
    unsigned passthrough_writers = 0;
    int backing_id = 0;
    bool was_passthrough = false;  // what the kernel has cached may be older than that
    timespec pool_ctime{};         // last seen, to notice changes made by passthrough
  };

  Fd open_ref(int flags) const { return ref_.open(tree_.space_, flags); }
  // A descriptor for reading, or for both if WRITE. 0 or an errno.
  int open_data(bool write, Fd* fd) const;
  int read_attributes(struct stat* st);
  // Why a change is refused: 0 or an errno.
  int refuse_change() const;
  // The same for names in this directory, of which the pool's inode VICTIM may lose one.
  int before_names_change(uint64_t victim = 0);
  // The request's answer when a new object NAME was made in DIR (or could not be: RESULT < 0).
  void reply_made(fuse_req_t req, int dir, const char* name, int result);
  void remove(fuse_req_t req, const char* name, int flags);
  int apply_attributes(const struct stat& attr, int to_set);
  int truncate(uint64_t size, Handle* handle);
  // Makes FD an open file of this node; takes FD over. 0 or an errno.
  int make_handle(fuse_req_t req, Fd fd, fuse_file_info* fi, Handle** handle);
  // Decides how the open's data are reached, and counts it.
  bool begin_open(const CloneFile& file, int fd, bool write, fuse_file_info* fi);
  void end_open(bool passthrough, bool write);
  void changed() { clone_->changed(pool_ino_); }
  // Passthrough writes are seen by their traces only. True: there was one.
  bool notice_passthrough(const struct stat& pool);
  // The same at the end of writing: the kernel's attributes may be older then.
  void settle_passthrough(int fd);
  void invalidate_attributes();

  CloneTree& tree_;
  const std::shared_ptr<Clone> clone_;
  const detail::FileRef ref_;
  const uint64_t pool_ino_;
  const bool is_root_;
  std::mutex mutex_;
  Opens opens_;
};

class CloneFileHandle : public Handle {
 public:
  CloneFileHandle(CloneNode* node, Fd fd, std::unique_ptr<CloneFile> file,
                  std::shared_ptr<void> use, bool passthrough, bool write)
      : node_(node),
        use_(std::move(use)),
        fd_(std::move(fd)),
        file_(std::move(file)),
        passthrough_(passthrough),
        write_(write) {}
  ~CloneFileHandle() override;

  void read(fuse_req_t req, size_t size, off_t offset, fuse_file_info* fi) override;
  void write(fuse_req_t req, fuse_bufvec* data, off_t offset, fuse_file_info* fi) override;
  void flush(fuse_req_t req, fuse_file_info* fi) override;
  void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi) override;
  void fallocate(fuse_req_t req, int mode, off_t offset, off_t length) override;
  void lseek(fuse_req_t req, off_t offset, int whence) override;

 private:
  friend class CloneNode;
  int error() const { return node_->clone_->error(); }

  CloneNode* const node_;  // lives while the kernel has it open
  const std::shared_ptr<void> use_;
  const Fd fd_;
  const std::unique_ptr<CloneFile> file_;
  const bool passthrough_;
  const bool write_;
};

class CloneDirHandle : public Handle {
 public:
  // Takes DIRECTORY over.
  CloneDirHandle(CloneNode* node, std::shared_ptr<void> use, DIR* directory)
      : node_(node), use_(std::move(use)), directory_(directory) {}
  ~CloneDirHandle() override { ::closedir(directory_); }

  void readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) override {
    list(req, size, offset, false);
  }
  void readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) override {
    list(req, size, offset, true);
  }
  void fsync(fuse_req_t req, bool data_only, fuse_file_info* fi) override;

 private:
  void list(fuse_req_t req, size_t size, off_t offset, bool plus);
  // 0 or an errno. What it has of the directory is in BUFFER then.
  int fill(fuse_req_t req, off_t offset, bool plus, std::vector<char>* buffer);

  CloneNode* const node_;
  const std::shared_ptr<void> use_;
  DIR* const directory_;
  std::mutex mutex_;
  off_t position_ = 0;
};

}  // namespace clonefs
