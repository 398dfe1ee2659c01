// Engine: the sessions of one volume. It knows files and descriptors, not FUSE.
//
// The caller (fs/) tells it of every change of the volume, just before the change and, by the end
// of the returned Change, just after; gives it the commands; and reads clones through CloneFile.
//
// Thread safety: every member function may be called from any thread at any time, unless it says
// otherwise. Change and CloneFile::Write belong to the thread that made them: they must end before
// that thread calls a command.
//
// Durability: a command that returned success survives a killed daemon (SIGKILL) at any moment.
#pragma once

#include <sys/stat.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/disk.h"
#include "engine/event.h"
#include "engine/latency.h"
#include "extents/geometry.h"
#include "extents/result.h"

namespace clonefs {

// An object of the volume: its inode number on the volume's own file system. 0 stands for an
// object that cannot be a member (on another file system, beneath a submount).
using SourceId = uint64_t;

enum class SessionState { kCreated, kPrecopy, kCopyInProgress, kCopied, kTerminated, kFailed };
// "Created", "Precopy", ... as DESIGN.md writes them.
const char* to_string(SessionState state);

// What a clone that is not drained survives: power: a power cut too (each track is durable before it
// is overwritten on the source); relaxed: a killed daemon (after a power cut it is Failed).
enum class Durability { kPower, kRelaxed };
const char* to_string(Durability durability);

// When a track cannot be saved before it is overwritten: the clone is Failed and the write goes on, or
// the write gets the error and the clone stays whole.
enum class OnError { kFailClone, kFailWrite };
const char* to_string(OnError policy);

struct EngineOptions {
  int source = -1;            // descriptor of the volume's directory; borrowed for the whole life
  std::string source_name;    // for messages: the path that the user gave
  std::string pool;           // directory; empty: .clonefs/pool in the volume. Created (0700).
  TrackSize track_size;       // default of new sessions
  unsigned max_columns = 64;  // sessions that hold columns at the same time
  Durability durability = Durability::kPower;
  OnError on_error = OnError::kFailClone;
  uint64_t journal_limit = 128 << 20;  // bytes; twice that may be on disk
  uint64_t journal_ahead = 16 << 20;   // bytes of each file that are written before they are needed
  // How long a change of the volume waits for a pool that does not answer (or has no room in its
  // journal); then it goes by on_error. 0: for ever, and all is done on the caller's thread.
  std::chrono::milliseconds stall_limit{30000};
  std::string boot;           // id of this boot of the machine; empty: ask the kernel (tests)
  // The pool is not opened: there are no clones, every command is refused, changes are let through.
  bool no_clones = false;
  bool copy_threads = true;   // false: nothing is copied but by step() (tests)
  // How many pieces (up to 1 MiB of a file, or a small file) are copied at the same time; 0: as suits the
  // machine.
  unsigned copy_workers = 0;
  // Two changes of a file as close to each other as this may have the same ctime: two of the kernel's
  // ticks. (Where ctimes have no fractions it is two seconds.)
  std::chrono::nanoseconds ctime_tick{20'000'000};
  // A generation that somebody opened or closed something of as short ago as this is in use: who goes
  // through it by paths has nothing open between two files.
  std::chrono::milliseconds quiet{200};
  // Of files with so many tracks each one that is written after the consistency point is noted, for
  // RECREATE; smaller ones are compared faster than that.
  uint64_t tracked_at_least = 16;
  // Drained tracks share their blocks with the source where the file system can (FICLONERANGE). Then no
  // data is written, but each later overwrite of the source goes to another place on the disk.
  bool share = true;
};

// How fast a copy program is: bytes a second, or one of these.
inline constexpr uint64_t kPaceMax = 0;
inline constexpr uint64_t kPaceAuto = UINT64_MAX;  // it keeps out of the foreground's way (engine/pace.h)

struct CreateOptions {
  std::string name;
  std::vector<std::string> paths;  // relative to the volume, "." is all of it
  bool precopy = false;            // start precopy at once
  bool nocopy = false;             // no background copy
  bool activate = false;           // ACTIVE COPY
  uint64_t pace = kPaceAuto;
  bool thin = false;               // don't ask whether the pool has room for all
  std::vector<ByteRange> extents;  // empty: whole files. Else: this part of each file
  std::optional<TrackSize> track_size;
  // By the clock (seconds since 1970; 0: not): precopy begins, the session is activated, together with all
  // others of that second. The clone is removed TTL_S seconds after its consistency point (0: never).
  int64_t precopy_at = 0;
  int64_t activate_at = 0;
  uint64_t ttl_s = 0;
};

// Who keeps a clone from being removed.
struct CloneHold {
  std::string tag;
  timespec since{};
};

// RECREATE: a new consistency point for the name and paths of a clone that is there.
struct RecreateOptions {
  std::vector<std::string> names;
  bool precopy = false;  // start precopy at once
  // The clone is locked until its activation and brought up to date where it lies. Else the generation
  // before can be read until then, and what changed lies beside it.
  bool in_place = false;
  unsigned keep = 0;  // older generations that are kept after the activation, as NAME.1, NAME.2 ...
  // As CreateOptions has them. TTL_S: of the new generation; as that of the one before when it is not given.
  int64_t precopy_at = 0;
  int64_t activate_at = 0;
  std::optional<uint64_t> ttl_s;
};

struct SessionStatus {
  std::string name;
  SessionState state = SessionState::kCreated;
  std::string op;         // the operation: "create", "precopy", "drain", "none" ...
  std::string op_status;  // "running", "done", "waiting", "failed"; "precopied" when every pass
                          // finds nothing left to copy; "retrying" after an error, "paused" after
                          // several: until resume()
  timespec created_at{};
  timespec activated_at{};  // 0: not yet. The consistency point
  std::string error;        // why it failed, or why the copy program does not go on
  std::vector<std::string> paths;
  std::vector<ByteRange> extents;  // empty: whole files
  bool nocopy = false;
  uint64_t track_size = 0;
  uint64_t files = 0;    // regular files
  uint64_t objects = 0;  // all
  uint64_t tracks_total = 0;
  uint64_t tracks_pending = 0;
  uint64_t tracks_precopied = 0;
  uint64_t tracks_recopied = 0;
  uint64_t cofw_tracks = 0;
  uint64_t clone_read_tracks = 0;  // tracks that clone readers took from the source
  uint64_t tracks_inherited = 0;   // that the generation before had already: not copied
  timespec previous_at{};          // consistency point of the generation that is shown until the
                                   // activation of this one; 0: none
  std::string last_track;          // "PATH:TRACK" that was copied last, "" before
  uint64_t bytes_total = 0;
  uint64_t bytes_copied = 0;
  uint64_t rate_limit = 0;  // bytes a second, 0: none
  bool pace_auto = true;
  uint64_t rate_bytes_per_s = 0;
  int64_t eta_s = -1;              // -1: unknown
  std::vector<unsigned> sessions;  // ids of its columns
  std::string destination;         // directory of the clone in the pool
  timespec verified_at{};          // end of the last verify since the mount; 0: none
  uint64_t damaged = 0;            // what it found
  std::string transfer;            // how the copy program moves data: "write", "server", "share"
  uint64_t fence_ns = 0;           // how long the fence of its activation stood
  uint64_t ttl_s = 0;              // as CreateOptions has them
  timespec expires_at{};           // 0: never, or it is not activated yet
  timespec precopy_at{}, activate_at{};
  std::string missed;              // what was to be done at a time and was not, and why
  std::vector<CloneHold> holds;
  LatencyCounts cofw_latency;      // of changes of the source that waited for its copies, since the mount
};

// The pool's file system, as it was looked at last (every second).
struct PoolStatus {
  bool known = false;  // it has been looked at
  uint64_t free_bytes = 0;
  uint64_t needed_bytes = 0;      // what running sessions may still take, at most
  uint64_t used_bytes_per_s = 0;  // by whomever
  int64_t full_in_s = -1;         // at this rate; -1: there is room for all, or nothing is used
};

// What the engine has met since the mount, of all sessions, also those that are gone.
struct EngineCounts {
  LatencyCounts cofw;        // changes of the source that waited for copies
  LatencyCounts fence;       // how long the fences of activations stood
  LatencyCounts fence_wait;  // changes that waited at one
  uint64_t longest_fence_wait_ns = 0;  // at the last one
  uint64_t cofw_tracks = 0;     // copied for these changes
  uint64_t clones_failed = 0;   // since, or at the mount
  uint64_t copy_errors = 0;     // of copy programs: tried again
  uint64_t writes_refused = 0;  // changes that got the error of a copy (OnError::kFailWrite)
};

// What `clonefs extents` shows of one member.
struct MemberExtents {
  std::string path;
  uint64_t size = 0;
  uint64_t track_size = 0;
  struct Run {
    Extent extent;
    std::string bits;  // "101" clone PB, precopy PB, IND
  };
  std::vector<Run> runs;  // tracks outside the extents are left out
};

// How far a session was at one moment.
struct ProgressSample {
  timespec at{};
  SessionState state = SessionState::kCreated;
  uint64_t tracks_pending = 0;
  uint64_t tracks_precopied = 0;
  uint64_t bytes_copied = 0;
  uint64_t cofw_tracks = 0;
};

// What `clonefs map` draws: all tracks of a session's members, one behind the other, in at most so many
// cells as were asked for.
struct TrackMap {
  std::string name;
  timespec at{};
  SessionState state = SessionState::kCreated;
  uint64_t track_size = 0;
  uint64_t tracks = 0;
  uint64_t tracks_per_cell = 0;
  struct Cell {  // how many tracks are
    uint64_t waiting = 0;    // not on the clone side
    uint64_t precopied = 0;
    uint64_t rewritten = 0;  // as waiting, but was precopied once
    uint64_t drained = 0;
    uint64_t outside = 0;    // holes, or not selected
  };
  std::vector<Cell> cells;
  std::vector<ProgressSample> samples;  // since the mount, oldest first
};

// What `clonefs verify` found.
struct VerifyReport {
  std::string name;
  timespec at{};               // its end
  uint64_t objects = 0;        // that were looked at
  uint64_t files = 0;          // of these regular files
  uint64_t altered = 0;        // changed by the clone's users: not checked
  uint64_t tracks = 0;         // compared with their digests
  uint64_t bytes = 0;          // in these
  uint64_t source_tracks = 0;  // not copied yet: read on the source
  uint64_t damaged = 0;        // findings, also those that are not kept
  struct Finding {
    std::string path;
    ByteRange range;   // length 0: not of its data
    std::string what;  // "is not what was copied", "cannot be read: ..."
  };
  std::vector<Finding> findings;
};

namespace detail {
class Core;
struct Session;
struct Object;
struct ChangeState;
}  // namespace detail

// A change of the volume that is about to happen. Keep it until the change has happened (or
// failed), then let it go: what it held (the fence, tracks) is released and what changed is noted.
class Change {
 public:
  Change(Change&&) noexcept;
  Change& operator=(Change&&) noexcept;
  ~Change();

