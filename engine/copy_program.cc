// The copy program: precopy and drain as a step function, and the threads that run it.
//
// A step has two halves. step_read marks some pieces (runs of pending tracks) as being copied, then
// reads them without a claim; step_finish puts those tracks on the clone side whose mark still stands.
// A write to the source takes the mark away (before activation) or the track (after it), so what is put
// is what the source had at one moment. The pieces of a step are read, and then put, at the same time
// by the CopyCrew; all else is done by one thread, which holds the work mutex of the session.
#include <fcntl.h>
#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

// Of a file at once.
constexpr uint64_t kChunk = 1 << 20;
// Of all files at once, while somebody is in the foreground.
constexpr uint64_t kBeside = 512 << 10;
// Small files that are copied at the same time, for each worker.
constexpr size_t kSmallFilesEach = 16;
// A writer waits for no more than this when it meets the copy program in its own tracks.
constexpr uint64_t kPutTogether = 256 << 10;
constexpr auto kPrecopyCheckpoint = std::chrono::seconds(5);
// Of the automatic pace: longer than most requests take, so that what begins in a rest is alone.
constexpr auto kTurn = std::chrono::milliseconds(50);
constexpr auto kPassPause = std::chrono::milliseconds(200);
// After an error; twice as long after each further one.
constexpr auto kErrorPause = std::chrono::milliseconds(100);

// Bytes a second; 0: it has no limit.
uint64_t limit_of(uint64_t pace) { return pace == kPaceAuto || pace == kPaceMax ? 0 : pace; }

bool wanted(TrackBits b) { return is_pending(b); }
bool still_copying(TrackBits b) { return is_pending(b) && is_copying(b); }

}  // namespace

bool Core::step(const SessionPtr& s) {
  const bool more = step_read(s);
  return step_finish(s) || more;
}

// What a pass copies, ordered as it lies on the disk: inode numbers follow the placement on the
// file systems that clonefs is used on, and within a file the runs are sorted by FIEMAP.
bool Core::fill_cursor(Session& s) {
  auto& c = s.cursor;
  c = Session::Cursor{};
  const bool active = s.active();
  for (auto& o : s.objects) {
    if (o.gone || o.inherited) continue;
    const bool pending = o.pending.load() != 0;
    if (active ? (!o.finished && (!pending || !s.nocopy)) : pending) c.order.push_back(&o);
  }
  std::sort(c.order.begin(), c.order.end(),
            [](const Object* a, const Object* b) { return a->source_id < b->source_id; });
  c.filled = true;
  return !c.order.empty();
}

// The next run of tracks to copy, of at most MOST_BYTES or one track. False: there is none, or an error was
// dealt with.
bool Core::next_piece(Session& s, uint64_t most_bytes, CopyPiece* piece) {
  auto& c = s.cursor;
  const bool active = s.active();
  for (;;) {
    if (c.object == nullptr) {
      if (c.next_object == c.order.size()) return false;
      Object* o = c.order[c.next_object++];
      if (o->gone) continue;
      if (o->pending.load() == 0) {
        if (!active || !settled(*o)) continue;
        if (auto status = finish_object(s, *o); !status) {
          copy_failed(s, status.error());
          return false;
        }
        continue;
      }
      c.object = o;
      c.files = std::make_shared<CopyFiles>();
      c.runs.clear();
      c.next_run = 0;
      for (uint64_t t = 0; t < o->column->count;) {
        if (!is_pending(o->column->at(t))) {
          ++t;
          continue;
        }
        uint64_t u = t;
        while (u < o->column->count && is_pending(o->column->at(u))) ++u;
        c.runs.push_back({t, u - t});
        t = u;
      }
      std::vector<Disk::Placement> placement;
      if (c.runs.size() > 1 && o->column->count > kChunk / s.track_size.bytes() &&
          open_files(s, *o, *c.files) &&
          disk_.placement(c.files->source.get(), &placement) == 0 && placement.size() > 1) {
        std::sort(placement.begin(), placement.end(),
                  [](const auto& a, const auto& b) { return a.offset < b.offset; });
        const auto physical = [&](const Extent& run) {
          const uint64_t offset = s.track_size.offset_of(run.first);
          auto it = std::upper_bound(placement.begin(), placement.end(), offset,
                                     [](uint64_t at, const auto& p) { return at < p.offset; });
          if (it == placement.begin()) return uint64_t{0};
          --it;
          return it->physical + (offset - it->offset);
        };
        std::stable_sort(c.runs.begin(), c.runs.end(), [&](const Extent& a, const Extent& b) {
          return physical(a) < physical(b);
        });
      }
    }
    Object& o = *c.object;
    while (c.next_run < c.runs.size()) {
      Extent& run = c.runs[c.next_run];
      const uint64_t count = o.column->count;
      while (run.count > 0 && (run.first >= count || !is_pending(o.column->at(run.first)))) {
        ++run.first;
        --run.count;
      }
      if (run.count == 0) {
        ++c.next_run;
        continue;
      }
      const uint64_t most = std::max<uint64_t>(1, most_bytes / s.track_size.bytes());
      uint64_t n = 1;
      while (n < run.count && n < most && run.first + n < count &&
             is_pending(o.column->at(run.first + n)))
        ++n;
      piece->object = &o;
      piece->tracks = {run.first, n};
      piece->files = c.files;
      piece->shared.clear();
      piece->error = 0;
      piece->holes.clear();
      run.first += n;
      run.count -= n;
      return true;
    }
    c.object = nullptr;
    if (!active || !settled(o)) continue;
    if (auto status = finish_object(s, o); !status) {
      copy_failed(s, status.error());
      return false;
    }
  }
}

