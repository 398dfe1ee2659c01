// What the nodes of the live mount share. Private to fs/volume.cc and fs/source_*.cc.
//
// Locks, each alone or in this order: a shard of the node table; DescriptorCache; a node's own.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "fs/inode_ref.h"
#include "fs/volume.h"

namespace clonefs {

class SourceNode;
class SourceDirectory;

// The nodes that the kernel knows, by device and inode number.
class NodeTable {
 public:
  struct Key {
    dev_t device;
    ino_t ino;
    bool operator==(const Key&) const = default;
  };

  // The node of KEY and HANDLE with one more lookup, or MAKE's, which is put in. MAKE may return
  // null. A node of the same key with another handle is of a deleted file whose number was given
  // away again: it is no longer found.
  SourceNode* find_or_make(const Key& key, const HandleBytes& handle,
                           const std::function<SourceNode*()>& make);
  // The node with one more lookup, or null.
  SourceNode* find(const Key& key);
  // COUNT lookups less, deleted and no longer found at none.
  void forget(SourceNode* node, uint64_t count);
  // At the end: the kernel gives nothing back when a mount ends.
  void clear();
  size_t size() const;

 private:
  struct Hash {
    size_t operator()(const Key& key) const {
      return std::hash<uint64_t>()(key.ino * 0x9e3779b97f4a7c15u + key.device);
    }
  };
  struct Shard {
    mutable std::mutex mutex;
    std::unordered_map<Key, SourceNode*, Hash> nodes;
    std::unordered_set<SourceNode*> replaced;  // still known to the kernel
  };
  static constexpr size_t kShards = 64;
  Shard& shard(const Key& key) { return shards_[(Hash()(key) >> 7) % kShards]; }
  std::array<Shard, kShards> shards_;
};

// Bounds the descriptors that nodes keep and could open again: the oldest goes first.
class DescriptorCache {
 public:
  explicit DescriptorCache(size_t limit) : limit_(limit) {}
  // NODE keeps FD (or the one it has) until it is that one's turn to go.
  void put(SourceNode* node, std::shared_ptr<const UniqueFd> fd);
  // NODE keeps FD (or the one it has) for as long as it lives.
  void pin(SourceNode* node, UniqueFd fd);
  void remove(SourceNode* node);

 private:
  const size_t limit_;
  std::mutex mutex_;
  std::list<SourceNode*> order_;
};

// Nodes with a writable open that is not released: those that may have dirty pages in the kernel.
class WritableSet {
 public:
  // MTIME: what the kernel knows of the file; taken with the first open.
  void add(SourceNode* node, const timespec& mtime);
  void remove(SourceNode* node);
  // NODE is one of them: gives it one more lookup.
  bool remember(SourceNode* node);
  bool contains(SourceNode* node);
  std::vector<SourceNode*> wanted(const Engine::Wanted& wanted);

 private:
  std::mutex mutex_;
  std::unordered_map<SourceNode*, unsigned> opens_;
};

// The way to an open node through the mount, for the daemon's own threads that serve no requests.
// The root directory resolves "PREFIX<node>", a name that nobody can guess, to the very same node.
// Outlives the volume where a helper thread is still waiting for the kernel.
struct SelfAccess {
  std::string prefix;
  std::mutex mutex;
  std::shared_ptr<const UniqueFd> mount;  // the volume's root, opened through the mount
  std::set<pid_t> threads;                // those that may go this way; opens are for flushing only

  std::string name_of(const SourceNode* node) const;
  // The node of NAME, null: it is not such a name.
  SourceNode* node_of(const char* name) const;
  bool is_helper(pid_t thread);
  std::shared_ptr<const UniqueFd> mounted();
};

// Runs jobs that touch the mount, one after the other, in a thread of its own.
class JobThread {
 public:
  JobThread();
  ~JobThread();  // drops what has not begun: DROPPED is called for it
  void post(std::function<void()> job, std::function<void()> dropped);

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<std::function<void()>, std::function<void()>>> jobs_;
  bool stop_ = false;
  std::thread thread_;
};

class SourceVolume {
 public:
  static Result<std::unique_ptr<SourceVolume>> open(Engine& engine, VolumeOptions options);
  ~SourceVolume();

  Engine& engine() { return engine_; }
  const VolumeOptions& options() const { return options_; }
  dev_t device() const { return device_; }
  SourceDirectory* root() { return root_; }
  // close(2) of a file of the source can tell of a failed write.
  bool close_tells() const { return close_tells_; }

  // The node of the object NAME in DIRECTORY with one more lookup; null and *error.
  SourceNode* node_at(SourceDirectory* directory, int dir_fd, const char* name, struct stat* st,
                      int* error);
  // The node of the file behind FD, just created as NAME in DIRECTORY; null: without a name.
  SourceNode* node_of(SourceDirectory* directory, int fd, const char* name, struct stat* st,
                      int* error);

  // Path of a directory relative to the volume, "." the root; "" if it is not beneath it.
  std::string path_of(int dir_fd) const;

  Status attach_mount(const std::string& mountpoint);
  void detach_mount();
  Status flush_dirty(const Engine::Wanted& wanted);
  // Asks the kernel for the size that applications see, which includes what it has not written
  // back, and calls DONE with it from a helper thread; -1: not known.
  void ask_size(SourceNode* node, std::function<void(int64_t)> done);

  NodeTable nodes;
  DescriptorCache descriptors;
  WritableSet writable;
  std::shared_ptr<SelfAccess> self;
  // Large reads leave nothing in the source's cache; false once the source refuses that.
  std::atomic<bool> reads_uncached{true};
  VirtualEntries* virtual_entries = nullptr;

 private:
  SourceVolume(Engine& engine, VolumeOptions options, size_t descriptor_limit);
  // OPEN gives an O_PATH descriptor of the object, where one is needed.
  SourceNode* enter(SourceDirectory* directory, const char* name, const struct stat& st,
                    HandleBytes handle, const std::function<UniqueFd()>& open, int* error);

  Engine& engine_;
  const VolumeOptions options_;
  dev_t device_ = 0;
  bool close_tells_ = false;
  SourceDirectory* root_ = nullptr;
  std::mutex flush_mutex_;
  std::mutex jobs_mutex_;
  std::unique_ptr<JobThread> jobs_;
};

}  // namespace clonefs
