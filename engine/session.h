// Session and Object: what the engine keeps in memory of one clone relationship.
//
// Locks, outer to inner:
//   Core::command_mutex_       one command at a time that changes the set of sessions or activates
//   Session::work_mutex        building and bringing up to date the skeleton, a step of the copy
//                              program, the switch of the state
//   Fence                      (engine/fence.h); closed only with the two above held
//   Claims of a source file    (engine/claims.h)
//   Session::object_lock(o)    a change of an object's bits or column
//   Session::dirty_mutex, index_mutex, text_mutex, *_mutex of lists    leaves: nothing is asked for beneath them
// A thread in a Change holds a share of the fence and takes only what stands below it.
#pragma once

#include <sys/stat.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/claims.h"
#include "engine/digest_file.h"
#include "engine/engine.h"
#include "engine/file_ref.h"
#include "engine/latency.h"
#include "engine/object_index.h"
#include "engine/track_file.h"
#include "engine/progress.h"
#include "extents/track_bits.h"

namespace clonefs::detail {

// Which names of a directory a session covers: ancestors of the selected paths are in the clone
// with just the entries that lead to these.
struct PathNode {
  bool whole = false;  // selected: everything beneath
  std::map<std::string, PathNode> children;
};
// Adds PATHS to ROOT. EINVAL, ENAMETOOLONG: as names_along() (engine/row_rules.h).
Status select_paths(const std::vector<std::string>& paths, PathNode* root);

// The bits of a file's tracks; those of a small file lie in place.
class BitArray {
 public:
  void make(uint64_t count) {
    if (count > sizeof near_) far_ = std::make_unique<std::atomic<TrackBits>[]>(count);
  }
  std::atomic<TrackBits>& operator[](uint64_t i) { return far_ == nullptr ? near_[i] : far_[i]; }
  const std::atomic<TrackBits>& operator[](uint64_t i) const {
    return far_ == nullptr ? near_[i] : far_[i];
  }

 private:
  std::atomic<TrackBits> near_[8] = {};
  std::unique_ptr<std::atomic<TrackBits>[]> far_;
};

// The bits of one regular file in one session. There may be millions of these and of Object: a byte
// here is megabytes there.
struct Column {
  uint64_t base = 0;            // its region in the track file
  uint64_t capacity : 32 = 0;   // tracks in the region
  uint64_t count : 32 = 0;      // tracks that the file has
  // Tracks that have a digest: COUNT, and after TERMINATE, when there are no bits any more, what
  // that was.
  uint64_t digests : 32 = 0;
  BitArray bits;

  TrackBits at(uint64_t track) const {
    return track < count ? bits[track].load(std::memory_order_acquire) : kOutside;
  }
};

// A timespec in 12 bytes.
class ShortTime {
 public:
  ShortTime() = default;
  ShortTime(const timespec& t)  // NOLINT: as one
      : low_(static_cast<uint32_t>(t.tv_sec)),
        high_(static_cast<int32_t>(t.tv_sec >> 32)),
        nanoseconds_(static_cast<int32_t>(t.tv_nsec)) {}
  operator timespec() const {  // NOLINT
    return {static_cast<time_t>(static_cast<uint64_t>(high_) << 32 | low_), nanoseconds_};
  }

 private:
  uint32_t low_ = 0;
  int32_t high_ = 0;
  int32_t nanoseconds_ = 0;
};

struct Session;

struct Object {
  uint32_t id = 0;
  uint16_t type = 0;  // S_IFMT bits
  FileRef source;
  FileRef clone;
  SourceId source_id = 0;
  uint64_t pool_ino = 0;
  Session* session = nullptr;            // while it is attached (SourceMap)
  std::atomic<Object*> parent{nullptr};  // the directory in which it was put last
  // Of the source, as last brought up to date: what the clone shows. Guarded by the work mutex
  // before activation, by object_lock after.
  uint64_t size = 0;
  ShortTime atime, mtime, ctime;
  ShortTime finished_at;  // ctime of the pool's file when its times were set
  std::unique_ptr<Column> column;  // regular files
  const PathNode* filter = nullptr;  // directories: which names; nullptr: all
  // security.capability: a write to the file takes it away. Few have it.
  std::unique_ptr<std::string> capability;