bool Core::open_files(const Session& s, const Object& o, CopyFiles& files) {
  std::call_once(files.opened, [&] {
    files.source = open_source(o);
    files.clone = open_clone(o, O_RDWR);
    find_donor(s, o, files);
  });
  return files.source && files.clone;
}

// On any thread, as put_piece; with the work mutex held by who waits for it.
void Core::read_piece(Session& s, CopyPiece& piece, char* data) {
  Object& o = *piece.object;
  if (!open_files(s, o, *piece.files)) return;  // piece_failed() tells why
  change_bits(s, o, piece.tracks, wanted, on_copy_begun);  // in memory
  piece.shared = donor_has(s, o, piece.tracks, *piece.files);
  const TrackSize ts = s.track_size;
  piece.what = "read";
  std::vector<ByteRange> holes;
  for (uint64_t t = 0; t < piece.tracks.count && piece.error == 0;) {
    uint64_t u = t;
    while (u < piece.tracks.count && !piece.is_shared(u)) ++u;
    if (u > t) {
      const ByteRange range = {ts.offset_of(piece.tracks.first + t), (u - t) * ts.bytes()};
      piece.error = read_source(piece.files->source.get(), range, data + t * ts.bytes(), &holes);
      piece.holes.insert(piece.holes.end(), holes.begin(), holes.end());
    }
    t = u + 1;
  }
}

void Core::piece_failed(Session& s, const CopyPiece& piece) {
  Object& o = *piece.object;
  const CopyFiles& files = *piece.files;
  const bool active = s.active();
  if (s.cursor.object == &o) s.cursor.object = nullptr;
  if (files.clone.get() == -ESTALE) {
    // Removed from the clone: nobody can ask for its tracks.
    if (const int e = change_bits(s, o, {0, o.column->count}, wanted, on_drained); e < 0)
      copy_failed(s, Error::from_errno(e, "cannot write the track table"));
  } else if (files.source.get() == -ESTALE && !active) {
    // Removed: its names tell.
  } else if (files.source.get() == -ESTALE) {
    // What is gone does not come back.
    fail(s, Error::from_errno(-ESTALE, "cannot copy " + path_of(s, o)).message);
  } else if (!files.source || !files.clone) {
    copy_failed(s, Error::from_errno(files.source ? files.clone.get() : files.source.get(),
                                     "cannot copy " + path_of(s, o)));
  } else {
    copy_failed(s, Error::from_errno(piece.error,
                                     std::string("cannot ") + piece.what + " " + path_of(s, o)));
  }
}

