#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "fs/credentials.h"
#include "fs/source_node.h"

namespace clonefs {
namespace {

bool is_dot(const char* name) {
  return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

}  // namespace

void SourceDirectory::forget(uint64_t count) {
  if (!is_root()) SourceNode::forget(count);  // the root is the volume's
}

bool SourceDirectory::hides(const char* name) const {
  return is_root() && std::strcmp(name, kControlName) == 0;
}

int SourceDirectory::refuse(const char* name) const {
  return hides(name) ? EPERM : 0;
}

void SourceDirectory::lookup(fuse_req_t req, const char* name) {
  if (is_root()) {
    if (SourceNode* open_node = volume_.self->node_of(name)) {
      fuse_entry_param entry{};
      // The name can be seen (inotify), and would lead past the directories above the file.
      if (!volume_.self->is_helper(fuse_req_ctx(req)->pid) ||
          !volume_.writable.remember(open_node)) {
        fuse_reply_err(req, ENOENT);
        return;
      }
      const int error = open_node->describe(&entry);
      entry.ino = nodeid_of(open_node);
      entry.entry_timeout = 0;
      if (error != 0) fuse_reply_err(req, error);
      if (error != 0 || fuse_reply_entry(req, &entry) != 0) open_node->forget(1);
      return;
    }
    if (hides(name)) {
      Node* control =
          volume_.virtual_entries == nullptr ? nullptr : volume_.virtual_entries->control_root();
      if (control == nullptr) {
        fuse_reply_err(req, ENOENT);
      } else {
        reply_entry(req, control);
      }
      return;
    }
  }
  const FdUse dir = use();
  if (!dir) {
    fuse_reply_err(req, dir.error());
    return;
  }
  fuse_entry_param entry{};
  struct stat st {};
  int error = 0;
  if (SourceNode* node = volume_.node_at(this, dir.get(), name, &st, &error)) {
    node->fill(&entry, st);
    entry.ino = nodeid_of(node);
    if (fuse_reply_entry(req, &entry) != 0) node->forget(1);
    return;
  }
  if (error != ENOENT) {
    fuse_reply_err(req, error);
    return;
  }
  if (std::strcmp(name, kCloneListName) == 0) {
    const std::string path = volume_.path_of(dir.get());
    Node* list = volume_.virtual_entries == nullptr || path.empty()
                     ? nullptr
                     : volume_.virtual_entries->clone_list(path);
    if (list != nullptr) {
      reply_entry(req, list);
    } else {
      fuse_reply_err(req, ENOENT);
    }
    return;
  }
  entry.entry_timeout = kLongTimeout;  // not there, and the kernel may remember that
  fuse_reply_entry(req, &entry);
}

template <class Make>
void SourceDirectory::make_entry(fuse_req_t req, const char* name, Make&& make) {
  const FdUse dir = use();
  int error = !dir ? dir.error() : refuse(name);
  SourceNode* node = nullptr;
  struct stat st {};
  if (error == 0) {
    NamesChange names;
    names.parents[0] = id();
    names.names[0] = name;
    const Change change = volume_.engine().change_names(names);
    error = change.error();
    if (error == 0) {
      const ActAs caller(req, ActAs::What::kCreate, volume_.options().switch_ids);
      error = make(dir.get()) == 0 ? 0 : errno;
    }
    if (error == 0) node = volume_.node_at(this, dir.get(), name, &st, &error);
  }
  if (node == nullptr) {
    fuse_reply_err(req, error);
    return;
  }
  fuse_entry_param entry{};
  node->fill(&entry, st);
  entry.ino = nodeid_of(node);
  if (fuse_reply_entry(req, &entry) != 0) node->forget(1);
}

void SourceDirectory::mknod(fuse_req_t req, const char* name, mode_t mode, dev_t device) {
  make_entry(req, name, [&](int dir) { return ::mknodat(dir, name, mode, device); });
}

void SourceDirectory::mkdir(fuse_req_t req, const char* name, mode_t mode) {
  make_entry(req, name, [&](int dir) { return ::mkdirat(dir, name, mode); });
}

void SourceDirectory::symlink(fuse_req_t req, const char* target, const char* name) {
  make_entry(req, name, [&](int dir) { return ::symlinkat(target, dir, name); });
}

void SourceDirectory::create(fuse_req_t req, const char* name, mode_t mode, fuse_file_info* fi) {
  const FdUse dir = use();
  int error = !dir ? dir.error() : refuse(name);
  const int flags = SourceFile::backing_flags(fi->flags, volume_.options());
  UniqueFd fd;
  SourceNode* node = nullptr;
  struct stat st {};
  if (error == 0) {
    NamesChange names;
    names.parents[0] = id();
    names.names[0] = name;
    const Change change = volume_.engine().change_names(names);
    error = change.error();
    if (error == 0) {
      const ActAs caller(req, ActAs::What::kCreate, volume_.options().switch_ids);
      fd.reset(openat(dir.get(), name, flags | O_CREAT | O_EXCL | O_NOFOLLOW, mode & 07777));
      if (!fd) error = errno;
    }
    if (error == 0) node = volume_.node_of(this, fd.get(), name, &st, &error);
  }
  if (node == nullptr) {
    // EEXIST without O_EXCL cannot be: the kernel looked the name up, and holds the directory.
    fuse_reply_err(req, error);
    return;
  }
  SourceFile::choose_caching(req, volume_.options().writeback, fi);
  fuse_entry_param entry{};
  node->fill(&entry, st);
  entry.ino = nodeid_of(node);
  reply_create(req, node, new SourceFile(*node, std::move(fd), flags, st), fi, entry);
}

void SourceDirectory::tmpfile(fuse_req_t req, mode_t mode, fuse_file_info* fi) {
  const FdUse dir = use();
  int error = dir.error();
  const int flags = SourceFile::backing_flags(fi->flags & ~O_TMPFILE, volume_.options());
  UniqueFd fd;
  SourceNode* node = nullptr;
  struct stat st {};
  if (error == 0) {
    {
      const ActAs caller(req, ActAs::What::kCreate, volume_.options().switch_ids);
      // O_EXCL (never to be linked) is the kernel's affair.
      fd.reset(openat(dir.get(), ".", flags | O_TMPFILE, mode & 07777));
      if (!fd) error = errno;
    }
    if (error == 0) node = volume_.node_of(this, fd.get(), nullptr, &st, &error);
  }
  if (node == nullptr) {
    fuse_reply_err(req, error);
    return;
  }
  node->pin(UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)));  // has no name to be found by
  SourceFile::choose_caching(req, volume_.options().writeback, fi);
  reply_create(req, node, new SourceFile(*node, std::move(fd), flags, st), fi);
}