  std::atomic<uint32_t> pending{0};     // tracks pending
  std::atomic<uint32_t> unsaved{0};     // tracks of which is_unsaved is true
  std::atomic<bool> in_checkpoint{false};  // is in Session::checkpoint_objects
  std::atomic<bool> table_stale{false};    // is in Session::stale_tables
  bool compare = false;                 // copies may be there already: look before writing
  std::atomic<bool> dirty{false};       // is in Session::dirty_objects
  std::atomic<bool> gone{false};        // has no name in the volume (or clone) any more
  std::atomic<bool> changed{false};     // by the clone's user: its own ctime shows
  // The clone's user may have changed the data of a file, the names in a directory: what digests
  // and the catalog say of them means nothing any more. In the catalog before it can happen.
  enum Altered : uint8_t { kNot, kBeingRecorded, kRecorded };
  std::atomic<Altered> altered{kNot};
  std::atomic<bool> finished{false};    // drained, and its times are set on the pool's file
  // The pool's file has the times that the clone shows: all is copied, and nobody changed it since.
  // Guarded by object_lock.
  bool times_set = false;
  bool recheck = false;                 // after a restart: bits say less than the files
  // Its file in the pool is the previous generation's too: it is not touched before the activation.
  // Guarded by the work mutex.
  bool inherited = false;
  // Every write to its source since the consistency point is noted in its bits (kChanged). Of a session
  // that is Copied it stays attached for that.
  bool tracked = true;
  std::atomic<bool> only_tracked{false};  // SourceMap's
  std::atomic<bool> named_twice{false};  // one name of its file is in another generation's tree
  bool row_dirty = false;               // is in Session::dirty_rows; guarded by rows_mutex

  bool is_regular() const { return S_ISREG(type); }
  bool is_directory() const { return S_ISDIR(type); }
};

// Names of a directory that are to be compared with the source.
struct DirtyNames {
  bool all = false;
  std::set<std::string, std::less<>> names;
};

// What errors made of a session's copy program: it tries again, or has stopped until it is resumed.
enum class Trouble { kNone, kRetrying, kPaused };

struct Counters {
  std::atomic<uint64_t> objects{0}, files{0};
  std::atomic<uint64_t> tracks_total{0}, tracks_pending{0}, tracks_precopied{0};
  std::atomic<uint64_t> tracks_recopied{0}, cofw_tracks{0}, clone_read_tracks{0};
  std::atomic<uint64_t> tracks_inherited{0};
  std::atomic<uint64_t> bytes_total{0}, bytes_copied{0};
  LatencyHistogram cofw_latency;
};

// Both files of an object that is being copied. DONOR: its file in the generation before, with which it may
// share blocks (refresh.cc).
struct CopyFiles {
  std::once_flag opened;
  Fd source, clone;
  const Object* donor = nullptr;
  Fd donor_file;
};

// A run of tracks of one object, on its way.
struct CopyPiece {
  Object* object = nullptr;
  Extent tracks;
  std::shared_ptr<CopyFiles> files;
  size_t at = 0;                 // of its bytes in the cursor's buffer
  std::vector<ByteRange> holes;  // in it
  std::vector<bool> shared;      // which are to share the donor's blocks, and were not read; empty: none
  int error = 0;                 // -errno
  const char* what = "";         // could not be done: "read", "copy"

  bool is_shared(uint64_t nth) const { return nth < shared.size() && shared[nth]; }
};

struct Session : std::enable_shared_from_this<Session> {
  // Fixed at CREATE.
  uint64_t id = 0;
  unsigned column_id = 0;
  std::string name;
  unsigned slot = 0;
  TrackSize track_size;
  std::vector<std::string> paths;
  std::vector<ByteRange> selection;  // empty: whole files
  bool nocopy = false;
  timespec created_at{};
  PathNode root_filter;
  const uint64_t incarnation = next_incarnation();  // no other session in this process has it

  // Generations (refresh.cc). PREVIOUS is what the name shows until this one is activated; guarded by
  // Core::sessions_mutex_.
  std::shared_ptr<Session> previous;
  DigestFile previous_digests;                             // guarded by work_mutex
  ObjectIndex<Object, &Object::source_id> inheritance;     // of PREVIOUS; guarded by work_mutex
  std::atomic<bool> aside{false};  // PREVIOUS has the name in the catalog
  unsigned keep = 0;               // older generations that remain at its activation
  std::string kept_of;             // it is an older generation of this name
  bool counts_on_sharing = false;  // the pool has no room for what it does not share; guarded by work_mutex
  std::atomic<bool> frozen{false};    // it is PREVIOUS of another: nobody changes it
  std::atomic<bool> replaced{false};  // about to be: nobody opens anything of it any more
  std::atomic<uint64_t> open_handles{0};
  std::atomic<uint64_t> writers{0};  // of these
  std::atomic<std::chrono::steady_clock::time_point> used_at{std::chrono::steady_clock::time_point::min()};

  std::atomic<SessionState> state{SessionState::kCreated};
  std::atomic<bool> building{true};  // CREATE is not done yet
  std::atomic<bool> removed{false};  // terminated with force or deleted: nothing shows it any more
  std::atomic<int64_t> refusal_said{0};  // when, of a write (OnError::kFailWrite); seconds
  std::atomic<uint64_t> pace{kPaceAuto};
  timespec activated_at{};  // written once, before the state becomes CopyInProgress
  std::atomic<uint64_t> fence_ns{0};  // written just after the state