bool Core::step_read(const SessionPtr& s) {
  const std::lock_guard work(s->work_mutex);
  auto& c = s->cursor;
  const auto state = s->state.load();
  if (s->removed || (state != SessionState::kPrecopy && state != SessionState::kCopyInProgress))
    return false;
  const auto goes_on = [&] {
    return s->state.load() == state && s->trouble.load() != Trouble::kPaused;
  };
  if (!goes_on()) return false;
  if (c.loaded) return true;
  if (!c.filled) {
    if (state == SessionState::kPrecopy) {
      bool stale;
      {
        const std::lock_guard lock(s->dirty_mutex);
        stale = !s->dirty_names.empty() || !s->dirty_objects.empty();
      }
      if (stale) {
        auto status = sync_skeleton(s);
        if (status) status = flush_rows(*s);
        if (!status) {
          copy_failed(*s, status.error());
          return goes_on();
        }
      }
    }
    fill_cursor(*s);
  }
  // As many pieces as can be copied at the same time, and some small files more.
  const unsigned workers = crew_.helpers() + 1;
  const uint64_t pace = s->pace.load();
  uint64_t most_bytes = workers * kChunk;
  if (const uint64_t limit = limit_of(pace); limit != 0)
    most_bytes = std::min(most_bytes, limit / 8);
  else if (pace == kPaceAuto && !pace_.alone())
    most_bytes = kBeside;
  const size_t most_pieces = workers == 1 ? 1 : workers * kSmallFilesEach;
  const unsigned errors = s->copy_errors;
  uint64_t bytes = 0;
  std::vector<CopyPiece> pieces;
  for (CopyPiece piece; next_piece(*s, std::min(kChunk, most_bytes - bytes), &piece);) {
    piece.at = bytes;
    bytes += piece.tracks.count * s->track_size.bytes();
    pieces.push_back(std::move(piece));
    if (pieces.size() == most_pieces || bytes >= most_bytes) break;
  }
  if (s->trouble.load() == Trouble::kPaused) return false;
  if (pieces.empty()) {
    // An error is about one object: first the others.
    if (s->copy_errors != errors) return goes_on();
    c.filled = false;
    if (s->state.load() != state) return false;
    if (state == SessionState::kCopyInProgress) {
      if (s->counters.tracks_pending.load() != 0) return !s->nocopy;
      return !complete(s) && goes_on() && (!s->nocopy || s->trouble.load() == Trouble::kRetrying);
    }
    if (s->counters.tracks_pending.load() != 0) return true;
    if (auto status = make_precopied_durable(s); !status) {
      copy_failed(*s, status.error());
      return goes_on();
    }
    end_trouble(*s);
    const std::lock_guard lock(s->dirty_mutex);
    if (!s->dirty_names.empty() || !s->dirty_objects.empty()) return true;
    s->precopied.store(true);
    state_changed();
    return false;
  }
  if (c.buffer.size() < bytes) c.buffer.resize(bytes);
  c.pieces = std::move(pieces);
  crew_.run(c.pieces.size(), [&](size_t i) { read_piece(*s, c.pieces[i], c.buffer.data() + c.pieces[i].at); });
  drop_failed(*s);
  if (c.pieces.empty()) return goes_on();
  s->loaded_bytes.store(bytes);
  c.loaded = true;
  return true;
}

// Deals with the errors of the pieces, one for each object and one for all that count: what is behind
// them is mostly one. With the work mutex held.
void Core::drop_failed(Session& s) {
  const unsigned errors = s.copy_errors;
  const Object* last = nullptr;
  auto pieces = std::move(s.cursor.pieces);
  std::vector<CopyPiece> good;
  for (auto& piece : pieces) {
    if (piece.error == 0 && piece.files->source && piece.files->clone) {
      good.push_back(std::move(piece));
      continue;
    }
    if (piece.object != last && s.copy_errors == errors) piece_failed(s, piece);
    last = piece.object;
  }
  // Paused, it begins anew.
  if (s.trouble.load() != Trouble::kPaused) s.cursor.pieces = std::move(good);
}

// Precopied: little is left to ACTIVATE, of what it makes durable as well. With the work mutex held.
Status Core::make_precopied_durable(const SessionPtr& s) {
  const auto now = std::chrono::steady_clock::now();
  if (s->precopy_checkpoint && now - *s->precopy_checkpoint < kPrecopyCheckpoint) return {};
  {
    const std::lock_guard lock(s->stale_tables_mutex);
    if (s->stale_tables.empty()) return {};
  }
  if (power()) {
    if (auto status = checkpoint({s}); !status) return status;
  }
  auto status = flush_tables(*s);
  if (status) s->precopy_checkpoint = now;
  return status;
}

