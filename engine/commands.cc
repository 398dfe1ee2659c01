// The commands. Each checks everything before it changes anything.
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <charconv>

#include "engine/core.h"
#include "engine/row_rules.h"

namespace clonefs {

bool is_session_name(std::string_view name) {
  const auto alnum = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (name.empty() || name.size() > 64 || !alnum(name[0])) return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return alnum(c) || c == '.' || c == '_' || c == '-'; });
}

}  // namespace clonefs

namespace clonefs::detail {

void give_back_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

timespec now() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return t;
}

SessionPtr Core::find(const std::string& name) const {
  const std::shared_lock lock(sessions_mutex_);
  const auto it = sessions_.find(name);
  return it == sessions_.end() ? nullptr : it->second;
}

Status Core::available() const {
  if (!options_.no_clones) return {};
  return Error{EOPNOTSUPP,
               "the volume is mounted without its clones (--no-clones), so nothing can be done with "
               "them; unmount it and mount it without that option"};
}

Error Core::no_clone(const std::string& name) const {
  if (auto status = available(); !status) return status.error();
  return {ENOENT, "there is no clone named " + name + "; `clonefs list` shows them"};
}

std::vector<SessionPtr> Core::find_all(const std::vector<std::string>& names,
                                       Status* status) const {
  std::vector<SessionPtr> found;
  if (names.empty()) *status = Error{EINVAL, "no name given; name the clones"};
  for (const auto& name : names) {
    auto s = find(name);
    if (s == nullptr) {
      *status = no_clone(name);
      return {};
    }
    if (std::find(found.begin(), found.end(), s) == found.end()) found.push_back(std::move(s));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a->id < b->id; });
  return found;
}

// --- CREATE ------------------------------------------------------------------------------------

Status Core::check_create(const CreateOptions& o) {
  if (!is_session_name(o.name))
    return Error{EINVAL, "'" + o.name +
                             "' is no name for a clone; a name is 1 to 64 letters, digits, '.', "
                             "'_' and '-', and begins with a letter or a digit"};
  if (o.paths.empty()) return Error{EINVAL, "no path given; '.' is the whole volume"};
  if (o.precopy && o.nocopy)
    return Error{EINVAL, "precopy and nocopy exclude each other; leave one out"};
  if (o.precopy && o.activate)
    return Error{EINVAL, "a copy is active at once; use create --precopy, then activate"};
  if (auto status = check_selection(o.extents); !status) return status;
  if (auto status = check_schedule(o); !status) return status;
  for (const auto& path : o.paths) {
    const auto names = names_along(path);
    if (!names) return names.error();
    Fd at(disk_, disk_.open(source_dir_.get(), ".", O_PATH | O_DIRECTORY));
    struct stat st{};
    bool directory = true;
    for (const std::string& name : *names) {
      if (!directory)
        return Error{S_ISLNK(st.st_mode) ? ELOOP : ENOTDIR,
                     path + (S_ISLNK(st.st_mode)
                                 ? " leads through a symbolic link; name the path that it leads to"
                                 : " leads through a file that is no directory")};
      Fd next(disk_, disk_.open(at.get(), name.c_str(), O_PATH | O_NOFOLLOW));
      if (!next) return Error::from_errno(next.get(), "cannot clone " + path);
      if (const int e = disk_.stat(next.get(), "", &st); e < 0)
        return Error::from_errno(e, "cannot clone " + path);
      if (st.st_dev != device_)
        return Error{EXDEV, path + " lies on a file system that is mounted in the volume; mount "
                                   "clonefs over that one to clone it"};
      if (st.st_dev == pool_device_ && st.st_ino == pool_ino_)
        return Error{EINVAL, path + " is the pool itself"};
      directory = S_ISDIR(st.st_mode);
      at = std::move(next);
    }
    if (path.back() == '/' && !directory)
      return Error{ENOTDIR, path + " is no directory"};
  }
  return {};
}

