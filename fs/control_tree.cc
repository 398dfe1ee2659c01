#include "fs/control_tree.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <new>
#include <utility>
#include <vector>

#include "fs/daemon_log.h"
#include "fs/metrics_text.h"
#include "fs/words.h"

namespace clonefs {

namespace {

constexpr char kReadme[] =
    R"(This directory belongs to clonefs. It makes instant point-in-time clones of files here.

  clonefs copy NAME PATH...         clone files or directories now ('.' is everything)
  clonefs status [NAME]             how far the background copy is
  clonefs --help                    all commands

The same without the program, from the root of the volume:
  echo copy NAME PATH > .clonefs/ctl       a command; if it fails, so does echo
  cat .clonefs/status                      also status.json, and sessions/NAME/
  ls .clonefs/clones/NAME                  the clone
  mkdir .clonefs/clones/NAME               clone everything now
  rmdir .clonefs/clones/NAME               end and remove it
  mkdir DIR/.clone/NAME                    clone one directory; ls DIR/.clone, rmdir as above
  tail -f .clonefs/events                  what happens; .clonefs/log: the end of the daemon's log
)";

// --- ctl -----------------------------------------------------------------------------------------

// The reply to the last command of an open ctl. Outlives the handle: a command may too.
struct ControlReply {
  std::mutex mutex;
  std::string text;
  size_t read = 0;
  bool busy = false;
  std::condition_variable ended;
  std::string line;       // of the last command
  int error = 0;          // its end, an errno
  bool delivered = true;  // to a write; not yet when that was interrupted
  std::chrono::steady_clock::time_point ended_at;

  // Whether who writes the line again is to get its end, and not the end of another such command.
  static constexpr auto kOwed = std::chrono::seconds(5);
  bool is_owed() const {
    return busy || (!delivered && std::chrono::steady_clock::now() - ended_at < kOwed);
  }

  // IS_DELIVERED: its write is replied to now.
  void set(std::string reply, int code, bool is_delivered) {
    std::lock_guard lock(mutex);
    text = std::move(reply);
    read = 0;
    error = code;
    busy = false;
    delivered = is_delivered;
    ended_at = std::chrono::steady_clock::now();
    ended.notify_all();
  }
};

class ControlHandle : public Handle {
 public:
  ControlHandle(ControlContext& context, std::string session)
      : context_(context), session_(std::move(session)) {}

  // Goes on where the last one ended, wherever the writes have moved the position.
  void read(fuse_req_t req, size_t size, off_t, fuse_file_info*) override {
    std::string part;
    {
      std::lock_guard lock(reply_->mutex);
      part = reply_->text.substr(reply_->read, size);
      reply_->read += part.size();
      if (!reply_->busy) reply_->delivered = true;
    }
    fuse_reply_buf(req, part.data(), part.size());
  }

  void write(fuse_req_t req, fuse_bufvec* data, off_t, fuse_file_info*) override {
    const size_t size = fuse_buf_size(data);
    const std::string line(static_cast<const char*>(data->buf[0].mem), size);
    auto parsed = parse(line);
    bool again = false;
    {
      std::lock_guard lock(reply_->mutex);
      again = line == reply_->line && reply_->is_owed();
      if (reply_->busy && !again) {  // another thread's command on this descriptor
        fuse_reply_err(req, EBUSY);
        return;
      }
      if (!again) begin(*reply_, line);
    }
    if (!parsed || !parsed->command) {
      reply_->set(parsed ? parsed->text : parsed.error().message + "\n", 0, true);
      if (parsed) {
        fuse_reply_write(req, size);
      } else {
        fuse_reply_err(req, parsed.error().code);
      }
      return;
    }
    start(req, std::move(*parsed->command), size, again);
  }

 private:
  Result<ControlLine> parse(const std::string& line) const {
    auto words = split_words(line);
    if (!words) return words.error();
    if (!session_.empty() && !words->empty()) words->insert(words->begin() + 1, session_);
    return parse_control_words(*words);
  }

  // AGAIN: a signal has interrupted the write of the same line, whose command goes on. Who was not killed by it
  // writes again (as many programs do by themselves, after any signal), and gets that command's end.
  void start(fuse_req_t req, Command command, size_t size, bool again) {
    if (!again) log(req, command);
    const auto job = [&context = context_, reply = reply_, command = std::move(command), size,
                      again](const CommandRunner::Cancelled& cancelled) {
      if (!again || is_to_begin_anew(*reply, command, cancelled)) execute(context, *reply, command, cancelled);
      return delivery(reply, size);
    };
    if (context_.runner.run(req, job)) return;
    if (!again) reply_->set("too many commands are running. Try again when some have ended.\n", EAGAIN, true);
    fuse_reply_err(req, again ? EINTR : EAGAIN);  // what goes on may be asked for again
  }