bool Core::step_finish(const SessionPtr& s) {
  const std::lock_guard work(s->work_mutex);
  auto& c = s->cursor;
  c.put.clear();
  if (!c.loaded) return false;
  c.loaded = false;
  if (s->removed || (!s->active() && s->state.load() != SessionState::kPrecopy)) return false;
  const CopyPiece last = c.pieces.back();
  crew_.run(c.pieces.size(),
            [&](size_t i) { put_piece(*s, c.pieces[i], c.buffer.data() + c.pieces[i].at); });
  const unsigned errors = s->copy_errors;
  drop_failed(*s);
  if (s->copy_errors != errors) return s->trouble.load() != Trouble::kPaused;
  if (s->trouble.load() == Trouble::kRetrying) s->trouble.store(Trouble::kNone);
  const uint64_t limit = limit_of(s->pace.load());
  const bool slow = limit != 0 && limit / 8 < kPutTogether;
  for (auto& piece : c.pieces)
    if (slow || piece.tracks.count * s->track_size.bytes() >= kPutTogether) c.put.push_back(std::move(piece));
  const std::lock_guard lock(s->text_mutex);
  s->last_object = last.object;
  s->last_track = last.tracks.end() - 1;
  return true;
}

// What was put goes to the disk at once, and little of it at a time: the sync of a program that writes
// to the volume has to wait for all that the disk was given before. So only what the last two steps put
// is under way.
void Core::write_out(Session& s, std::vector<CopyPiece>* behind) {
  std::vector<CopyPiece> put;
  {
    const std::lock_guard work(s.work_mutex);
    put.swap(s.cursor.put);
  }
  const auto write = [&](const CopyPiece& piece, bool wait) {
    disk_.write_out(piece.files->clone.get(), s.track_size.offset_of(piece.tracks.first),
                    piece.tracks.count * s.track_size.bytes(), wait);
  };
  for (const auto& piece : put) write(piece, false);
  crew_.run(behind->size(), [&](size_t i) { write((*behind)[i], true); });
  *behind = std::move(put);
}

void Core::put_piece(Session& s, CopyPiece& piece, const char* data) {
  Object& o = *piece.object;
  const bool active = s.active();
  const int clone = piece.files->clone.get();
  Attachments attachments;
  const auto source = sources_.find(o.source_id, &attachments);
  if (!source || o.gone) return;
  const TrackSize ts = s.track_size;
  // Of what may be there already, track by track only what differs is written.
  const uint64_t together = o.compare ? 1 : std::max<uint64_t>(1, kPutTogether / ts.bytes());
  const uint64_t base = ts.offset_of(piece.tracks.first);
  piece.what = "copy";
  for (uint64_t t = piece.tracks.first; t < piece.tracks.end(); t += together) {
    const Extent part = {t, std::min(together, piece.tracks.end() - t)};
    const Claims::Holder claim(source->claims,
                               {ts.offset_of(part.first), part.count * ts.bytes()});
    const uint64_t end = std::min(part.end(), o.column->count);
    for (uint64_t a = part.first; a < end;) {
      if (!still_copying(o.column->at(a))) {
        ++a;
        continue;
      }
      uint64_t b = a;
      bool again = false;
      const bool shared = piece.is_shared(a - piece.tracks.first);
      while (b < end && still_copying(o.column->at(b)) &&
             piece.is_shared(b - piece.tracks.first) == shared) {
        again |= (o.column->at(b) & kRewritten) != 0;
        ++b;
      }
      const ByteRange range = {ts.offset_of(a), (b - a) * ts.bytes()};
      const char* bytes = data + (range.offset - base);
      int e = 0;
      if (shared) {
        e = share_or_copy(s, o, {a, b - a}, *piece.files);
      } else if (!o.compare || !has_already(o, clone, bytes, range)) {
        e = put_tracks(s, o, clone, bytes, range, piece.holes, again, piece.files->source.get());
      } else {
        e = put_digests(s, o, {a, b - a}, bytes);
      }
      if (e == 0)
        e = change_bits(s, o, {a, b - a}, still_copying, active ? on_drained : on_precopied);
      if (e < 0) {
        piece.error = e;
        return;
      }
      a = b;
    }
  }
  // While the file is open anyway.
  if (active && o.pending.load() == 0) piece.error = set_times(s, o, clone);
}

// With the claim. 0 or -errno.
int Core::share_or_copy(Session& s, Object& o, Extent tracks, const CopyFiles& files) {
  if (share_tracks(s, o, tracks, files)) {
    s.counters.tracks_inherited.fetch_add(tracks.count);
    return 0;
  }
  const ByteRange range = {s.track_size.offset_of(tracks.first), tracks.count * s.track_size.bytes()};
  std::vector<char> data(range.length);
  std::vector<ByteRange> holes;
  const int e = read_source(files.source.get(), range, data.data(), &holes);
  return e < 0 ? e : put_tracks(s, o, files.clone.get(), data.data(), range, holes, true);
}

