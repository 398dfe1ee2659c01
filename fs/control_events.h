// The file `.clonefs/events`: one line an event, oldest first, growing: `tail -f` follows it.
//
// In a connection with writeback cache the kernel never takes a size from attributes; a stored byte
// (fuse_lowlevel_notify_store) is what makes the file grow for those who watch its size. A thread
// of its own does that. Thread safety: any thread.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <thread>

#include "engine/engine.h"
#include "fs/fuse_session.h"
#include "fs/virtual_nodes.h"

namespace clonefs {

class EventsNode : public FixedNode {
 public:
  EventsNode(const VirtualOwner& owner, uint64_t number, Engine& engine);
  ~EventsNode() override { stop(); }

  // SESSION: the one that serves this node, until stop().
  void start(FuseSession* session);
  void stop();

  int describe(fuse_entry_param* entry) override;
  void open(fuse_req_t req, fuse_file_info* fi) override;

 private:
  friend class EventsHandle;
  void follow();
  void read_text(uint64_t offset, size_t size, std::string* out) const;

  Engine& engine_;
  FuseSession* session_ = nullptr;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> opened_{false};  // the kernel may have missed a size since

  mutable std::mutex mutex_;
  std::string text_;      // what is kept
  uint64_t dropped_ = 0;  // bytes that stood before it
};

}  // namespace clonefs