  static void log(fuse_req_t req, const Command& command) {
    const fuse_ctx* caller = fuse_req_ctx(req);
    const bool only_looks = command.verb == Verb::kStatus || command.verb == Verb::kList;
    std::string text = format_command(command);
    text.pop_back();
    spdlog::log(only_looks ? spdlog::level::debug : spdlog::level::info, "command of uid {} (pid {}): {}",
                caller->uid, caller->pid, text.substr(0, 1000));
  }

  // Waits for the end of the command. A wait and a verify end with the interrupt.
  static bool is_to_begin_anew(ControlReply& reply, const Command& command,
                               const CommandRunner::Cancelled& cancelled) {
    std::unique_lock lock(reply.mutex);
    while (reply.busy && !cancelled()) reply.ended.wait_for(lock, std::chrono::milliseconds(100));
    const bool ends = command.verb == Verb::kWait || command.verb == Verb::kVerify;
    if (reply.busy || cancelled() || !ends || reply.error != EINTR) return false;
    begin(reply, reply.line);
    return true;
  }

  // With the mutex held.
  static void begin(ControlReply& reply, std::string line) {
    reply.line = std::move(line);
    reply.text.clear();
    reply.read = 0;
    reply.error = 0;
    reply.delivered = false;
    reply.busy = true;
  }

  static void execute(ControlContext& context, ControlReply& reply, const Command& command,
                      const CommandRunner::Cancelled& cancelled) {
    try {
      auto result = context.executor.execute(command, cancelled);
      if (result) {
        reply.set(std::move(*result), 0, false);
      } else {
        spdlog::info("{} refused: {}", to_string(command.verb), result.error().message);
        reply.set(result.error().message + "\n", result.error().code, false);
      }
    } catch (const std::bad_alloc&) {
      reply.set("", ENOMEM, false);
    }
  }

  static CommandRunner::Reply delivery(const std::shared_ptr<ControlReply>& reply, size_t size) {
    return [reply, size](fuse_req_t req) {
      int error = 0;
      {
        std::lock_guard lock(reply->mutex);
        // Busy: the service ends, and the command goes on.
        reply->delivered = !reply->busy;
        error = reply->busy ? EINTR : reply->error;
      }
      if (error == 0) {
        fuse_reply_write(req, size);
      } else {
        fuse_reply_err(req, error);
      }
    };
  }

  ControlContext& context_;
  const std::string session_;
  const std::shared_ptr<ControlReply> reply_ = std::make_shared<ControlReply>();
};

// `ctl`, `status` and `status.json` of the volume are FixedNodes, those of a session KeyedNodes;
// what they do is the same.

// The kernel lets one write at a time into an inode, and a command is a write for as long as it
// runs. So each lookup of a `ctl` finds an inode of its own: a wait holds up nobody else's
// commands.
std::string unique_key() {
  static std::atomic<uint64_t> next{0};
  return "#" + std::to_string(next.fetch_add(1));
}

class ControlNode : public KeyedNode {
 public:
  ControlNode(KeyedNodes& table, ControlContext& context, const VirtualAttributes& attributes)
      : KeyedNode(table), context_(context), attributes_(attributes) {}
  int describe(fuse_entry_param* entry) override {
    describe_virtual(context_.owner, attributes_, entry);
    context_.access.apply(&entry->attr);
    return 0;
  }
  void open(fuse_req_t req, fuse_file_info* fi) override {
    reply_open_virtual(req, new ControlHandle(context_, ""), fi);
  }
  void setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) override {
    if ((to_set & FUSE_SET_ATTR_UID) != 0) {
      fuse_reply_err(req, EPERM);  // the owner is the volume's
      return;
    }
    context_.access.set(*attr, to_set);
    getattr(req, handle);
  }

 private:
  ControlContext& context_;
  const VirtualAttributes attributes_;
};

// The entry `ctl` of .clonefs.
class ControlEntry : public FixedNode {
 public:
  ControlEntry(ControlContext& context, uint64_t number)
      : FixedNode(context.owner, number, S_IFREG), context_(context) {}
  Node* found() override {
    return nodes_.get(unique_key(),
                      [this] { return new ControlNode(nodes_, context_, attributes_); });
  }

 private:
  ControlContext& context_;
  KeyedNodes nodes_;
};