// Whether the clone's file has these bytes: after an unclean end much of a precopy is still good.
bool Core::has_already(const Object& o, int clone, const char* data, ByteRange range) {
  if (range.offset >= o.size) return true;
  const uint64_t length = std::min(range.length, o.size - range.offset);
  std::vector<char> there(length);
  return disk_.pread_full(clone, there.data(), length, range.offset) ==
             static_cast<ssize_t>(length) &&
         std::memcmp(there.data(), data, length) == 0;
}

// All of O is copied: the pool's file gets the times that the clone shows. 0 or -errno.
int Core::set_times(Session& s, Object& o, int clone) {
  const std::lock_guard lock(s.object_lock(o));
  if (o.times_set) return 0;
  const timespec times[2] = {o.atime, o.mtime};
  struct stat st{};
  int e = disk_.utimes(clone, times);
  if (e == 0) e = disk_.stat(clone, "", &st);
  if (e < 0) return e;
  o.finished_at = st.st_ctim;
  o.times_set = true;
  note_for_checkpoint(s, o);
  return 0;
}

Status Core::finish_object(Session& s, Object& o) {
  if (o.finished) return {};
  const auto cannot = [&](int e) {
    return Error::from_errno(e, "cannot finish the copy of " + path_of(s, o));
  };
  // The second list's bits have done their work.
  if (o.column != nullptr) {
    const int e = change_bits(s, o, {0, o.column->count}, is_precopied, on_drained);
    if (e < 0) return cannot(e);
  }
  // Its user may change it until it is finished.
  for (bool done = false; !done;) {
    if (o.is_regular() && !o.times_set) {
      const Fd clone = open_clone(o, O_PATH);
      const int e = clone ? set_times(s, o, clone.get()) : clone.get();
      // Removed from the clone: it has no times.
      if (e < 0 && e != -ESTALE) return cannot(e);
      if (e == -ESTALE) break;
    }
    const std::lock_guard lock(s.object_lock(o));
    done = !o.is_regular() || o.times_set;
    if (done) o.finished.store(true);
  }
  o.finished.store(true);
  if (!is_worth_tracking(o))
    detach(s, o);
  else if (const auto source = sources_.only_track(o))
    release_limbo(*source);
  row_changed(s, o);
  return {};
}

// With the work mutex held, nothing pending: the clone becomes an ordinary tree.
bool Core::complete(const SessionPtr& s) {
  const auto failed = [&](const Error& error) {
    copy_failed(*s, error);
    return false;
  };
  if (power()) {
    if (auto status = checkpoint({}); !status) return failed(status.error());
  }
  for (auto& o : s->objects) {
    if (o.gone || o.finished) continue;
    if (!settled(o)) return false;
    if (auto status = finish_object(*s, o); !status) return failed(status.error());
  }
  // Copied is a promise for a power cut too, whatever the durability was until here.
  if (power()) {
    if (auto status = checkpoint({}); !status) return failed(status.error());
  } else if (const int e = disk_.syncfs(pool_dir_.get()); e < 0) {
    return failed(Error::from_errno(e, "cannot make the drained clone durable"));
  }
  const int e = disk_.rename(incomplete_dir_.get(), s->name.c_str(), clones_dir_.get(),
                             s->name.c_str(), RENAME_NOREPLACE);
  if (e < 0 && e != -ENOENT)
    return failed(Error::from_errno(e, "cannot move the drained clone to its place in the pool"));
  Status status;
  {
    Catalog::Batch batch(*catalog_);
    status = put_rows(*s, batch);
    if (status) status = batch.set_state(s->id, static_cast<int>(SessionState::kCopied), "");
    if (status) status = batch.commit();
  }
  if (!status) return failed(status.error());
  rows_written(*s);
  s->state.store(SessionState::kCopied);
  end_trouble(*s);
  events_.add(EventKind::kCopied, s->name, "copied " + s->name);
  state_changed();
  s->announce = true;
  return true;
}

void Core::wake(Session& s) {
  const std::lock_guard lock(s.worker_mutex);
  ++s.worker_signal;
  s.worker_wake.notify_all();
}

void Core::start_worker(const SessionPtr& s) {
  const std::lock_guard lock(s->worker_mutex);
  // A session may be removed while CREATE still builds it: then nobody stops a worker any more.
  if (!options_.copy_threads || s->worker_stop || s->worker.joinable()) return;
  s->worker = std::thread([this, s] { work(s); });
}

