// Core: the engine's parts and how they call each other. Engine (engine.h) is its public face.
//
//   interception.cc   changes of the volume: COFW, marks, limbo
//   skeleton.cc       the clone's tree in the pool: built, brought up to date, taken apart
//   track_ops.cc      the only code that changes bits, and the copying of tracks
//   copy_program.cc   precopy and drain as a step function; the threads that run it
//   failures.cc       what an error makes of a session
//   refresh.cc        RECREATE: the generations of a name
//   commands.cc       CREATE, PRECOPY, ACTIVATE, TERMINATE, delete, wait
//   recovery.cc       opening a pool, taking up its sessions, the clean end
//   clone_access.cc   reading and writing activated clones
//   timekeeping.cc    what happens by the clock; holds
//   verify.cc         comparing a clone with its digests
//   status.cc         what users see, what is counted
#pragma once

#include <fcntl.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "engine/catalog.h"
#include "engine/copy_crew.h"
#include "engine/engine.h"
#include "engine/event_log.h"
#include "engine/fence.h"
#include "engine/journal.h"
#include "engine/moment.h"
#include "engine/pace.h"
#include "engine/pool_guard.h"
#include "engine/pool_watch.h"
#include "engine/session.h"
#include "engine/source_map.h"
#include "engine/timetable.h"

namespace clonefs::detail {

using SessionPtr = std::shared_ptr<Session>;

// Of session ID, in tracks/.
inline std::string digests_name(uint64_t id) { return std::to_string(id) + ".digests"; }
// Of its tree on the stage, when it is being removed.
inline std::string removed_name(uint64_t id) { return "removed-" + std::to_string(id); }

// What a Change holds and what it does at its end.
struct ChangeState {
  Core* core = nullptr;
  unsigned fence_slot = 0;
  uint64_t epoch = 0;
  Pace::Clock::time_point begin{};  // 0: nobody asks how long it takes
  bool beside = false;              // something was copied when it began
  struct Part {
    SourceId id = 0;
    bool data = false;  // range changes
    ByteRange range;
    bool entries = false;  // of a directory
    std::string name;      // the entry; "": any
    Attachments seen;      // when the change began
  };
  std::vector<Part> parts;
  Fd victim;  // pins the object that loses a name while sessions before activation know it
  SourceId victim_id = 0;
};

class Core {
 public:
  Core(EngineOptions options, Disk& disk)
      : options_(std::move(options)),
        disk_(disk),
        fence_(options_.stall_limit),
        crew_(copy_workers(options_) - 1, idle_priority),
        guard_(options_.stall_limit) {}
  ~Core();

  // recovery.cc
  Status open();
  Status close();
  bool pool_answers();
  bool changes_may_wait() const { return !sources_.only_tracked(); }

  // interception.cc
  Change begin_change();
  Change change_data(SourceId id, int fd, ByteRange range);
  Change change_size(SourceId id, int fd, uint64_t size);
  Change change_attributes(SourceId id);
  Change change_names(const NamesChange& names);
  void end_change(ChangeState& state);
  // 0, or -errno when the name must not go.
  int keep_in_limbo(const Source& source, const Attachments& attachments, int fd);
  int open_limbo();
  bool any_needed(const Attachments& attachments) const;
  void release_limbo(const Source& source);
  void sweep_limbo();

  // commands.cc
  Status create(const CreateOptions& options);
  Status precopy(const std::vector<std::string>& names);
  Status activate(const std::vector<std::string>& names);
  Status terminate(const std::vector<std::string>& names, bool force);
  Status remove(const std::vector<std::string>& names, bool force);
  // refresh.cc
  Status recreate(const RecreateOptions& options);
  Status resume(const std::vector<std::string>& names);
  Status set_rate(const std::string& name, uint64_t pace);
  Status wait(const std::string& name, Engine::Goal goal,
              std::optional<std::chrono::milliseconds> timeout);

