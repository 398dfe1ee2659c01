#include "fs/control_events.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <chrono>

#include "fs/status_text.h"

namespace clonefs {

namespace {

constexpr size_t kKept = 4 << 20;
// The longest that stop() waits, and a late size: events themselves wake the thread.
constexpr std::chrono::milliseconds kTick{250};

spdlog::level::level_enum level_of(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return spdlog::level::info;
    case Severity::kWarning:
      return spdlog::level::warn;
    case Severity::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

// A reader starts with what was kept when it opened the file.
class EventsHandle : public Handle {
 public:
  EventsHandle(const EventsNode& node, uint64_t base) : node_(node), base_(base) {}
  void read(fuse_req_t req, size_t size, off_t offset, fuse_file_info*) override {
    std::string text;
    node_.read_text(base_ + static_cast<uint64_t>(offset), size, &text);
    fuse_reply_buf(req, text.data(), text.size());
  }

 private:
  const EventsNode& node_;
  const uint64_t base_;
};

int EventsNode::describe(fuse_entry_param* entry) {
  FixedNode::describe(entry);
  std::lock_guard lock(mutex_);
  entry->attr.st_size = static_cast<off_t>(text_.size());
  return 0;
}

void EventsNode::open(fuse_req_t req, fuse_file_info* fi) {
  if (opens_for_write(fi)) {
    fuse_reply_err(req, EACCES);
    return;
  }
  uint64_t base = 0;
  {
    std::lock_guard lock(mutex_);
    base = dropped_;
  }
  reply_open_virtual(req, new EventsHandle(*this, base), fi);
  opened_ = true;
}

void EventsNode::read_text(uint64_t offset, size_t size, std::string* out) const {
  std::lock_guard lock(mutex_);
  // Dropped in the meantime: the reader goes on with the oldest that there is.
  const uint64_t begin = offset > dropped_ ? offset - dropped_ : 0;
  if (begin < text_.size()) *out = text_.substr(begin, size);
}

void EventsNode::append(const std::string& lines, FuseSession& session) {
  if (lines.empty() && !opened_.exchange(false)) return;
  uint64_t size = 0;
  {
    std::lock_guard lock(mutex_);
    text_ += lines;
    if (text_.size() > kKept) {
      const size_t cut = text_.find('\n', text_.size() - kKept / 2) + 1;
      dropped_ += cut;
      text_.erase(0, cut);
    }
    size = text_.size();
  }
  if (size == 0) return;
  char newline = '\n';
  fuse_bufvec stored{};
  stored.count = 1;
  stored.buf[0].size = 1;
  stored.buf[0].mem = &newline;
  // The kernel may not know the node, or know this size already: nothing to do then.
  fuse_lowlevel_notify_store(session.raw(), nodeid_of(this), static_cast<off_t>(size - 1), &stored,
                             static_cast<fuse_buf_copy_flags>(0));
}

void EventFiles::start(FuseSession* session) {
  session_ = session;
  thread_ = std::thread([this] { follow(); });
}

void EventFiles::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void EventFiles::follow() {
  uint64_t last = 0;
  while (!stopping_) {
    engine_.wait_event(last, kTick);
    std::string text;
    std::string json;
    for (const EngineEvent& event : engine_.events(last)) {
      text += event_text(event);
      json += event_json(event);
      spdlog::log(level_of(severity_of(event.kind)), "{}", event.text);
      last = event.number;
    }
    text_.append(text, *session_);
    json_.append(json, *session_);
  }
}

}  // namespace clonefs