void Core::stop_worker(Session& s) {
  {
    const std::lock_guard lock(s.worker_mutex);
    s.worker_stop = true;
    s.worker_wake.notify_all();
  }
  if (s.worker.joinable()) s.worker.join();
}

unsigned Core::copy_workers(const EngineOptions& options) {
  if (options.copy_workers != 0) return options.copy_workers;
  return options.copy_threads ? std::clamp(std::thread::hardware_concurrency(), 2u, 4u) : 1;
}

void Core::idle_priority() {
  ::syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

void Core::work(const SessionPtr& s) {
  idle_priority();
  using Clock = std::chrono::steady_clock;
  auto window = Clock::now();
  uint64_t window_bytes = 0;
  auto due = Clock::now();
  Clock::duration worked{};  // since the last rest
  std::vector<CopyPiece> behind;  // on its way to the disk
  struct Use {
    Pace& pace;
    bool on = false;
    void set(bool to) {
      if (to && !on) pace.begin_use(Clock::now());
      if (!to && on) pace.end_use();
      on = to;
    }
    ~Use() { set(false); }
  } use{pace_};
  s->note_progress();
  for (;;) {
    uint64_t signal;
    {
      const std::lock_guard lock(s->worker_mutex);
      if (s->worker_stop) return;
      signal = s->worker_signal;
    }
    const unsigned errors = s->copy_errors;
    const uint64_t pace = s->pace.load();
    // While it waits for something to do, nobody asks the foreground.
    use.set(pace == kPaceAuto);
    const auto begin = Clock::now();
    pace_.begin_turn();
    const bool more = step_read(s);
    const uint64_t bytes = s->loaded_bytes.exchange(0);
    step_finish(s);
    write_out(*s, &behind);
    pace_.end_turn();
    if (!more) use.set(false);
    if (s->announce.exchange(false)) notify_clones(s->name);
    const auto now = Clock::now();
    window_bytes += bytes;
    if (const auto passed = now - window; passed > std::chrono::milliseconds(500)) {
      s->rate_now.store(static_cast<uint64_t>(static_cast<double>(window_bytes) /
                                              std::chrono::duration<double>(passed).count()));
      window = now;
      window_bytes = 0;
    }
    s->note_progress();
    const auto state = s->state.load();
    if (s->removed || (state != SessionState::kPrecopy && state != SessionState::kCopyInProgress &&
                       state != SessionState::kCreated)) {
      s->rate_now.store(0);
      if (state == SessionState::kFailed) {
        // Nothing of the source is kept for a clone that is lost.
        const std::lock_guard work(s->work_mutex);
        detach_all(*s);
      }
      return;
    }
    const auto called = [&] { return s->worker_stop || s->worker_signal != signal; };
    std::unique_lock lock(s->worker_mutex);
    worked += now - begin;
    if (pace == kPaceAuto && more && worked >= kTurn) {
      s->worker_wake.wait_for(lock, pace_.rest(now, worked), called);
      worked = {};
    } else if (const uint64_t limit = limit_of(pace); limit != 0 && bytes != 0) {
      due = std::max(due, now) + std::chrono::nanoseconds(static_cast<int64_t>(
                                     static_cast<double>(bytes) * 1e9 / static_cast<double>(limit)));
      // A new limit counts at once, and so does the end.
      s->worker_wake.wait_until(lock, due, called);
      if (s->worker_signal != signal) due = Clock::now();
    }
    if (const unsigned now_errors = s->copy_errors; now_errors > errors) {
      s->rate_now.store(0);
      if (s->trouble.load() == Trouble::kPaused)
        s->worker_wake.wait(lock, called);
      else
        s->worker_wake.wait_for(lock, kErrorPause * (1u << (now_errors - 1)), called);
      continue;
    }
    if (!more) {
      s->rate_now.store(0);
      if (state == SessionState::kPrecopy && s->trouble.load() != Trouble::kPaused)
        s->worker_wake.wait_for(lock, kPassPause, called);
      else
        s->worker_wake.wait(lock, called);
    } else if (state == SessionState::kPrecopy && bytes == 0) {
      // Between passes: what is written all the time need not be copied all the time.
      s->worker_wake.wait_for(lock, kPassPause, called);
    }
  }
}

}  // namespace clonefs::detail