  // timekeeping.cc
  Status hold_clone(const std::string& name, const std::string& tag);
  Status release_clone(const std::string& name, const std::string& tag);
  // EBUSY: somebody holds it.
  Status check_held(const Session& s) const;
  bool is_held(const Session& s) const { return !timetable_.of(s.id).holds.empty(); }
  Status check_schedule(const CreateOptions& o);
  Status put_schedule(const Session& s, const Schedule& schedule);
  Status load_timetable();
  // When something is to be done next, in seconds since 1970.
  int64_t keep_time(const timespec& wall, std::chrono::nanoseconds since_boot);
  void start_timekeeping();
  void stop_timekeeping();

  // verify.cc
  Result<VerifyReport> verify(const std::string& name, const std::function<bool()>& cancelled);
  std::shared_ptr<const VerifyReport> verified(const std::string& name) const;

  // status.cc
  std::vector<SessionStatus> status() const;
  Result<SessionStatus> status(const std::string& name) const;
  Result<std::vector<MemberExtents>> extents(const std::string& name);
  EngineCounts counts() const;
  // track_map.cc
  Result<TrackMap> track_map(const std::string& name, size_t cells);

  // clone_access.cc
  std::vector<CloneInfo> clones() const;
  Result<std::shared_ptr<Clone>> clone(const std::string& name);
  Result<std::unique_ptr<CloneFile>> open_clone_file(const std::shared_ptr<Clone>& clone, int fd,
                                                     uint64_t pool_ino);
  // The clone's user is about to change the object's data or names. 0 or -errno.
  int alter(Session& session, Object& object);

  // copy_program.cc
  bool step(const SessionPtr& session);
  bool step_read(const SessionPtr& session);
  bool step_finish(const SessionPtr& session);
  static unsigned copy_workers(const EngineOptions& options);
  static void idle_priority();  // of the calling thread's I/O: the foreground's goes first

  SessionPtr find(const std::string& name) const;
  Status available() const;                        // Engine::available
  Error no_clone(const std::string& name) const;  // what is said when there is no such name
  EventLog& events() { return events_; }
  const EventLog& events() const { return events_; }

  // --- track_ops.cc ---
  using Transition = TrackBits (*)(TrackBits);
  // Applies TRANSITION to each track of EXTENT for which WHICH is true: once the session is active on
  // disk first, then in memory. The caller holds what the transition needs (STATES.md). 0 or -errno.
  int change_bits(Session& s, Object& o, Extent extent, bool (*which)(TrackBits),
                  Transition transition);
  int change_bits_locked(Session& s, Object& o, Extent extent, bool (*which)(TrackBits),
                         Transition transition);
  // Before activation: tracks from FIRST on are no part of the member any more.
  void leave_tracks(Session& s, Object& o, uint64_t first);
  // Before activation: what the table has of O is not what memory says.
  void note_table(Session& s, Object& o);
  // Brings the table up to that. With the work mutex held, unless the session is active.
  Status flush_tables(Session& s);
  // Before activation: bytes of RANGE are about to be, or were, written on the source.
  void mark_written(Session& s, Object& o, ByteRange range);
  // After it: RANGE of the source is about to be written. The next generation copies it.
  void note_changed(Session& s, Object& o, ByteRange range);
  bool is_worth_tracking(const Object& o) const {
    return o.tracked && o.column != nullptr && o.column->count >= options_.tracked_at_least;
  }
  // Puts bytes of the source that lie in DATA, whole tracks, on the clone side, with their digests;
  // HOLES of it are left or made holes. 0 or -errno.
  // SOURCE_FD: the file system may move the data by itself; what is there is DATA, or RANGE is written
  // to meanwhile and copied again. -1: it is DATA that is put.
  int put_tracks(Session& s, Object& o, int clone_fd, const char* data, ByteRange range,
                 const std::vector<ByteRange>& holes, bool clone_may_have_data, int source_fd = -1);
  bool transfer(int source_fd, int clone_fd, ByteRange range);
  // Only the digests of TRACKS, of which DATA has all that lies within the member. Always before the
  // bits. 0 or -errno.
  int put_digests(Session& s, Object& o, Extent tracks, const char* data);
  // A write took security.capability away: CLONE_FD gets O's again. 0 or -errno.
  int keep_capability(const Object& o, int clone_fd);
  int clear_range(int fd, ByteRange range);
  // Reads RANGE of the source, clipped to the member's size; zero-filled. HOLES: holes in it.
  int read_source(int fd, ByteRange range, char* data, std::vector<ByteRange>* holes);
  void find_holes(int fd, ByteRange range, const char* data, std::vector<ByteRange>* holes);
  // COFW: before RANGE of the source is overwritten. FD may be -1. 0, or -errno when the write must be
  // refused. Waits for the pool no longer than the stall limit.
  int save_before_write(const Source& source, const Attachments& attachments, int fd,
                        ByteRange range);
  int save_in_time(const Source& source, const Attachments& attachments, int fd, ByteRange range);
  // Copies the pending tracks of RANGE at once to all active sessions among ATTACHMENTS: COFW, clone
  // access. Takes the claim. FD may be -1. 0, or -errno when a write to the source must be refused.
  int copy_now(const Source& source, const Attachments& attachments, int fd, ByteRange range, bool cofw,
               const PoolGuard::Progress& progress = [] {});
  bool is_due(const Attachment& a, ByteRange range, bool cofw) const;
  int save_to_journal(const std::vector<Attachment>& attachments, ByteRange chunk,
                      const char* bytes,
                      const std::function<bool(const Attachment&, int)>& lost);
  Fd open_source(const Object& o, int flags = O_RDONLY) const;
  Fd open_clone(const Object& o, int flags) const;
  std::string path_of(const Session& s, const Object& o) const;