// SHARING: without what it will share with the generation before.
uint64_t Core::room_needed(Session& s, bool sharing) {
  uint64_t needed = 0;
  for (const auto& o : s.objects) {
    if (o.gone || !o.is_regular()) continue;
    uint64_t tracks = o.pending.load();
    if (tracks == 0) continue;
    CopyFiles files;
    if (sharing && (files.source = open_source(o, O_PATH))) find_donor(s, o, files);
    const auto shared = donor_has(s, o, {0, o.column->count}, files);
    for (uint64_t t = 0; t < shared.size(); ++t)
      if (shared[t] && is_pending(o.column->at(t))) --tracks;
    needed += std::min(tracks * s.track_size.bytes(), (o.size + 4095) / 4096 * 4096);
  }
  return needed;
}

Result<uint64_t> Core::room() const {
  struct statvfs fs{};
  if (const int e = disk_.statvfs(pool_dir_.get(), &fs); e < 0)
    return Error::from_errno(e, "cannot ask the pool for its free space");
  return uint64_t{fs.f_bavail} * fs.f_frsize;
}

Status Core::check_space(Session& s) {
  const auto room = this->room();
  if (!room) return room.error();
  uint64_t needed = room_needed(s, false);
  s.counts_on_sharing = needed > *room && s.previous != nullptr && pool_shares_blocks();
  if (s.counts_on_sharing) needed = room_needed(s, true);
  if (needed <= *room) return {};
  return Error{ENOSPC, "the pool has room for " + std::to_string(*room >> 20) + " MiB, the clone " +
                           s.name + " may need " + std::to_string(needed >> 20) +
                           " MiB; delete old clones, " +
                           (s.previous == nullptr ? "choose another --pool, or say --thin"
                                                  : "or say --in-place-refresh, which needs no room for both "
                                                    "generations")};
}

Status Core::create(const CreateOptions& o) { return prepare(o, nullptr, 0); }

// PREVIOUS: what the name shows until the new session is activated.
Status Core::prepare(const CreateOptions& o, const SessionPtr& previous, unsigned keep) {
  auto s = std::make_shared<Session>();
  const TrackSize track_size = o.track_size.value_or(options_.track_size);
  std::unique_lock work(s->work_mutex, std::defer_lock);
  {
    const std::lock_guard command(command_mutex_);
    if (closed_) return Error{ESHUTDOWN, "clonefs is being unmounted"};
    if (auto status = available(); !status) return status;
    if (auto status = check_create(o); !status) return status;
    if (auto status = select_paths(o.paths, &s->root_filter); !status) return status;
    if (const auto there = find(o.name); there != previous)
      return Error{EEXIST, "the name " + o.name +
                               " is in use; delete that clone first or choose another name"};
    std::vector<bool> used(options_.max_columns);
    {
      const std::shared_lock lock(sessions_mutex_);
      const auto take = [&](const Session& other) {
        if (other.state.load() != SessionState::kTerminated && other.column_id < used.size())
          used[other.column_id] = true;
      };
      for (const auto& [name, other] : sessions_) {
        take(*other);
        if (other->previous != nullptr) take(*other->previous);
      }
    }
    const auto free = std::find(used.begin(), used.end(), false);
    if (free == used.end())
      return Error{EUSERS, "all " + std::to_string(used.size()) +
                               " session columns are in use; terminate sessions that are Copied"};
    s->column_id = static_cast<unsigned>(free - used.begin());
    s->id = next_id_++;
    s->name = o.name;
    s->track_size = track_size;
    s->paths = o.paths;
    s->selection = o.extents;
    s->nocopy = o.nocopy;
    s->pace = o.pace;
    s->created_at = now();
    {
      Catalog::Batch batch(*catalog_);
      auto slot = batch.slot(o.name);
      if (!slot) return slot.error();
      s->slot = *slot;
      if (auto status = batch.commit(); !status) return status;
    }
    // Who finds it waits until it is built.
    work.lock();
    s->keep = keep;
    s->aside = previous != nullptr;
    const std::unique_lock lock(sessions_mutex_);
    if (previous != nullptr) {
      previous->frozen = true;
      if (previous->writers != 0) {  // since RECREATE looked
        previous->frozen = false;
        return writers_of(*previous);
      }
    }
    s->previous = previous;
    sessions_[s->name] = s;
  }
  call_for_journal();
  if (previous != nullptr) inherit_from(*s, previous);
  Status status = build(s, o);
  if (!status) undo_create(s);
  give_back_memory();
  work.unlock();
  const std::string what = previous == nullptr ? "create" : "recreate";
  if (!status) {
    unlist(s);
    events_.add(EventKind::kRefused, s->name,
                what + " " + s->name + " refused: " + status.error().message);
    return status;
  }
  events_.add(previous == nullptr ? EventKind::kCreated : EventKind::kRecreated, s->name,
              what + "d " + s->name);
  if (o.ttl_s != 0 || o.precopy_at != 0 || o.activate_at != 0) {
    const std::lock_guard command(command_mutex_);
    status = put_schedule(*s, {o.ttl_s, o.precopy_at, o.activate_at, {}, {}});
    if (!status) {
      (void)destroy(s);
      return status;
    }
  }
  start_worker(s);
  state_changed();
  if (o.activate) {
    status = activate({s->name});
    if (!status && !s->active()) (void)remove({s->name}, true);
    return status;
  }
  if (o.precopy && o.precopy_at == 0) return precopy({s->name});
  return {};
}