enum class SessionFile { kDirectory, kControl, kStatus, kStatusJson, kVerify };
constexpr struct {
  const char* name;
  SessionFile file;
  mode_t mode;
} kSessionFiles[] = {{"ctl", SessionFile::kControl, S_IFREG},
                     {"status", SessionFile::kStatus, S_IFREG | 0400},
                     {"status.json", SessionFile::kStatusJson, S_IFREG | 0400},
                     {"verify", SessionFile::kVerify, S_IFREG | 0400}};

// sessions/NAME and the files in it. Gone when the session is.
class SessionNode : public KeyedNode {
 public:
  SessionNode(KeyedNodes& table, ControlContext& context, std::string session, SessionFile file,
              mode_t mode)
      : KeyedNode(table),
        table_(table),
        context_(context),
        session_(std::move(session)),
        file_(file) {
    const uint64_t hash = std::hash<std::string>{}(session_) & ((uint64_t{1} << 40) - 1);
    attributes_.ino = kVirtualInodes + (uint64_t{1} << 59) + hash * 8 + static_cast<uint64_t>(file);
    attributes_.mode = mode;
    attributes_.timeout = 0;
    ::clock_gettime(CLOCK_REALTIME, &attributes_.time);
  }

  static bool exists(ControlContext& context, const std::string& name) {
    const auto session = context.executor.engine().status(name);
    return session && session->state != SessionState::kTerminated;
  }

  int describe(fuse_entry_param* entry) override {
    if (!exists(context_, session_)) return ENOENT;
    describe_virtual(context_.owner, attributes_, entry);
    if (file_ == SessionFile::kControl) context_.access.apply(&entry->attr);
    return 0;
  }

  void lookup(fuse_req_t req, const char* name) override {
    for (const auto& child : kSessionFiles) {
      if (file_ == SessionFile::kDirectory && std::string(name) == child.name) {
        const bool is_control = child.file == SessionFile::kControl;
        reply_entry(req, table_.get(session_ + "/" + (is_control ? unique_key() : name), [&] {
          return new SessionNode(table_, context_, session_, child.file, child.mode);
        }));
        return;
      }
    }
    reply_no_entry(req);
  }

  void opendir(fuse_req_t req, fuse_file_info* fi) override {
    std::vector<VirtualEntry> entries;
    for (const auto& child : kSessionFiles) {
      entries.push_back({child.name, attributes_.ino + static_cast<uint64_t>(child.file), S_IFREG});
    }
    open_entries(req, fi, std::move(entries));
  }

  void open(fuse_req_t req, fuse_file_info* fi) override {
    if (file_ == SessionFile::kControl) {
      reply_open_virtual(req, new ControlHandle(context_, session_), fi);
      return;
    }
    const auto session = context_.executor.engine().status(session_);
    if (opens_for_write(fi) || !session) {
      fuse_reply_err(req, session ? EACCES : ENOENT);
      return;
    }
    std::string text;
    if (file_ == SessionFile::kVerify) {
      const auto report = context_.executor.engine().verified(session_);
      if (report != nullptr) text = verify_lines(*report);
    } else {
      text = file_ == SessionFile::kStatus ? status_details(*session) : session_json(*session);
    }
    reply_open_virtual(req, new TextHandle(std::move(text)), fi);
  }

  void setattr(fuse_req_t req, struct stat* attr, int to_set, Handle* handle) override {
    // Opened with O_TRUNC by a shell: there is nothing to cut off.
    const bool nothing =
        (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) == 0;
    if (file_ == SessionFile::kControl && nothing) {
      getattr(req, handle);
    } else {
      Node::setattr(req, attr, to_set, handle);
    }
  }

 private:
  KeyedNodes& table_;
  ControlContext& context_;
  const std::string session_;
  const SessionFile file_;
  VirtualAttributes attributes_;
};

class SessionsDirectory : public FixedNode {
 public:
  SessionsDirectory(ControlContext& context, uint64_t number)
      : FixedNode(context.owner, number, S_IFDIR | 0755), context_(context) {}

  void lookup(fuse_req_t req, const char* name) override {
    if (!is_session_name(name) || !SessionNode::exists(context_, name)) {
      reply_no_entry(req);
      return;
    }
    reply_entry(req, node(name));
  }
  void opendir(fuse_req_t req, fuse_file_info* fi) override {
    std::vector<VirtualEntry> entries;
    for (const SessionStatus& session : context_.executor.engine().status()) {
      if (session.state == SessionState::kTerminated) continue;
      Node* child = node(session.name);
      fuse_entry_param entry{};
      if (child->describe(&entry) == 0) {
        entries.push_back({session.name, entry.attr.st_ino, S_IFDIR});
      }
      child->forget(1);
    }
    open_entries(req, fi, std::move(entries));
  }