void SourceDirectory::keep_victim(int dir_fd, const char* name, const struct stat& victim) {
  const bool last = victim.st_nlink <= 1 || S_ISDIR(victim.st_mode);
  if (!last && space_->by_handle()) return;
  SourceNode* node = volume_.nodes.find({victim.st_dev, victim.st_ino});
  if (node == nullptr) return;
  const bool is_it = node->handle().empty() ? last || node->is_located_at(this, name)
                                            : node->handle() == handle_bytes(dir_fd, name);
  if (is_it) node->pin(UniqueFd(openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)));
  node->forget(1);
}

// The node of an object without a handle keeps a descriptor until it has its new name.
class SourceDirectory::Moving {
 public:
  Moving(SourceVolume& volume, int dir_fd, const char* name, const struct stat& object)
      : volume_(volume), node_(volume.nodes.find({object.st_dev, object.st_ino})) {
    if (node_ == nullptr || !node_->handle().empty()) return;
    node_->pin(UniqueFd(openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)));
  }
  ~Moving() {
    if (node_ == nullptr) return;
    if (node_->handle().empty()) volume_.descriptors.put(node_, nullptr);
    node_->forget(1);
  }
  Moving(const Moving&) = delete;
  Moving& operator=(const Moving&) = delete;

  void moved_to(SourceDirectory* directory, const char* name) {
    if (node_ != nullptr && node_->handle().empty()) node_->located_at(directory, name);
  }

 private:
  SourceVolume& volume_;
  SourceNode* const node_;
};