Result<TrackFile> Core::open_track_file(uint64_t id, bool durable) {
  return TrackFile::open(disk_, tracks_dir_.get(), std::to_string(id) + (durable ? ".durable" : ""));
}

void Core::remove_track_files(uint64_t id) {
  for (const char* suffix : {"", ".durable"})
    disk_.unlink(tracks_dir_.get(), (std::to_string(id) + suffix).c_str(), 0);
}

void Core::remove_digests(uint64_t id) {
  disk_.unlink(tracks_dir_.get(), digests_name(id).c_str(), 0);
}

// With the work mutex held.
Status Core::build(const SessionPtr& s, const CreateOptions& o) {
  for (auto* file : {&s->track_file, &s->durable_file}) {
    auto opened = open_track_file(s->id, file == &s->durable_file);
    if (!opened) return opened.error();
    *file = std::move(*opened);
  }
  auto digests = DigestFile::open(disk_, tracks_dir_.get(), digests_name(s->id), true);
  if (!digests) return digests.error();
  s->digests = std::move(*digests);
  if (auto status = make_root(s); !status) return status;
  // Until it stands still, or nearly: what goes on changing is brought up to date later.
  for (int pass = 0; pass < 4; ++pass) {
    bool quiet = false;
    if (auto status = sync_skeleton(s, &quiet); !status) return status;
    if (quiet) break;
  }
  if (!o.thin && !o.nocopy) {
    if (auto status = check_space(*s); !status) return status;
  }
  // What the catalog speaks of must be there after a power cut: the skeleton, the track tables.
  if (auto status = checkpoint({s}); !status) return status;
  // Not needed yet, but the list of what is to be written costs memory, and ACTIVATE its time.
  if (auto status = flush_tables(*s); !status) return status;
  {
    Catalog::Batch batch(*catalog_);
    auto status = batch.put_session(row_of(*s));
    if (status) status = put_rows(*s, batch);
    if (status) status = batch.commit();
    if (!status) return status;
  }
  rows_written(*s);
  s->building = false;
  return {};
}

void Core::undo_create(const SessionPtr& s) {
  s->removed = true;
  s->state.store(SessionState::kFailed);
  detach_all(*s);
  (void)remove_tree(incomplete_dir_.get(), s->name);
  remove_track_files(s->id);
  remove_digests(s->id);
  // What a pass left on the stage goes at the next start.
}

