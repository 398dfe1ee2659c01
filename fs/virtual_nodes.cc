#include "fs/virtual_nodes.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace clonefs {

void VirtualOwner::apply(struct stat* st) const {
  struct stat root {};
  if (::fstat(source_, &root) != 0) return;
  st->st_uid = root.st_uid;
  st->st_gid = root.st_gid;
}

bool VirtualOwner::admits(uid_t uid) const {
  struct stat root {};
  return uid == 0 || (::fstat(source_, &root) == 0 && uid == root.st_uid);
}

Node* KeyedNodes::get(const std::string& key, const std::function<KeyedNode*()>& make) {
  std::lock_guard lock(mutex_);
  if (const auto it = nodes_.find(key); it != nodes_.end()) {
    it->second->remember();
    return it->second;
  }
  KeyedNode* node = make();
  node->key_ = key;
  nodes_.emplace(key, node);
  return node;
}

KeyedNodes::~KeyedNodes() {
  for (const auto& [key, node] : nodes_) delete node;
}

void KeyedNode::forget(uint64_t count) {
  {
    std::lock_guard lock(table_.mutex_);
    if (lookups_.fetch_sub(count) != count) return;
    const auto it = table_.nodes_.find(key_);
    if (it != table_.nodes_.end() && it->second == this) table_.nodes_.erase(it);
  }
  delete this;
}

void describe_virtual(const VirtualOwner& owner, const VirtualAttributes& attributes,
                      fuse_entry_param* entry) {
  struct stat& st = entry->attr;
  st = {};
  st.st_ino = attributes.ino;
  st.st_mode = attributes.mode;
  st.st_nlink = S_ISDIR(attributes.mode) ? 2 : 1;
  st.st_blksize = 4096;
  st.st_atim = st.st_mtim = st.st_ctim = attributes.time;
  owner.apply(&st);
  entry->generation = 0;
  entry->attr_timeout = attributes.timeout;
  entry->entry_timeout = attributes.timeout;
}

FixedNode::FixedNode(const VirtualOwner& owner, uint64_t number, mode_t mode) : owner_(owner) {
  attributes_.ino = kVirtualInodes + number;
  attributes_.mode = mode;
  // A chown of the volume's root must show at once: it decides who may command.
  attributes_.timeout = 0;
  ::clock_gettime(CLOCK_REALTIME, &attributes_.time);
}

int FixedNode::describe(fuse_entry_param* entry) {
  describe_virtual(owner_, attributes_, entry);
  return 0;
}

void reply_text(fuse_req_t req, const std::string& text, size_t size, off_t offset) {
  const size_t begin = std::min(text.size(), static_cast<size_t>(std::max<off_t>(0, offset)));
  fuse_reply_buf(req, text.data() + begin, std::min(size, text.size() - begin));
}

void TextHandle::read(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  const auto text = text_;
  reply_text(req, *text, size, offset);
}

bool opens_for_write(const fuse_file_info* fi) {
  return (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC) != 0;
}

void reply_open_virtual(fuse_req_t req, Handle* handle, fuse_file_info* fi) {
  fi->direct_io = 1;
  fi->keep_cache = 0;
  reply_open(req, handle, fi);
}

TextNode::TextNode(const VirtualOwner& owner, uint64_t number, mode_t permissions, MakeText make)
    : FixedNode(owner, number, S_IFREG | permissions), make_(std::move(make)) {}

void TextNode::open(fuse_req_t req, fuse_file_info* fi) {
  if (opens_for_write(fi)) {
    fuse_reply_err(req, EACCES);
    return;
  }
  reply_open_virtual(req, new TextHandle(make_()), fi);
}

void EntriesHandle::readdir(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  std::vector<char> buffer(size);
  size_t used = 0;
  for (size_t i = static_cast<size_t>(offset); i < entries_.size(); i++) {
    struct stat st {};
    st.st_ino = entries_[i].ino;
    st.st_mode = entries_[i].type;
    const size_t length =
        fuse_add_direntry(req, buffer.data() + used, size - used, entries_[i].name.c_str(), &st,
                          static_cast<off_t>(i + 1));
    if (length > size - used) break;
    used += length;
  }
  fuse_reply_buf(req, buffer.data(), used);
}

void EntriesHandle::readdirplus(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) {
  // Without attributes: ino 0 tells the kernel to look the entry up itself.
  std::vector<char> buffer(size);
  size_t used = 0;
  for (size_t i = static_cast<size_t>(offset); i < entries_.size(); i++) {
    fuse_entry_param entry{};
    entry.attr.st_ino = entries_[i].ino;
    entry.attr.st_mode = entries_[i].type;
    const size_t length =
        fuse_add_direntry_plus(req, buffer.data() + used, size - used, entries_[i].name.c_str(),
                               &entry, static_cast<off_t>(i + 1));
    if (length > size - used) break;
    used += length;
  }
  fuse_reply_buf(req, buffer.data(), used);
}

void open_entries(fuse_req_t req, fuse_file_info* fi, std::vector<VirtualEntry> entries) {
  std::vector<VirtualEntry> all{{".", 0, S_IFDIR}, {"..", 0, S_IFDIR}};
  for (VirtualEntry& entry : all) entry.ino = kVirtualInodes;
  all.insert(all.end(), entries.begin(), entries.end());
  fi->cache_readdir = 0;
  reply_open(req, new EntriesHandle(std::move(all)), fi);
}

FixedDirectory::FixedDirectory(const VirtualOwner& owner, uint64_t number)
    : FixedNode(owner, number, S_IFDIR | 0755) {
  attributes_.timeout = kDirectoryTimeout;
}

void FixedDirectory::add(std::string name, FixedNode* child) {
  children_.emplace(std::move(name), child);
}

void FixedDirectory::lookup(fuse_req_t req, const char* name) {
  const auto it = children_.find(name);
  if (it == children_.end()) {
    reply_no_entry(req);
    return;
  }
  reply_entry(req, it->second->found());
}

void FixedDirectory::opendir(fuse_req_t req, fuse_file_info* fi) {
  std::vector<VirtualEntry> entries;
  for (const auto& [name, child] : children_) {
    fuse_entry_param entry{};
    if (child->describe(&entry) == 0) {
      entries.push_back({name, entry.attr.st_ino, entry.attr.st_mode & S_IFMT});
    }
  }
  open_entries(req, fi, std::move(entries));
}

void reply_no_entry(fuse_req_t req) {
  fuse_reply_err(req, ENOENT);
}

}  // namespace clonefs