  // --- skeleton.cc ---
  // Brings the skeleton up to what is known to be stale. QUIET is false when something became
  // stale meanwhile.
  Status sync_skeleton(const SessionPtr& s, bool* quiet = nullptr);
  void mark_object(Session& s, Object& o);
  void mark_name(Session& s, Object& o, const std::string& name);
  void mark_all(const SessionPtr& s);
  Status make_root(const SessionPtr& s);
  void drop_object(Session& s, Object& o);
  Status remove_tree(int dir, const std::string& name);

  // --- rows: objects into the catalog ---
  void row_changed(Session& s, Object& o);
  ObjectRow row_of(Session& s, Object& o);
  SessionRow row_of(const Session& s) const;
  // Puts the rows that changed into a batch; rows_written() once it is committed. With the work
  // mutex held. What was not written is in the next batch again.
  Status put_rows(Session& s, Catalog::Batch& batch);
  void rows_written(Session& s);
  Status flush_rows(Session& s);

  // --- checkpoint.cc ---
  bool power() const { return options_.durability == Durability::kPower; }
  // Makes what is on the clone side of all active sessions and of EXTRA ones durable (data,
  // attributes, names), then their bits; then the journal is free.
  Status checkpoint(const std::vector<SessionPtr>& extra);
  // Makes the source of all pending tracks durable where it is.
  Status sync_sources(const std::vector<SessionPtr>& sessions);
  // Makes one member durable: fsync on a clone's file.
  Status checkpoint_object(Session& s, Object& o);
  void note_for_checkpoint(Session& s, Object& o);
  void call_for_checkpoint();
  void call_for_journal();
  bool prepare_journal();
  // Whether TRACK and all others of O need nothing of the source any more.
  bool settled(const Object& o) const { return (power() ? o.unsaved : o.pending).load() == 0; }

  // --- failures.cc ---
  // The clone is lost. May be called with anything held but a Batch.
  // First it is written down, then the state changes. OVERWRITES: the caller is about to overwrite what
  // could not be saved; false: it must not, for a restart would not know that the clone is lost.
  bool fail(Session& s, const std::string& why, bool overwrites = false);
  // The copy program could not go on, and nothing is lost by it. With the work mutex held.
  void copy_failed(Session& s, const Error& error);
  void end_trouble(Session& s);
  void detach_all(Session& s);
  void detach(Session& s, Object& o);
  Status finish_object(Session& s, Object& o);
  int set_times(Session& s, Object& o, int clone);
  void wake(Session& s);
  void start_worker(const SessionPtr& s);
  void stop_worker(Session& s);
  void notify_clones(const std::string& name, bool replaced = false);
  // Wakes those who wait for a state.
  void state_changed();

  FileSpace source_space() const { return source_space_; }
  FileSpace pool_space() const { return pool_space_; }

  EngineOptions options_;
  Disk& disk_;