 private:
  Node* node(const std::string& name) {
    return table_.get(name, [&] {
      return new SessionNode(table_, context_, name, SessionFile::kDirectory, S_IFDIR | 0755);
    });
  }
  ControlContext& context_;
  KeyedNodes table_;
};

// `clones`: what the clones mount is mounted on, or the way to it.
class ClonesEntry : public FixedNode {
 public:
  ClonesEntry(const VirtualOwner& owner, uint64_t number)
      : FixedNode(owner, number, S_IFDIR | 0755) {
    attributes_.timeout = kDirectoryTimeout;
  }
  void opendir(fuse_req_t req, fuse_file_info* fi) override { open_entries(req, fi, {}); }
  void lookup(fuse_req_t req, const char*) override { reply_no_entry(req); }
  void readlink(fuse_req_t req) override { fuse_reply_readlink(req, target_.c_str()); }
  void become_link(const std::string& target) {
    target_ = target;
    attributes_.mode = S_IFLNK | 0777;
    attributes_.ino++;  // another object
  }

 private:
  std::string target_;
};

}  // namespace

void ControlAccess::apply(struct stat* st) const {
  std::lock_guard lock(mutex_);
  st->st_mode = (st->st_mode & ~07777u) | mode_;
  if (group_ != static_cast<gid_t>(-1)) st->st_gid = group_;
}

void ControlAccess::set(const struct stat& attr, int to_set) {
  std::lock_guard lock(mutex_);
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) mode_ = attr.st_mode & 0666;
  if ((to_set & FUSE_SET_ATTR_GID) != 0) group_ = attr.st_gid;
}

struct ControlTree::Nodes {
  enum Number : uint64_t {
    kRoot = 1,
    kCtl,
    kStatus,
    kStatusJson,
    kEvents,
    kReadmeFile,
    kSessions,
    kLink,
    kMetrics,
    kEventsJson,
    kLog,
    kClones = 16,
  };

  Nodes(const VirtualOwner& owner, CommandExecutor& executor, CommandRunner& runner,
        CloneTree& clone_view)
      : context{owner, executor, runner, {}},
        view(clone_view),
        root(owner, kRoot),
        ctl(context, kCtl),
        status(owner, kStatus, 0400,
               [&executor] {
                 const Status available = executor.engine().available();
                 if (!available) return available.error().message + "\n";
                 return status_table(executor.engine().status(), false) +
                        pool_line(executor.engine().pool_status());
               }),
        status_json_file(owner, kStatusJson, 0400,
                         [&executor] {
                           return status_json(executor.info(), executor.engine().status(), false);
                         }),
        metrics(owner, kMetrics, 0400,
                [&executor] { return metrics_text(executor.info(), executor.engine().status()); }),
        events(owner, kEvents, kEventsJson, executor.engine()),
        log(owner, kLog, 0400, recent_log),
        readme(owner, kReadmeFile, 0444, [] { return std::string(kReadme); }),
        sessions(context, kSessions),
        clones(owner, kClones) {
    root.add("ctl", &ctl);
    root.add("status", &status);
    root.add("status.json", &status_json_file);
    root.add("metrics", &metrics);
    root.add("events", &events.text());
    root.add("events.json", &events.json());
    root.add("log", &log);
    root.add("README", &readme);
    root.add("sessions", &sessions);
    root.add("clones", &clones);
  }

  ControlContext context;
  CloneTree& view;
  FixedDirectory root;
  ControlEntry ctl;
  TextNode status;
  TextNode status_json_file;
  TextNode metrics;
  EventFiles events;
  TextNode log;
  TextNode readme;
  SessionsDirectory sessions;
  ClonesEntry clones;
  KeyedNodes lists;
};

ControlTree::ControlTree(const VirtualOwner& owner, CommandExecutor& executor,
                         CommandRunner& runner, CloneTree& view)
    : nodes_(std::make_unique<Nodes>(owner, executor, runner, view)) {}

ControlTree::~ControlTree() = default;

Node* ControlTree::control_root() {
  nodes_->root.remember();
  return &nodes_->root;
}

Node* ControlTree::clone_list(const std::string& directory) {
  Nodes& nodes = *nodes_;
  return nodes.lists.get(directory, [&] {
    return new DirectoryClones(nodes.lists, nodes.context.owner, nodes.context.executor.engine(),
                               nodes.context.runner, nodes.view, directory);
  });
}

EventFiles& ControlTree::events() {
  return nodes_->events;
}

void ControlTree::set_clones_link(const std::string& target) {
  nodes_->clones.become_link(target);
}

}  // namespace clonefs
