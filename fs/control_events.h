// The files `.clonefs/events` and `.clonefs/events.json`: one line an event, oldest first, growing:
// `tail -f` follows them. What happens goes to the log as well.
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

// A file that grows at its end, and of which the beginning goes when it is long.
class EventsNode : public FixedNode {
 public:
  EventsNode(const VirtualOwner& owner, uint64_t number)
      : FixedNode(owner, number, S_IFREG | 0400) {}

  // SESSION serves this node.
  void append(const std::string& lines, FuseSession& session);

  int describe(fuse_entry_param* entry) override;
  void open(fuse_req_t req, fuse_file_info* fi) override;

 private:
  friend class EventsHandle;
  void read_text(uint64_t offset, size_t size, std::string* out) const;

  std::atomic<bool> opened_{false};  // the kernel may have missed a size since

  mutable std::mutex mutex_;
  std::string text_;      // what is kept
  uint64_t dropped_ = 0;  // bytes that stood before it
};

class EventFiles {
 public:
  EventFiles(const VirtualOwner& owner, uint64_t text_number, uint64_t json_number, Engine& engine)
      : engine_(engine), text_(owner, text_number), json_(owner, json_number) {}
  ~EventFiles() { stop(); }

  EventsNode& text() { return text_; }
  EventsNode& json() { return json_; }

  // SESSION: the one that serves both, until stop().
  void start(FuseSession* session);
  void stop();

 private:
  void follow();

  Engine& engine_;
  EventsNode text_, json_;
  FuseSession* session_ = nullptr;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
};

}  // namespace clonefs