  Fd source_dir_, pool_dir_, clones_dir_, incomplete_dir_, tracks_dir_, stage_dir_, journal_dir_, lock_;
  Fd limbo_dir_;  // guarded by limbo_mutex_
  std::mutex limbo_mutex_;
  FileSpace source_space_, pool_space_;
  dev_t device_ = 0;
  dev_t pool_device_ = 0;
  uint64_t pool_ino_ = 0;
  std::string pool_name_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Journal> journal_;  // with durability power

  std::mutex command_mutex_;
  mutable std::shared_mutex sessions_mutex_;
  std::map<std::string, SessionPtr> sessions_;  // guarded by sessions_mutex_
  uint64_t next_id_ = 1;

  Fence fence_;
  SourceMap sources_;
  Pace pace_;
  EventLog events_;
  PoolWatch pool_watch_;
  Timetable timetable_;  // sessions that are listed: changed with the command mutex held

  // What counts() tells.
  LatencyHistogram cofw_latency_, fences_;
  std::atomic<uint64_t> cofw_tracks_{0}, clones_failed_{0}, copy_errors_{0}, writes_refused_{0};

  // How data gets from the source to the pool, the best that these two can: found out by doing it. Only
  // the copy program asks.
  enum class Method { kShare, kServer, kWrite };
  std::atomic<Method> method_{Method::kShare};
  std::atomic<bool> method_works_{false};  // done once

  std::mutex hooks_mutex_;
  std::function<Status(const Engine::Wanted&)> flush_;
  std::function<void(const std::string&, bool)> clones_changed_;

  std::mutex state_mutex_;
  std::condition_variable state_cv_;
  uint64_t state_version_ = 0;  // guarded by state_mutex_
  std::atomic<uint64_t> stage_counter_{0};
  bool closed_ = false;
  std::atomic<bool> stopping_{false};  // closed_, for those who hold no lock

 private:
  // skeleton.cc
  struct SyncPass;
  Status sync_pass(const SessionPtr& s, SyncPass& pass,
                   const std::unordered_map<Object*, DirtyNames>& names);
  Status sync_names(const SessionPtr& s, SyncPass& pass, Object& dir, const DirtyNames& names);
  Status place(const SessionPtr& s, SyncPass& pass, Object& dir, int source_dir, int clone_dir,
               const std::string& name);
  Status sync_object(Session& s, Object& o);
  Status sync_data_size(Session& s, Object& o, const struct stat& st,
                        uint64_t clone_size);
  Status each_data(int fd, uint64_t from, uint64_t size, const std::function<void(ByteRange)>& fn);
  Status grow_column(Session& s, Object& o, uint64_t count);
  Status move_digests(Session& s, Object& o, const Column& column, uint64_t kept);
  bool covers(const Object& dir, const std::string& name, const struct stat& st) const;
  void set_filter(Session& s, const Object& dir, const std::string& name, Object& o);
  Object* known(Session& s, int fd, const struct stat& st) const;
  Object* known_in_pool(Session& s, int fd, const struct stat& st) const;
  void mark_for(SyncPass& pass, Object& o);
  void put_in(Session& s, Object& dir, Object& o);
  Fd open_clone_directory(SyncPass& pass, Object& dir);
  Result<std::string> move_to_stage(int dir, const std::string& name);
  Status empty_stage(std::vector<std::string>& places,
                     const std::function<void(const struct stat&)>& removed);
  Status sync_xattrs(Object& o, int source_fd, int clone_fd);
  Result<Object*> make_object(const SessionPtr& s, int source_fd, const struct stat& st,
                              int clone_dir, const std::string& name);
  Status clear_stage(Session& s);