Status Core::hold(const SessionPtr& s, std::vector<std::unique_lock<std::mutex>>& locks) {
  locks.emplace_back(s->work_mutex);
  if (s->removed) return Error{ENOENT, "there is no clone named " + s->name};
  return {};
}

// --- PRECOPY -----------------------------------------------------------------------------------

Status Core::precopy(const std::vector<std::string>& names) {
  const std::lock_guard command(command_mutex_);
  Status status;
  const auto sessions = find_all(names, &status);
  if (!status) return status;
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& s : sessions) {
    if (status = hold(s, locks); !status) return status;
    const auto state = s->state.load();
    if (state != SessionState::kCreated)
      return Error{state == SessionState::kPrecopy ? EALREADY : EINVAL,
                   s->name + " is " + to_string(state) + "; only a Created session can be precopied"};
    if (s->nocopy)
      return Error{EINVAL, s->name + " was created with nocopy: nothing copies it in the background"};
  }
  Catalog::Batch batch(*catalog_);
  for (const auto& s : sessions) {
    status = batch.set_state(s->id, static_cast<int>(SessionState::kPrecopy), "");
    if (!status) return status;
  }
  if (status = batch.commit(); !status) return status;
  for (const auto& s : sessions) {
    s->state.store(SessionState::kPrecopy);
    wake(*s);
    events_.add(EventKind::kPrecopy, s->name, "precopy " + s->name);
  }
  state_changed();
  return {};
}

// --- ACTIVATE ----------------------------------------------------------------------------------

Status Core::activate(const std::vector<std::string>& names) {
  wait_until_unused(names);
  std::vector<SessionPtr> sessions;
  std::set<std::string> replaced;
  {
    const std::lock_guard command(command_mutex_);
    if (closed_) return Error{ESHUTDOWN, "clonefs is being unmounted"};
    Status status;
    sessions = find_all(names, &status);
    if (!status) return status;
    if (status = activate_sessions(sessions, &replaced); !status) return status;
  }
  for (const auto& s : sessions)
    if (!replaced.contains(s->name)) notify_clones(s->name);
  for (const auto& name : replaced) notify_clones(name, true);
  return {};
}