  // 0, or the errno with which the change must be refused; then nothing is held.
  int error() const { return error_; }

 private:
  friend class detail::Core;
  Change();
  std::unique_ptr<detail::ChangeState> state_;
  int error_ = 0;
};

// Names and objects that a change of names touches. Unused ids are 0.
struct NamesChange {
  SourceId parents[2] = {0, 0};  // directories whose entries change
  std::string_view names[2];     // the entry of parents[i] that changes; "": any of them
  SourceId objects[2] = {0, 0};  // objects that gain or lose a name (link, rename, unlink)
  // The object that loses the name VICTIM_NAME in VICTIM_DIR (unlink, rmdir, rename over): if it
  // is the last name of a member whose tracks are still needed, the engine keeps the inode.
  SourceId victim = 0;
  int victim_dir = -1;  // descriptor, O_PATH will do
  std::string_view victim_name;
};

// A clone as the clones mount shows it.
struct CloneInfo {
  std::string name;
  unsigned slot = 0;  // small number, the same for each generation of the name; > 0
  SessionState state = SessionState::kCopied;
};

// One activated clone. Holding it keeps nothing from being deleted: after TERMINATE with force or
// delete its calls answer ESTALE, after a failure EIO.
class Clone {
 public:
  virtual ~Clone() = default;
  virtual const std::string& name() const = 0;
  virtual unsigned slot() const = 0;
  virtual int error() const = 0;  // 0, ESTALE, EIO
  // The same for changes: EROFS while the next generation is being prepared.
  virtual int refuses_change() const = 0;
  // Another for each generation of a name.
  virtual uint64_t incarnation() const = 0;
  // An open file or directory: while it is there, and EngineOptions::quiet after it, no other generation takes
  // this one's place; RECREATE waits for those that WRITE. nullptr: that is about to happen (ESTALE).
  virtual std::shared_ptr<void> use(bool write = false) = 0;
  virtual int root() const = 0;   // descriptor (O_PATH|O_DIRECTORY) of its tree in the pool; borrowed