  // refresh.cc
  // Nanoseconds: two changes as close to each other may have this ctime both.
  int64_t ctime_tick(const timespec& ctime) const;
  // Not changed since P's consistency point, which is that of its session PREVIOUS.
  bool unchanged_since(const Session& previous, const Object& p, const struct stat& st) const;
  void inherit_from(Session& s, const SessionPtr& previous);
  bool is_as_drained(const Object& p, nlink_t most_names) const;
  Object* inheritable(const Session& s, int source_fd, const struct stat& st) const;
  Result<bool> adopt(Session& s, Object& o, const struct stat& st);
  bool pool_shares_blocks();
  void find_donor(const Session& s, const Object& o, CopyFiles& files);
  std::vector<bool> donor_has(const Session& s, const Object& o, Extent tracks,
                              const CopyFiles& files) const;
  bool share_tracks(Session& s, Object& o, Extent tracks, const CopyFiles& files);
  void disinherit(Session& s, Object& o);
  static Error writers_of(const Session& s);
  Status refresh_in_place(const std::string& name);
  // What becomes of a generation when the next one is activated.
  struct Turn {
    SessionPtr session;
    std::string name;  // the one that it gets; "": it is removed
  };
  std::vector<Turn> turns(const Session& s) const;  // the oldest first
  // close() returns before the kernel tells: waits, for a moment, for those that have files of NAMES open
  // (WRITERS: for writing).
  void wait_for_closes(const std::vector<std::string>& names, bool writers) const;
  // Waits, not for long, until nobody goes through what the sessions NAMES replace.
  void wait_until_unused(const std::vector<std::string>& names) const;
  bool is_used(const Session& s) const;
  // What SESSIONS replace is not opened any more. EBUSY while it is in use: then nothing has changed.
  Result<std::vector<Turn>> begin_replacing(const std::vector<SessionPtr>& sessions);
  void end_replacing(const std::vector<Turn>& turns);
  // Into the batch that activates the session OF: what becomes of the generations before.
  Status retire(const std::vector<Turn>& turns, const std::string& of, Catalog::Batch& batch);
  // And after it. With the work mutexes of SESSIONS held.
  void replace_previous(const std::vector<SessionPtr>& sessions, const std::vector<Turn>& turns);
  Status settle_trees();
  void remove_retired();
  void named_once(Session& s);
  void removing();
  std::vector<SessionPtr> all_sessions() const;
  SessionPtr shown(const std::string& name) const;
  void unlist(const SessionPtr& s);

  // commands.cc
  Status prepare(const CreateOptions& o, const SessionPtr& previous, unsigned keep);
  Status check_create(const CreateOptions& o);
  Status check_space(Session& s);
  uint64_t room_needed(Session& s, bool sharing);
  Result<uint64_t> room() const;  // in the pool, in bytes
  void undo_create(const SessionPtr& s);
  Result<TrackFile> open_track_file(uint64_t id, bool durable);
  void remove_track_files(uint64_t id);
  void remove_digests(uint64_t id);
  std::vector<SessionPtr> find_all(const std::vector<std::string>& names, Status* status) const;
  Status activate_sessions(const std::vector<SessionPtr>& sessions, std::set<std::string>* replaced);
  // Its work mutex joins LOCKS; ENOENT when the session went before.
  Status hold(const SessionPtr& s, std::vector<std::unique_lock<std::mutex>>& locks);
  Status build(const SessionPtr& s, const CreateOptions& options);
  Error refusal(const SessionPtr& s, const Error& error);
  void release_columns(Session& s);
  Status destroy(const SessionPtr& s);
  // ASIDE: its tree is on the stage already, another has its name.
  Status remove_from_disk(uint64_t id, const std::string& name, bool aside);

  // recovery.cc
  Status open_source();
  Status open_pool();
  Status take_pool();
  Result<std::string> mark(bool replace);
  Status make_private(int dir, const std::string& name);
  Result<Fd> open_hidden();
  enum class Missing { kIsMade, kIsError };
  Fd open_in_hidden(const char* name, Missing missing);
  bool lies_in(int fd, const struct stat& top);
  bool opens_handles(int dir);
  std::string mount_of_pool();
  Status sweep(int dir, const std::unordered_set<std::string>& owned);
  // How the daemon that had the pool before ended.
  struct LastEnd {
    bool clean = false;
    bool same_boot = false;  // and the same mount of the pool: its page cache is still there
    bool was_power = false;
    bool elsewhere = false;  // since then the volume was mounted without its clones
    SessionPtr before;       // of one that is refreshed in place: what it was
    bool power_cut() const { return !clean && !same_boot; }
  };
  Status load_objects(Session& s, const LastEnd& end);
  Status load_session(const SessionRow& row, const LastEnd& end);
  Status take_up(const SessionPtr& s, const LastEnd& end);
  uint64_t tracks_there(const Session& s, const Object& o) const;
  Status keep_to_tree(Session& s, int tree);
  // Inode numbers of all that lies in TREE. EACH: as stat has them, not the entries.
  int list_numbers(int tree, bool each, std::unordered_set<uint64_t>& numbers);
  void take_changed(Session& s, Object& o, Session& before, const Object& was);
  Status track_again(const SessionPtr& s);
  Status keep_changed(Session& s, Catalog::Batch& batch);
  Status clear_pending(Session& s, Object& o);
  Status replay_journal();
  Status checkpoint_all();
  void reserve_room();
  void remove_volatile_track_file(uint64_t id);
  Status find_pins(Session& s, int tree);
  int pin_tree(int dir, dev_t device, const std::function<int(int, uint64_t)>& fn);
  Status set_filters(Session& s, const Object& dir, const PathNode& node);