// REPLACED: names that show another generation now.
Status Core::activate_sessions(const std::vector<SessionPtr>& sessions,
                               std::set<std::string>* replaced) {
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& s : sessions) {
    if (auto status = hold(s, locks); !status) return status;
    const auto state = s->state.load();
    if (state == SessionState::kCreated || state == SessionState::kPrecopy) continue;
    return Error{state == SessionState::kCopyInProgress ? EALREADY : EINVAL,
                 s->name + " is " + to_string(state) +
                     "; only a Created or Precopy session can be activated"};
  }
  std::function<Status(const Engine::Wanted&)> flush;
  {
    const std::lock_guard lock(hooks_mutex_);
    flush = flush_;
  }
  const auto is_member = [&](SourceId id) {
    Attachments attachments;
    if (!sources_.find(id, &attachments)) return false;
    for (const auto& a : *attachments)
      if (std::find(sessions.begin(), sessions.end(), a.session) != sessions.end()) return true;
    return false;
  };
  // Outside the fence, so that little is left for it: names, then what caches hold, then what that
  // brought.
  for (int round = 0; round < 3; ++round) {
    bool all_quiet = true;
    for (const auto& s : sessions) {
      bool quiet = true;
      if (auto status = sync_skeleton(s, &quiet); !status) return refusal(s, status.error());
      all_quiet &= quiet;
    }
    if (round > 0 && all_quiet) break;
    if (flush && round < 2) {
      if (auto status = flush(is_member); !status)
        return Error{status.error().code,
                     "cannot activate: data that programs wrote does not reach clonefs: " +
                         status.error().message};
    }
  }

  // What is precopied becomes durable here; what changes until the fence, after it.
  // That may take its time: once more what became stale in it.
  if (auto status = checkpoint(sessions); !status) return status;
  if (auto status = sync_sources(sessions); !status) return status;
  for (const auto& s : sessions) {
    auto status = sync_skeleton(s);
    if (status) status = flush_tables(*s);
    if (!status) return refusal(s, status.error());
  }

  // What is shared is shared before; the rest is copied.
  for (const auto& s : sessions) {
    if (!s->counts_on_sharing) continue;
    const auto room = this->room();
    if (!room) return room.error();
    if (room_needed(*s, false) > *room)
      return Error{ENOSPC, "cannot activate " + s->name + " before it is precopied: the pool has no room for the "
                           "rest; `clonefs wait " + s->name + " --for precopied` first, or delete old clones"};
  }
  const auto turns = begin_replacing(sessions);
  if (!turns) return turns.error();

  const auto begin = std::chrono::steady_clock::now();
  fence_.close();
  Status status;
  for (const auto& s : sessions) {
    for (bool quiet = false; status && !quiet;) status = sync_skeleton(s, &quiet);
    if (!status) {
      fence_.open([] {});
      end_replacing(*turns);
      return refusal(s, status.error());
    }
  }
  const bool in_time = fence_.open([&] {
    const timespec at = now();
    for (const auto& s : sessions) {
      s->activated_at = at;
      s->cursor.filled = false;
      end_trouble(*s);
      s->state.store(SessionState::kCopyInProgress, std::memory_order_release);
    }
  });
  if (!in_time) {
    end_replacing(*turns);
    return Error{ETIMEDOUT, "cannot activate: programs that write would have waited for longer than "
                            "the stall limit (--stall-limit) for the pool; nothing was activated, "
                            "try again"};
  }
  const auto fence_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin)
          .count());
  fences_.note_ns(fence_ns);

  // Until this is done, what no checkpoint has made durable is saved in the journal.
  for (const auto& s : sessions)
    if (status) status = flush_tables(*s);
  if (status) status = checkpoint({});
  if (status) status = sync_sources(sessions);
  {
    Catalog::Batch batch(*catalog_);
    for (const auto& s : sessions) {
      s->fence_ns = fence_ns;
      auto row = row_of(*s);
      row.aside = false;
      row.keep = 0;
      if (status) status = retire(*turns, s->name, batch);
      if (status) status = put_rows(*s, batch);
      if (status) status = batch.put_session(row);
    }
    if (status) status = batch.commit();
  }
  if (status) {
    for (const auto& turn : *turns) {
      replaced->insert(turn.session->name);
      if (!turn.name.empty()) replaced->insert(turn.name);
    }
    replace_previous(sessions, *turns);
  } else {
    end_replacing(*turns);
  }
  for (const auto& s : sessions) {
    if (!status) {
      fail(*s, "the activation could not be written to the catalog: " + status.error().message);
      continue;
    }
    rows_written(*s);
    events_.add(EventKind::kActivated, s->name, "activated " + s->name);
    wake(*s);
  }
  state_changed();
  return status;
}

// What is stale stays noted: the session can be activated when the cause is gone.
Error Core::refusal(const SessionPtr& s, const Error& error) {
  return {error.code, "cannot activate " + s->name + ", which is as it was: " + error.message};
}

// --- TERMINATE, delete ---------------------------------------------------------------------------