  // Turns the attributes of an object in the pool into those that the clone shows: inode number
  // (stable, unique in the clones mount), ctime, and mtime/atime while tracks are pending.
  virtual void present(struct stat* st) const = 0;
  virtual uint64_t present_ino(uint64_t pool_ino) const = 0;  // the same for readdir
  // The object that has this number has this file handle. Where that is another than the member's, the
  // clone's user removed the member, and the pool gave its number to a new object: from now on it is
  // none of the member's. To be said before anything else is asked of an object that was looked up.
  virtual void seen(uint64_t pool_ino, std::string_view handle) = 0;
  // The clone's user changed the object (data, attributes, names): from now on its own ctime shows.
  // TIMES: what utimensat set explicitly while tracks are pending, with UTIME_OMIT/UTIME_NOW.
  virtual void changed(uint64_t pool_ino, const timespec* times = nullptr) = 0;
  // The clone's user is about to change data of a file (past CloneFile: by passthrough), or names in
  // a directory, where VICTIM may lose one: verify does not take it for damage. 0 or -errno: then it
  // must not be changed. It costs a sync for the first change of each object.
  virtual int about_to_change(uint64_t pool_ino, uint64_t victim = 0) = 0;
};

// An open regular file of a clone. FD (of the pool's file, O_RDWR or O_RDONLY as permitted) stays
// the caller's and must outlive it.
class CloneFile {
 public:
  virtual ~CloneFile() = default;
  // No IND bit is left (and none can come back): I/O may go to FD directly, by passthrough too.
  virtual bool drained() const = 0;
  // Bytes read, or -errno. A read of a track with IND comes from the source.
  virtual ssize_t read(void* data, size_t size, uint64_t offset) = 0;
  // Bytes written, or -errno. Tracks that it covers in part are copied first.
  virtual ssize_t write(const void* data, size_t size, uint64_t offset) = 0;
  virtual int truncate(uint64_t size) = 0;
  // fsync, fdatasync: what was written to the clone's file survives a power cut.
  virtual int sync(bool data_only) = 0;
  // fallocate(2) of the clone's file, all modes.
  virtual int allocate(int mode, uint64_t offset, uint64_t length) = 0;
  // SEEK_DATA and SEEK_HOLE: pending tracks are data. Offset or -errno.
  virtual int64_t seek(uint64_t offset, int whence) = 0;
};

class Engine {
 public:
  // Opens or makes the pool and takes up its sessions again. Errors: the pool cannot be used
  // (locked by another daemon: EBUSY; of another volume; of a newer format; damaged).
  static Result<std::unique_ptr<Engine>> open(EngineOptions options, Disk& disk = posix_disk());
  // Without close() before, this is what SIGKILL would do, less the crash: for tests.
  ~Engine();
  // A clean end: no command or change may run any more. Records what the next open checks.
  Status close();