  // timekeeping.cc
  void timekeeping();
  Status expire(const SessionPtr& s);
  void settle(const SessionPtr& s, bool activation, const std::string& missed);
  // Of keep_time(), which one thread calls: the clock and the time since boot, as seen last, in seconds.
  std::optional<std::pair<int64_t, int64_t>> clock_seen_;
  int64_t expiry_from_ = 0;  // since boot
  std::map<uint64_t, std::string> expiry_error_;
  std::thread timekeeper_;
  std::mutex timekeeper_mutex_;
  std::condition_variable timekeeper_wake_;
  bool timekeeper_stop_ = false;  // guarded by timekeeper_mutex_

  // failures.cc
  int record_loss(const Session& s);
  bool recorded_loss(const Session& s);
  void forget_losses();

  void housekeeping();
  void look_at_pool();
  uint64_t still_needed(Session& s);

  std::chrono::steady_clock::time_point pool_looked_at_;  // the housekeeper's
  // Generations that were replaced, on their way out.
  std::mutex retired_mutex_;
  std::condition_variable retired_wake_;
  struct Retired {
    SessionPtr session;
    bool with_clone = false;  // its tree goes too
    SessionPtr heir;          // what has its name now
  };
  std::vector<Retired> retired_;  // guarded by retired_mutex_
  bool removing_ends_ = false;       // guarded by retired_mutex_
  std::thread remover_;
  std::mutex pool_shares_mutex_;
  std::optional<bool> pool_shares_;  // guarded by pool_shares_mutex_
  int64_t power_cut_at_ns_ = 0;  // when the pool was opened after the last one
  std::thread housekeeper_;
  std::mutex housekeeper_mutex_;
  std::condition_variable housekeeper_wake_;
  bool housekeeper_stop_ = false;     // guarded by housekeeper_mutex_
  bool checkpoint_called_ = false;    // guarded by housekeeper_mutex_
  bool journal_called_ = false;       // guarded by housekeeper_mutex_
  std::mutex checkpoint_mutex_;       // one checkpoint at a time; below the work mutexes

  // copy_program.cc
  Status make_precopied_durable(const SessionPtr& s);
  void work(const SessionPtr& s);
  bool has_already(const Object& o, int clone, const char* data, ByteRange range);
  int share_or_copy(Session& s, Object& o, Extent tracks, const CopyFiles& files);
  bool fill_cursor(Session& s);
  bool next_piece(Session& s, uint64_t most_bytes, CopyPiece* piece);
  void read_piece(Session& s, CopyPiece& piece, char* data);
  void put_piece(Session& s, CopyPiece& piece, const char* data);
  void write_out(Session& s, std::vector<CopyPiece>* behind);
  bool open_files(const Session& s, const Object& o, CopyFiles& files);
  void drop_failed(Session& s);
  void piece_failed(Session& s, const CopyPiece& piece);
  bool complete(const SessionPtr& s);

  CopyCrew crew_;
  PoolGuard guard_;  // last: its jobs use all of the above
};

timespec now();
// The allocator keeps what was used for a moment: it goes back to the system. Takes milliseconds.
void give_back_memory();
inline int64_t nanoseconds(const timespec& t) {
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace clonefs::detail