void SourceDirectory::remove_entry(fuse_req_t req, const char* name, int flags) {
  const FdUse dir = use();
  int error = !dir ? dir.error() : refuse(name);
  struct stat st {};
  if (error == 0 && fstatat(dir.get(), name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    // A virtual entry is there for the kernel, but cannot be removed.
    error = errno == ENOENT && std::strcmp(name, kCloneListName) == 0 ? EPERM : errno;
  }
  if (error == 0) {
    keep_victim(dir.get(), name, st);
    NamesChange names;
    names.parents[0] = id();
    names.names[0] = name;
    names.objects[0] = st.st_dev == volume_.device() ? st.st_ino : 0;
    names.victim = names.objects[0];
    names.victim_dir = dir.get();
    names.victim_name = name;
    const Change change = volume_.engine().change_names(names);
    error = change.error();
    if (error == 0 && unlinkat(dir.get(), name, flags) != 0) error = errno;
  }
  fuse_reply_err(req, error);
}

void SourceDirectory::unlink(fuse_req_t req, const char* name) {
  remove_entry(req, name, 0);
}
void SourceDirectory::rmdir(fuse_req_t req, const char* name) {
  remove_entry(req, name, AT_REMOVEDIR);
}

void SourceDirectory::rename(fuse_req_t req, const char* name, Node* to, const char* new_name,
                             unsigned flags) {
  auto* target = dynamic_cast<SourceDirectory*>(to);
  if (target == nullptr) {
    fuse_reply_err(req, EXDEV);
    return;
  }
  const FdUse from_dir = use();
  const FdUse to_dir = target->use();
  int error = !from_dir ? from_dir.error() : !to_dir ? to_dir.error() : refuse(name);
  if (error == 0) error = target->refuse(new_name);
  struct stat moved = {};
  struct stat victim = {};
  if (error == 0 && fstatat(from_dir.get(), name, &moved, AT_SYMLINK_NOFOLLOW) != 0) error = errno;
  if (error == 0) {
    std::optional<Moving> moving, other;
    if (!space_->by_handle()) moving.emplace(volume_, from_dir.get(), name, moved);
    NamesChange names;
    names.parents[0] = id();
    names.names[0] = name;
    names.parents[1] = target->id();
    names.names[1] = new_name;
    names.objects[0] = moved.st_dev == volume_.device() ? moved.st_ino : 0;
    if (fstatat(to_dir.get(), new_name, &victim, AT_SYMLINK_NOFOLLOW) == 0) {
      names.objects[1] = victim.st_dev == volume_.device() ? victim.st_ino : 0;
      if (!space_->by_handle() && (flags & RENAME_EXCHANGE) != 0) {
        other.emplace(volume_, to_dir.get(), new_name, victim);
      }
      const bool same = victim.st_dev == moved.st_dev && victim.st_ino == moved.st_ino;
      if (!same && (flags & (RENAME_NOREPLACE | RENAME_EXCHANGE)) == 0) {
        target->keep_victim(to_dir.get(), new_name, victim);
        names.victim = names.objects[1];
        names.victim_dir = to_dir.get();
        names.victim_name = new_name;
      }
    }
    const Change change = volume_.engine().change_names(names);
    error = change.error();
    if (error == 0 && renameat2(from_dir.get(), name, to_dir.get(), new_name, flags) != 0) {
      error = errno;
    }
    // Of two names of one file a rename leaves both.
    const bool one_file = moved.st_dev == victim.st_dev && moved.st_ino == victim.st_ino;
    if (error == 0 && !one_file) {
      if (moving) moving->moved_to(target, new_name);
      if (other) other->moved_to(this, name);
    }
  }
  fuse_reply_err(req, error);
}

void SourceDirectory::link(fuse_req_t req, Node* target, const char* name) {
  auto* node = dynamic_cast<SourceNode*>(target);
  if (node == nullptr) {
    fuse_reply_err(req, EXDEV);
    return;
  }
  const FdUse dir = use();
  const FdUse object = node->use();
  int error = !dir ? dir.error() : !object ? object.error() : refuse(name);
  if (error == 0) {
    NamesChange names;
    names.parents[0] = id();
    names.names[0] = name;
    names.objects[0] = node->id();
    const Change change = volume_.engine().change_names(names);
    error = change.error();
    if (error == 0 &&
        linkat(AT_FDCWD, ProcPath(object.get()).get(), dir.get(), name, AT_SYMLINK_FOLLOW) != 0) {
      error = errno;
    }
  }
  if (error != 0) {
    fuse_reply_err(req, error);
    return;
  }
  node->remember();  // lives: the kernel holds it for this request
  reply_entry(req, node);
}

void SourceDirectory::opendir(fuse_req_t req, fuse_file_info* fi) {
  const int quiet = volume_.options().no_atime ? O_NOATIME : 0;
  UniqueFd fd(open_object(O_RDONLY | O_DIRECTORY | quiet));
  if (!fd && errno == EPERM) fd.reset(open_object(O_RDONLY | O_DIRECTORY));  // not the daemon's
  if (!fd) {
    fuse_reply_err(req, errno);
    return;
  }
  fi->cache_readdir = 1;
  fi->keep_cache = 1;
  reply_open(req, new DirectoryHandle(*this, std::move(fd)), fi);
}

// --- DirectoryHandle -----------------------------------------------------------------------------

// As getdents64 gives it.
struct DirectoryHandle::Entry {
  uint64_t ino;
  int64_t next;  // offset of the entry after it
  uint16_t length;
  uint8_t type;
  char name[1];
};

DirectoryHandle::DirectoryHandle(SourceDirectory& directory, UniqueFd fd)
    : directory_(directory), fd_(std::move(fd)) {}

const DirectoryHandle::Entry* DirectoryHandle::peek(int* error) {
  *error = 0;
  if (at_ == end_) {
    buffer_.resize(size_t{64} << 10);
    const long got = syscall(SYS_getdents64, fd_.get(), buffer_.data(), buffer_.size());
    at_ = end_ = 0;
    if (got < 0) {
      // A directory that was removed while it was open has no entries any more.
      *error = errno == ENOENT ? 0 : errno;
      return nullptr;
    }
    end_ = static_cast<size_t>(got);
    if (end_ == 0) return nullptr;
  }
  return reinterpret_cast<const Entry*>(buffer_.data() + at_);
}

void DirectoryHandle::advance(const Entry& entry) {
  position_ = entry.next;
  at_ += entry.length;
}

void DirectoryHandle::fill(fuse_req_t req, size_t size, off_t offset, bool plus) {
  std::unique_lock lock(mutex_);  // not held for the reply: after it the handle may be released
  if (offset != position_) {  // seekdir, or rewinddir: that must show new entries as well
    if (::lseek(fd_.get(), offset, SEEK_SET) < 0) {
      const int seek_error = errno;
      lock.unlock();
      fuse_reply_err(req, seek_error);
      return;
    }
    position_ = offset;
    at_ = end_ = 0;
  }
  SourceVolume& volume = directory_.volume();
  std::vector<char> reply(size);
  std::vector<SourceNode*> given;  // lookups that a refused reply takes back
  size_t used = 0;
  int error = 0;
  while (const Entry* entry = peek(&error)) {
    const char* name = entry->name;
    if (directory_.hides(name)) {
      advance(*entry);
      continue;
    }
    size_t need = 0;
    char* at = reply.data() + used;
    SourceNode* node = nullptr;
    fuse_entry_param param{};
    param.attr.st_ino = shown_ino(directory_.key().device, entry->ino, volume.device());
    param.attr.st_mode = static_cast<mode_t>(entry->type) << 12;
    if (plus) {
      // Does it fit? Before the lookup, which would have to be taken back.
      if (fuse_add_direntry_plus(req, nullptr, 0, name, &param, entry->next) > size - used) break;
      if (!is_dot(name)) {
        struct stat st {};
        int lookup_error = 0;
        node = volume.node_at(&directory_, fd_.get(), name, &st, &lookup_error);
        if (node != nullptr) {
          node->fill(&param, st);
          param.ino = nodeid_of(node);
        }
        // Else the entry without attributes: gone since, or the kernel will ask and hear why.
      }
      need = fuse_add_direntry_plus(req, at, size - used, name, &param, entry->next);
    } else {
      need = fuse_add_direntry(req, at, size - used, name, &param.attr, entry->next);
      if (need > size - used) break;
    }
    if (node != nullptr) given.push_back(node);
    used += need;
    advance(*entry);
  }
  lock.unlock();
  if (error != 0 && used == 0) {
    fuse_reply_err(req, error);
    return;
  }
  if (fuse_reply_buf(req, reply.data(), used) != 0) {
    for (SourceNode* node : given) node->forget(1);
  }
}

void DirectoryHandle::readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  fill(req, size, offset, false);
}

void DirectoryHandle::readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  fill(req, size, offset, true);
}

void DirectoryHandle::fsync(fuse_req_t req, bool data_only, fuse_file_info*) {
  const int result = data_only ? fdatasync(fd_.get()) : ::fsync(fd_.get());
  fuse_reply_err(req, result == 0 ? 0 : errno);
}

}  // namespace clonefs