  // --- changes of the volume -----------------------------------------------------------------
  // Data of RANGE changes (write, fallocate, copy_file_range, page write-back). FD: a descriptor of
  // the file that can be read, or -1.
  Change change_data(SourceId id, int fd, ByteRange range);
  // The size becomes SIZE.
  Change change_size(SourceId id, int fd, uint64_t size);
  // Mode, owner, times, xattrs, ACLs change.
  Change change_attributes(SourceId id);
  // Entries of directories change.
  Change change_names(const NamesChange& names);

  // A request of the volume that is no change, for as long as the returned object lives: an automatic pace
  // goes by how long these and the changes take.
  class Foreground {
   public:
    explicit Foreground(Engine& engine);
    ~Foreground();
    Foreground(const Foreground&) = delete;
    Foreground& operator=(const Foreground&) = delete;

   private:
    detail::Core* core_ = nullptr;  // nobody asks: nullptr
    bool beside_ = false;
    std::chrono::steady_clock::time_point begin_;
  };

  // --- what the activation asks of the caller -------------------------------------------------
  // Called in ACTIVATE outside the fence, several times: make the dirty pages of every file with a
  // writable open for which WANTED is true reach the engine, and wait. Set before commands come.
  using Wanted = std::function<bool(SourceId)>;
  void set_flush(std::function<Status(const Wanted&)> flush);
  // Called without locks when the list of clones or the state of one changes (activated, drained,
  // gone): for notifications to the kernel.
  // REPLACED: what was found there before is another's now.
  void set_clones_changed(std::function<void(const std::string& name, bool replaced)> changed);