  TrackFile track_file;
  TrackFile durable_file;  // the same as of the last checkpoint; with durability power only
  DigestFile digests;
  uint32_t next_object_id = 0;
  std::deque<Object> objects;  // by id; [0] is the root; pointers stay good for the session's life
  Counters counters;

  std::mutex work_mutex;

  mutable std::shared_mutex index_mutex;
  ObjectIndex<Object, &Object::pool_ino> by_pool_ino;  // guarded by index_mutex

  std::mutex dirty_mutex;
  std::unordered_map<Object*, DirtyNames> dirty_names;
  std::vector<Object*> dirty_objects;

  // Entries on the stage: of a pass over names that is under way, or that an error ended. Guarded by
  // work_mutex.
  std::vector<std::string> stage;
  std::unordered_map<Object*, std::string> staged_directories;

  mutable std::mutex rows_mutex;
  std::vector<Object*> dirty_rows;  // guarded by rows_mutex
  std::vector<uint32_t> dropped_rows;  // guarded by rows_mutex
  // Of a batch that is under way or was not written. Guarded by work_mutex.
  std::vector<Object*> rows_in_batch;
  std::vector<uint32_t> dropped_in_batch;

  // Members whose region in the track table is not what memory says. Before activation nothing writes
  // to the table but flush_tables(): a write to the source must not wait for the pool.
  std::mutex stale_tables_mutex;
  std::vector<Object*> stale_tables;

  std::mutex checkpoint_objects_mutex;
  std::vector<Object*> checkpoint_objects;  // whose bits changed since the last checkpoint

  mutable std::mutex text_mutex;
  bool failing = false;               // its loss is being written down; guarded by text_mutex
  std::condition_variable failed_cv;  // of failing
  std::string error;
  std::shared_ptr<const VerifyReport> verified;  // the last one since the mount
  Object* last_object = nullptr;
  uint64_t last_track = 0;

  // Errors of the copy program (failures.cc). Changed with the work mutex held.
  std::atomic<Trouble> trouble{Trouble::kNone};
  std::atomic<unsigned> copy_errors{0};  // in a row
  std::chrono::steady_clock::time_point last_copy_error;  // guarded by work_mutex
  std::string trouble_text;                               // guarded by text_mutex

  // The copy program.
  struct Cursor {
    std::vector<Object*> order;  // what this pass copies, in physical order
    size_t next_object = 0;
    std::vector<Extent> runs;  // what is left of the current object
    size_t next_run = 0;
    Object* object = nullptr;
    std::shared_ptr<CopyFiles> files;  // of the current object
    bool filled = false;               // order is made
    // Pieces that were read and are not yet on the clone side; their bytes, one behind the other.
    std::vector<CopyPiece> pieces;
    std::vector<char> buffer;
    std::vector<CopyPiece> put;  // large ones of the last step
    bool loaded = false;
  } cursor;  // guarded by work_mutex
  std::optional<std::chrono::steady_clock::time_point> precopy_checkpoint;  // guarded by work_mutex
  std::atomic<uint64_t> loaded_bytes{0};
  std::atomic<bool> precopied{false};
  std::atomic<bool> announce{false};  // the list of clones changed; tell once no lock is held
  std::thread worker;
  std::mutex worker_mutex;
  std::condition_variable worker_wake;
  bool worker_stop = false;    // guarded by worker_mutex
  uint64_t worker_signal = 0;  // guarded by worker_mutex
  std::atomic<uint64_t> rate_now{0};
  Progress progress;
  uint64_t needed_at_last = UINT64_MAX;  // room in the pool; the housekeeper's

  std::mutex& object_lock(const Object& o) { return object_locks[o.id % object_locks.size()]; }
  std::array<std::mutex, 64> object_locks;

  static uint64_t next_incarnation() {
    static std::atomic<uint64_t> last{0};
    return last.fetch_add(1) + 1;
  }

  void note_progress() {
    progress.note({{}, state.load(), counters.tracks_pending, counters.tracks_precopied,
                   counters.bytes_copied, counters.cofw_tracks});
  }

  bool before_activation() const {
    const auto s = state.load(std::memory_order_acquire);
    return s == SessionState::kCreated || s == SessionState::kPrecopy;
  }
  bool active() const {
    return state.load(std::memory_order_acquire) == SessionState::kCopyInProgress;
  }
  // Whether TRACK is in the part of each file that was selected.
  bool selected(uint64_t track) const {
    if (selection.empty()) return true;
    const uint64_t from = track_size.offset_of(track);
    for (const auto& r : selection)
      if (r.offset < from + track_size.bytes() && from < r.end()) return true;
    return false;
  }
};

}  // namespace clonefs::detail