Status Core::terminate(const std::vector<std::string>& names, bool force) {
  std::vector<SessionPtr> gone;
  {
    const std::lock_guard command(command_mutex_);
    Status status;
    const auto sessions = find_all(names, &status);
    if (!status) return status;
    for (const auto& s : sessions) {
      const auto state = s->state.load();
      if (state == SessionState::kTerminated)
        return Error{EALREADY, s->name + " is terminated already; its clone remains until "
                                         "`clonefs delete " + s->name + "`"};
      if (state != SessionState::kCopied && !force)
        return Error{EBUSY, s->name + " is " + to_string(state) +
                                ", not Copied; wait for it, or terminate it with --force, which " +
                                (s->aside ? "drops it and leaves the generation before as it is"
                                          : "removes the incomplete clone")};
      if (state != SessionState::kCopied) {
        if (status = check_held(*s); !status) return status;
      }
    }
    for (const auto& s : sessions) {
      if (s->state.load() != SessionState::kCopied) {
        if (auto r = destroy(s); !r) return r;
        events_.add(EventKind::kTerminated, s->name, "terminated by force " + s->name);
        gone.push_back(s);
        continue;
      }
      stop_worker(*s);
      const std::lock_guard work(s->work_mutex);
      Catalog::Batch batch(*catalog_);
      status = batch.set_state(s->id, static_cast<int>(SessionState::kTerminated), "");
      if (status) status = batch.commit();
      if (!status) return status;
      s->state.store(SessionState::kTerminated);
      detach_all(*s);
      release_columns(*s);
      events_.add(EventKind::kTerminated, s->name, "terminated " + s->name);
    }
    state_changed();
  }
  for (const auto& s : gone) notify_clones(s->name);
  return {};
}

void Core::release_columns(Session& s) {
  for (auto& o : s.objects) {
    const std::lock_guard lock(s.object_lock(o));
    if (o.column == nullptr) continue;
    o.column->digests = std::max<uint64_t>(o.column->digests, o.column->count);
    o.column->count = 0;
  }
  auto& c = s.counters;
  for (auto* counter : {&c.tracks_total, &c.tracks_pending, &c.tracks_precopied, &c.tracks_recopied,
                        &c.cofw_tracks, &c.clone_read_tracks, &c.bytes_total, &c.bytes_copied})
    counter->store(0);
  remove_track_files(s.id);
}

Status Core::remove(const std::vector<std::string>& names, bool force) {
  std::vector<SessionPtr> sessions;
  {
    const std::lock_guard command(command_mutex_);
    Status status;
    sessions = find_all(names, &status);
    if (!status) return status;
    for (const auto& s : sessions) {
      const auto state = s->state.load();
      if (state != SessionState::kCopied && state != SessionState::kTerminated && !force)
        return Error{EBUSY, s->name + " is " + to_string(state) +
                                "; `clonefs terminate --force " + s->name + "` removes it"};
      status = check_held(*s);
      if (status && s->previous != nullptr) status = check_held(*s->previous);
      if (!status) return status;
    }
    for (const auto& s : sessions) {
      const auto previous = s->previous;
      status = destroy(s);
      if (status && previous != nullptr) status = destroy(previous);
      if (!status) return status;
      events_.add(EventKind::kDeleted, s->name, "deleted " + s->name);
    }
    state_changed();
  }
  for (const auto& s : sessions) notify_clones(s->name);
  sessions.clear();
  give_back_memory();
  return {};
}

// With the command mutex held. What is on disk goes in an order that a killed daemon can go on with:
// the row says Removing first and goes last.
Status Core::destroy(const SessionPtr& s) {
  {
    Catalog::Batch batch(*catalog_);
    auto status = batch.set_state(s->id, kRemovingState, "");
    if (status) status = batch.commit();
    // Deleting is the way out of a full pool: there the tree goes first. Killed in between, the
    // session is Failed without a tree, and can be deleted again.
    if (!status && status.error().code != ENOSPC) return status;
  }
  s->removed = true;
  stop_worker(*s);
  {
    const std::lock_guard work(s->work_mutex);
    s->cursor = Session::Cursor{};
    detach_all(*s);
  }
  const auto previous = s->previous;
  unlist(s);
  auto status = remove_from_disk(s->id, s->name, false);
  if (previous != nullptr) named_once(*previous);
  return status;
}