  // --- commands --------------------------------------------------------------------------------
  Status create(const CreateOptions& options);
  // Of clones that are Copied, Terminated or Failed. All that it prepares is activated by activate().
  Status recreate(const RecreateOptions& options);
  Status precopy(const std::vector<std::string>& names);
  Status activate(const std::vector<std::string>& names);
  Status terminate(const std::vector<std::string>& names, bool force);
  // Removes the clone: a drained or terminated one with its tree. FORCE: any.
  Status remove(const std::vector<std::string>& names, bool force = false);
  // The copy programs that errors have paused go on; those that run are not held up.
  Status resume(const std::vector<std::string>& names);
  // While somebody holds a clone nothing removes it: not delete, terminate with force, its ttl (EBUSY).
  // EEXIST, ENOENT: TAG holds it already, does not hold it.
  Status hold(const std::string& name, const std::string& tag);
  Status release(const std::string& name, const std::string& tag);
  // PACE: bytes a second, kPaceMax, kPaceAuto.
  Status set_rate(const std::string& name, uint64_t pace);
  enum class Goal { kPrecopied, kCopied };
  // Waits until the session has reached the goal. ETIMEDOUT; an error at once when it can't.
  Status wait(const std::string& name, Goal goal, std::optional<std::chrono::milliseconds> timeout);

  // Reads all of an activated clone and compares it with the digests that were taken when it was
  // copied; CANCELLED is asked now and then. Errors: it cannot be done, or not to its end. Damage is
  // no error but in the report.
  Result<VerifyReport> verify(const std::string& name,
                              const std::function<bool()>& cancelled = nullptr);
  std::shared_ptr<const VerifyReport> verified(const std::string& name) const;  // the last one

  std::vector<SessionStatus> status() const;  // terminated ones too, by name
  Result<SessionStatus> status(const std::string& name) const;
  PoolStatus pool_status() const;  // never waits for the pool
  EngineCounts counts() const;
  Result<std::vector<MemberExtents>> extents(const std::string& name) const;
  // CELLS: at least 1. May wait for the copy program, as extents().
  Result<TrackMap> track_map(const std::string& name, size_t cells) const;

  // --- events ----------------------------------------------------------------------------------
  // Events after number AFTER, oldest first; a bounded number is kept.
  std::vector<EngineEvent> events(uint64_t after) const;
  // Waits until there is an event after AFTER or the time is over. True: there is.
  bool wait_event(uint64_t after, std::chrono::milliseconds timeout) const;
  // Adds one.
  void log(EventKind kind, const std::string& name, const std::string& text);

  // --- clones ------------------------------------------------------------------------------------
  std::vector<CloneInfo> clones() const;  // activated ones, failed too, by name
  // ENOENT: no such clone, or it is locked (not activated).
  Result<std::shared_ptr<Clone>> clone(const std::string& name) const;
  // POOL_INO is FD's.
  Result<std::unique_ptr<CloneFile>> open_clone_file(const std::shared_ptr<Clone>& clone, int fd,
                                                     uint64_t pool_ino);

  // --- for tests: the copy program as a step function ------------------------------------------
  // One step of the copy program of a session: false when nothing was left to do. In two halves, so
  // that other things can happen between: read reads a chunk, finish puts it on the clone side.
  bool step(const std::string& name);
  bool step_read(const std::string& name);
  bool step_finish(const std::string& name);

  // From now on what is to happen by the clock happens. Once, when set_flush() and the like were called.
  void start_timekeeping();
  // One look at the clock: does what is due. SINCE_BOOT goes on whatever the clock is set to.
  void keep_time(const timespec& wall, std::chrono::nanoseconds since_boot);

  // What the background does every few seconds with durability power.
  Status checkpoint();

  // Asks the pool something, and waits for an answer for no longer than the stall limit. False: close()
  // and the destructor would wait for it.
  bool pool_answers();
  // Whether a change may have to wait for a copy or for the fence: there are sessions that watch.
  bool changes_may_wait() const;

  Durability durability() const;
  struct JournalStatistics {
    uint64_t records = 0;
    uint64_t commits = 0;  // records / commits: how many writers shared one sync
    uint64_t bytes = 0;
  };
  JournalStatistics journal_statistics() const;
  const std::string& pool_path() const;
  // Why every command is refused: opened with no_clones.
  Status available() const;
  // Device of the volume: objects with another st_dev have SourceId 0.
  dev_t device() const;

 private:
  explicit Engine(std::unique_ptr<detail::Core> core);
  std::unique_ptr<detail::Core> core_;
};

// Names of sessions: [A-Za-z0-9][A-Za-z0-9._-]{0,63}.
bool is_session_name(std::string_view name);

}  // namespace clonefs