Status Core::remove_from_disk(uint64_t id, const std::string& name, bool aside) {
  const std::string place = removed_name(id);
  for (const Fd* dir : {&incomplete_dir_, &clones_dir_}) {
    if (aside) break;
    const int e = disk_.rename(dir->get(), name.c_str(), stage_dir_.get(), place.c_str(), 0);
    if (e < 0 && e != -ENOENT)
      return Error::from_errno(e, "cannot remove the clone " + name + " from the pool");
    if (e < 0) continue;
    // Gone from there before the row goes, else the name could not be used again.
    if (const int r = disk_.sync(dir->get()); r < 0)
      return Error::from_errno(r, "cannot remove the clone " + name + " from the pool");
    break;
  }
  if (auto status = remove_tree(stage_dir_.get(), place); !status) return status;
  remove_track_files(id);
  remove_digests(id);
  Catalog::Batch batch(*catalog_);
  auto status = batch.drop_session(id);
  if (status) status = batch.commit();
  if (status) timetable_.drop(id);
  return status;
}

void Core::detach(Session& s, Object& o) {
  (void)s;
  if (const auto source = sources_.detach(o)) release_limbo(*source);
}

void Core::detach_all(Session& s) {
  for (auto& o : s.objects) detach(s, o);
}

// --- the rest --------------------------------------------------------------------------------------

void Core::state_changed() {
  const std::lock_guard lock(state_mutex_);
  ++state_version_;
  state_cv_.notify_all();
}

void Core::notify_clones(const std::string& name, bool replaced) {
  std::function<void(const std::string&, bool)> changed;
  {
    const std::lock_guard lock(hooks_mutex_);
    changed = clones_changed_;
  }
  if (changed) changed(name, replaced);
}

Status Core::set_rate(const std::string& name, uint64_t pace) {
  const std::lock_guard command(command_mutex_);
  const auto s = find(name);
  if (s == nullptr)
    return no_clone(name);
  s->pace.store(pace);
  if (!s->building) {
    Catalog::Batch batch(*catalog_);
    auto status = batch.set_rate(s->id, pace);
    if (status) status = batch.commit();
    if (!status) return status;
  }
  wake(*s);
  return {};
}

Status Core::wait(const std::string& name, Engine::Goal goal,
                  std::optional<std::chrono::milliseconds> timeout) {
  const auto deadline = std::chrono::steady_clock::now() +
                        timeout.value_or(std::chrono::hours(24 * 365));
  const auto s = find(name);
  if (s == nullptr)
    return no_clone(name);
  std::unique_lock lock(state_mutex_);
  for (;;) {
    if (s->removed) return Error{ENOENT, name + " was removed while you waited"};
    const auto state = s->state.load();
    switch (state) {
      case SessionState::kCopied:
      case SessionState::kTerminated:
        return {};
      case SessionState::kFailed: {
        const std::lock_guard text(s->text_mutex);
        return Error{EIO, name + " is Failed: " + s->error};
      }
      case SessionState::kCopyInProgress:
        if (goal == Engine::Goal::kPrecopied) return {};
        if (s->nocopy)
          return Error{EINVAL, name + " was created with nocopy: nothing copies it in the background"};
        break;
      case SessionState::kPrecopy:
        if (goal == Engine::Goal::kPrecopied && s->precopied.load()) return {};
        break;
      case SessionState::kCreated:
        if (goal == Engine::Goal::kPrecopied && !s->building && timetable_.of(s->id).precopy_at == 0)
          return Error{EINVAL, name + " is Created: precopy it first"};
        break;
    }
    if (s->trouble.load() == Trouble::kPaused) {
      const std::lock_guard text(s->text_mutex);
      return Error{EIO, name + " is paused: " + s->trouble_text + "; `clonefs resume " + name +
                            "` goes on"};
    }
    if (closed_) return Error{ESHUTDOWN, "clonefs is being unmounted"};
    const auto version = state_version_;
    if (!state_cv_.wait_until(lock, deadline, [&] { return state_version_ != version; }))
      return Error{ETIMEDOUT, name + " is " + to_string(s->state.load()) + " still; the time is over"};
  }
}

}  // namespace clonefs::detail
