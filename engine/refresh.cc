// RECREATE: generations of a name.
//
// The next generation is a session like any other, with a tree of its own, beside the one that the name
// shows (Session::previous) until it is activated. What did not change since that one's consistency
// point is inherited: the next tree has another name for the same file of the pool, whose tracks are
// precopied from the start. Rules:
//
//  R1  While there is a next generation, the one before is frozen: it can be read, not changed. Files that
//      its user changed, or may have (Object::altered, changed), are not inherited.
//  R2  An inherited file is not touched before the activation. When its source changes, the object is
//      dropped and its name made anew, with a file of its own (disinherit).
//  R3  So at the activation nothing is pending in an inherited file, and what is put there from then on is
//      what the clone's user writes.
//  R4  Where the file system of the pool can share blocks, files that are not inherited share those of the
//      tracks that did not change with the previous generation's file, their donor. Whether a track
//      changed (its notes, or the ctime of the source) is looked at once its copy has begun (kCopying): who
//      writes later takes the mark away.
//  R5  No generation is replaced while a file or directory of it is open. Who reads it is not given a
//      mixture, and who has it open keeps what he opened.
//
// Older generations that are kept (NAME.1 ...) have files of their own: only blocks are shared. One that somebody holds is not replaced, and is
// kept beyond the number that was asked for. With --in-place-refresh there is no next
// generation: the session itself goes back to Created, as if it were found there at a mount.
#include "engine/core.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <unordered_map>

#include "engine/row_rules.h"

namespace clonefs::detail {

namespace {

// Nanoseconds: where ctimes have no fractions of milliseconds. Elsewhere EngineOptions::ctime_tick.
constexpr int64_t kCoarseTick = 2'000'000'000;

std::string kept_name(const std::string& name, unsigned number) {
  return name + "." + std::to_string(number);
}

// Which of the kept generations of KEPT_OF it is.
unsigned kept_number(const Session& s) {
  unsigned number = 0;
  const char* const end = s.name.data() + s.name.size();
  if (s.name.size() <= s.kept_of.size() + 1) return 0;
  const auto r = std::from_chars(s.name.data() + s.kept_of.size() + 1, end, number);
  return r.ec == std::errc() && r.ptr == end ? number : 0;
}

}  // namespace

// --- what did not change -----------------------------------------------------------------------

int64_t Core::ctime_tick(const timespec& ctime) const {
  return ctime.tv_nsec % 1'000'000 == 0 ? kCoarseTick : options_.ctime_tick.count();
}

bool Core::unchanged_since(const Session& previous, const Object& p, const struct stat& st) const {
  const timespec ctime = p.ctime;
  const int64_t tick = ctime_tick(ctime);
  const int64_t at = nanoseconds(previous.activated_at);
  // After a power cut data may be newer than the ctime that goes with it.
  return same_time(ctime, st.st_ctim) && p.size == static_cast<uint64_t>(st.st_size) &&
         nanoseconds(ctime) + tick <= at && power_cut_at_ns_ < at;
}

void Core::inherit_from(Session& s, const SessionPtr& previous) {
  const auto state = previous->state.load();
  if ((state != SessionState::kCopied && state != SessionState::kTerminated)) return;
  auto digests = DigestFile::read_only(disk_, tracks_dir_.get(), digests_name(previous->id));
  if (!digests) return;  // nothing would tell what its tracks have
  s.previous_digests = std::move(*digests);
  for (auto& p : previous->objects)
    if (p.is_regular() && !p.gone && p.column != nullptr) s.inheritance.add(p);
}

// Whether the clone's file P is as the drain left it: its user did not change it, nor did anybody in the pool
// itself, as far as that shows.
bool Core::is_as_drained(const Object& p, nlink_t most_names) const {
  if (p.altered != Object::kNot || p.changed || !p.finished) return false;
  const Fd clone = open_clone(p, O_PATH);
  struct stat there{};
  return clone && disk_.stat(clone.get(), "", &there) == 0 && there.st_nlink <= most_names &&
         static_cast<uint64_t>(there.st_size) == p.size && same_time(there.st_mtim, p.mtime);
}

// The object of the previous generation whose file the next one may have. A file with several names has
// them in several directories: it is not inherited, so that an inherited one has one place.
Object* Core::inheritable(const Session& s, int source_fd, const struct stat& st) const {
  if (s.previous == nullptr || s.keep > 0 || st.st_nlink != 1) return nullptr;
  std::string handle;
  bool has_handle = false;
  return s.inheritance.find_if(st.st_ino, [&](Object& p) {
    if (!unchanged_since(*s.previous, p, st)) return false;
    if (handle.empty()) has_handle = disk_.handle_of(source_fd, &handle) == 0;
    if (has_handle && !p.source.handle().empty() && p.source.handle() != handle) return false;
    return is_as_drained(p, p.named_twice ? 2 : 1);
  });
}

// The first look at an inherited object: its column, all precopied. False: it cannot be inherited.
Result<bool> Core::adopt(Session& s, Object& o, const struct stat& st) {
  Object* p = s.inheritance.find_if(o.source_id, [&](Object& x) { return x.pool_ino == o.pool_ino; });
  const auto good = [&](const struct stat& now) {
    return p != nullptr && p->altered == Object::kNot && !p->changed &&
           unchanged_since(*s.previous, *p, now);
  };
  if (!good(st)) return false;
  o.size = p->size;
  if (auto status = sync_data_size(s, o, st, p->size); !status) return status.error();
  const uint64_t count = o.column->count;
  if (std::max<uint64_t>(p->column->count, p->column->digests) < count) return false;
  // As a copy: what is written from now on takes the mark away.
  change_bits(s, o, {0, count}, is_pending, on_copy_begun);
  struct stat now{};
  const Fd source = open_source(o, O_PATH);
  if (!source || disk_.stat(source.get(), "", &now) < 0 || !good(now)) return false;
  std::vector<uint64_t> digests;
  constexpr uint64_t kAtOnce = 1 << 16;
  for (uint64_t t = 0; t < count; t += digests.size()) {
    digests.resize(std::min(kAtOnce, count - t));
    int e = s.previous_digests.read(p->column->base + t, digests.data(), digests.size());
    if (e == 0) e = s.digests.write(o.column->base + t, digests.data(), digests.size());
    if (e < 0) return Error::from_errno(e, "cannot write the digests of " + path_of(s, o));
  }
  const auto marked = [](TrackBits b) { return is_pending(b) && is_copying(b); };
  const uint64_t before = s.counters.tracks_pending;
  change_bits(s, o, {0, count}, marked, on_precopied);
  s.counters.tracks_inherited.fetch_add(before - std::min<uint64_t>(before, s.counters.tracks_pending));
  o.atime = p->atime;
  o.mtime = p->mtime;
  o.ctime = p->ctime;
  if (p->capability != nullptr) o.capability = std::make_unique<std::string>(*p->capability);
  row_changed(s, o);
  return true;
}

// Asked at the first RECREATE: two files on the stage tell it, unless they cannot be made.
bool Core::pool_shares_blocks() {
  if (!options_.share) return false;
  const std::lock_guard lock(pool_shares_mutex_);
  if (pool_shares_) return *pool_shares_;
  const std::string block(TrackSize::kMin, 'x');
  std::array<Fd, 2> files;
  bool made = true;
  for (size_t i = 0; i < files.size() && made; ++i) {
    const std::string name = "sharing-" + std::to_string(i);
    files[i] = Fd(disk_, disk_.open(stage_dir_.get(), name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    made = files[i] && disk_.pwrite_full(files[i].get(), block.data(), block.size(), 0) == 0;
    disk_.unlink(stage_dir_.get(), name.c_str(), 0);
  }
  if (!made) return false;
  const int e = disk_.transfer(Disk::Transfer::kShare, files[0].get(), files[1].get(), 0, block.size());
  if (e == 0 || e == -EOPNOTSUPP || e == -ENOTTY || e == -EXDEV || e == -ENOSYS || e == -EINVAL)
    pool_shares_ = e == 0;
  return e == 0;
}

// Finds the donor of O. A number that was given to another file is told by the handle.
void Core::find_donor(const Session& s, const Object& o, CopyFiles& files) {
  if (s.previous == nullptr || o.compare || !s.before_activation() || !pool_shares_blocks()) return;
  files.donor = s.inheritance.find_if(o.source_id, [&](const Object& p) {
    return !p.source.handle().empty() && p.source.handle() == o.source.handle() &&
           is_as_drained(p, std::numeric_limits<nlink_t>::max());
  });
  if (files.donor == nullptr) return;
  files.donor_file = open_clone(*files.donor, O_RDONLY);
  if (!files.donor_file) files.donor = nullptr;
}

// Which of TRACKS, whose copy has begun, can be shared with the donor; empty: none.
std::vector<bool> Core::donor_has(const Session& s, const Object& o, Extent tracks,
                                  const CopyFiles& files) const {
  const Object* p = files.donor;
  if (p == nullptr) return {};
  const TrackSize ts = s.track_size;
  // Blocks are shared whole, but for the end that both have; with their digests.
  const uint64_t whole = o.size == p->size ? ts.tracks_in(o.size) : std::min(o.size, p->size) / ts.bytes();
  const uint64_t end = std::min<uint64_t>(whole, std::max(p->column->count, p->column->digests));
  std::vector<bool> has(tracks.count);
  bool any = false;
  const bool noted = p->tracked && p->only_tracked;
  struct stat st{};
  if (!noted && (disk_.stat(files.source.get(), "", &st) < 0 || !unchanged_since(*s.previous, *p, st)))
    return {};
  for (uint64_t t = tracks.first; t < std::min(tracks.end(), end); ++t) {
    const TrackBits b = p->column->at(t);
    any |= has[t - tracks.first] = !noted || (is_drained(b) && !is_changed(b));
  }
  return any ? has : std::vector<bool>();
}

// Puts TRACKS on the clone side: their blocks are the donor's, their digests too. False: it is for others
// to do, nothing counts as put. With the claim.
bool Core::share_tracks(Session& s, Object& o, Extent tracks, const CopyFiles& files) {
  const TrackSize ts = s.track_size;
  const uint64_t from = ts.offset_of(tracks.first);
  const uint64_t end = std::min(ts.offset_of(tracks.end()), o.size);
  std::vector<uint64_t> digests(tracks.count);
  o.finished.store(false);
  return from < end &&
         disk_.transfer(Disk::Transfer::kShare, files.donor_file.get(), files.clone.get(), from,
                        end - from) == 0 &&
         keep_capability(o, files.clone.get()) == 0 &&
         s.previous_digests.read(files.donor->column->base + tracks.first, digests.data(),
                                 digests.size()) == 0 &&
         s.digests.write(o.column->base + tracks.first, digests.data(), digests.size()) == 0;
}

// The name is missing then: the next pass makes it.
void Core::disinherit(Session& s, Object& o) {
  Object* parent = o.parent;
  drop_object(s, o);
  if (parent != nullptr) mark_name(s, *parent, "");
}

// --- RECREATE ----------------------------------------------------------------------------------

Error Core::writers_of(const Session& s) {
  return {EBUSY, "programs have files of " + s.name + " open for writing, and could write no more while the next "
                 "generation is prepared; end them first"};
}

Status Core::recreate(const RecreateOptions& o) {
  std::vector<SessionPtr> sessions;
  std::vector<CreateOptions> next;  // of each
  if (o.keep > kMaxKept)
    return Error{EINVAL, "at most " + std::to_string(kMaxKept) + " generations can be kept"};
  if (o.in_place && o.keep > 0)
    return Error{EINVAL, "what is refreshed in place leaves no older generation to keep; leave "
                         "--keep or --in-place-refresh out"};
  wait_for_closes(o.names, !o.in_place);
  {
    const std::lock_guard command(command_mutex_);
    if (closed_) return Error{ESHUTDOWN, "clonefs is being unmounted"};
    if (auto status = available(); !status) return status;
    Status status;
    sessions = find_all(o.names, &status);
    if (!status) return status;
    for (const auto& s : sessions) {
      const auto state = s->state.load();
      if (s->aside)
        return Error{EALREADY, "the next generation of " + s->name + " is being prepared already (" +
                                   to_string(state) + "); activate it, or drop it with terminate --force"};
      if (state == SessionState::kTerminated && o.in_place)
        return Error{EINVAL, s->name + " is Terminated: nothing is known of its tracks any more; leave "
                                       "--in-place-refresh out"};
      if (s->before_activation())
        return Error{EBUSY, s->name + " is " + to_string(state) + ": its " +
                                (s->activated_at.tv_sec == 0 ? "first generation" : "refresh") +
                                " is being prepared; activate it (`clonefs activate " + s->name + "`)"};
      if (state == SessionState::kCopyInProgress)
        return Error{EBUSY, s->name + " is not drained; " +
                                (s->nocopy ? "it copies only what is asked for (--nocopy): copy it anew"
                                           : "wait for it (`clonefs wait " + s->name + "`)")};
      if (s->writers != 0) return writers_of(*s);
      if (!s->kept_of.empty())
        return Error{EINVAL, s->name + " is an older generation of " + s->kept_of +
                                 "; recreate that one"};
      // With --keep it stays, under another name.
      if (o.keep == 0) {
        if (status = check_held(*s); !status) return status;
      }
      CreateOptions& create = next.emplace_back();
      create.precopy_at = o.precopy_at;
      create.activate_at = o.activate_at;
      create.ttl_s = o.ttl_s.value_or(timetable_.of(s->id).ttl_s);
      create.name = s->name;
      create.paths = s->paths;
      create.extents = s->selection;
      create.track_size = s->track_size;
      create.nocopy = s->nocopy;
      create.pace = s->pace;
      if (status = check_create(create); !status) return status;
      for (unsigned i = 1; i <= o.keep; ++i) {
        const std::string name = kept_name(s->name, i);
        const auto other = find(name);
        if (!is_session_name(name) || (other != nullptr && other->kept_of != s->name))
          return Error{EEXIST, "an older generation of " + s->name + " would be named " + name +
                                   (other == nullptr ? ", which is no name" : ", which is another clone")};
      }
    }
  }
  std::vector<std::string> made;
  Status status;
  for (size_t i = 0; i < sessions.size(); ++i) {
    const SessionPtr& s = sessions[i];
    const bool failed = s->state.load() == SessionState::kFailed;
    if (o.in_place && !failed) {
      status = refresh_in_place(s->name);
      const std::lock_guard command(command_mutex_);
      if (const auto fresh = find(s->name); status && fresh != nullptr)
        status = put_schedule(*fresh, {next[i].ttl_s, o.precopy_at, o.activate_at, {}, {}});
    } else {
      // Nobody can read what is Failed: it makes room first.
      if (failed) status = remove({s->name}, true);
      if (status) status = prepare(next[i], failed ? nullptr : s, o.keep);
      if (failed && !status && find(s->name) == nullptr)
        status = Error{status.error().code, status.error().message + ". The Failed " + s->name +
                                                " has made room and is gone: create it anew"};
    }
    if (!status) break;
    made.push_back(s->name);
  }
  if (!status) {
    // Those that are beside their previous generation go again; in place there is no way back.
    for (const auto& name : made)
      if (const auto s = find(name); s != nullptr && s->aside) (void)terminate({name}, true);
    return status;
  }
  if (o.precopy && o.precopy_at == 0) return precopy(made);
  return {};
}

// The session goes back to Created with its tree and tables, and is taken up as one that is found so at
// a mount after a clean end: what did not change is precopied, the rest is compared.
Status Core::refresh_in_place(const std::string& name) {
  {
    const std::lock_guard command(command_mutex_);
    const auto s = find(name);
    if (s == nullptr) return no_clone(name);
    if (s->state.load() != SessionState::kCopied)
      return Error{EBUSY, name + " is " + to_string(s->state.load()) + ", not Copied"};
    s->replaced = true;
    if (s->open_handles != 0) {
      s->replaced = false;
      return Error{EBUSY, "programs have files of " + name + " open; end them, or leave "
                          "--in-place-refresh out"};
    }
    stop_worker(*s);
    Status status;
    {
      const std::lock_guard work(s->work_mutex);
      status = flush_rows(*s);
      Catalog::Batch batch(*catalog_);
      if (status) status = batch.set_state(s->id, static_cast<int>(SessionState::kCreated), "");
      if (status) status = batch.commit();
    }
    if (!status) {
      s->replaced = false;
      return status;
    }
    s->removed = true;
    {
      const std::unique_lock lock(sessions_mutex_);
      sessions_.erase(name);
    }
    status = settle_trees();
    const auto rows = catalog_->sessions();
    if (status && !rows) status = rows.error();
    for (const auto& row : rows ? *rows : std::vector<SessionRow>()) {
      if (row.id != s->id) continue;
      // What a power cut left of the tables of a clone that was Copied is anything.
      const bool good = power_cut_at_ns_ < nanoseconds(row.activated_at);
      const LastEnd end = {good, good, power(), false, s};
      if (status) status = load_session(row, end);
      const auto fresh = find(name);
      if (status && fresh->state.load() == SessionState::kFailed)
        status = Error{EIO, name + " cannot be refreshed: " + fresh->error};
      if (status) start_worker(fresh);
    }
    // Until here it noted what was written.
    detach_all(*s);
    if (!status) return status;
    events_.add(EventKind::kRecreated, name, "recreated " + name + " in place");
  }
  notify_clones(name, true);
  state_changed();
  return {};
}

// --- the activation takes the previous generation's place ------------------------------------------

std::vector<Core::Turn> Core::turns(const Session& s) const {
  if (s.previous == nullptr) return {};
  if (s.keep == 0) return {{s.previous, ""}};
  std::map<unsigned, SessionPtr> kept;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& [name, other] : sessions_)
      if (other->kept_of == s.name) kept[kept_number(*other)] = other;
  }
  std::vector<Turn> turns;
  // Each takes the next number, up to the first one that is free.
  SessionPtr turned = s.previous;
  for (unsigned number = 1; turned != nullptr; ++number) {
    const bool stays = number <= s.keep || (number > 1 && is_held(*turned));
    turns.push_back({turned, stays ? kept_name(s.name, number) : ""});
    const auto it = kept.find(number);
    turned = it == kept.end() ? nullptr : it->second;
    if (it != kept.end()) kept.erase(it);
  }
  for (const auto& [number, other] : kept)
    if (number > s.keep && !is_held(*other)) turns.push_back({other, ""});
  std::reverse(turns.begin(), turns.end());
  return turns;
}

bool Core::is_used(const Session& s) const {
  if (s.open_handles != 0) return true;
  const auto at = s.used_at.load();
  return at != std::chrono::steady_clock::time_point::min() &&
         std::chrono::steady_clock::now() - at < options_.quiet;
}

void Core::wait_for_closes(const std::vector<std::string>& names, bool writers) const {
  const auto end = std::chrono::steady_clock::now() + options_.quiet / 2;
  for (const auto& name : names) {
    const auto s = find(name);
    while (s != nullptr && (writers ? s->writers : s->open_handles) != 0 &&
           std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(options_.quiet / 64);
  }
}

void Core::wait_until_unused(const std::vector<std::string>& names) const {
  std::vector<SessionPtr> replaced;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& name : names) {
      const auto it = sessions_.find(name);
      if (it == sessions_.end() || it->second->previous == nullptr) continue;
      replaced.push_back(it->second->previous);
      for (const auto& [other, s] : sessions_)
        if (s->kept_of == name) replaced.push_back(s);
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto end = begin + 3 * options_.quiet;
  // What is open may stay so: that is said soon.
  const auto passes = [&](const SessionPtr& s) {
    return is_used(*s) &&
           (s->open_handles == 0 || std::chrono::steady_clock::now() < begin + options_.quiet / 2);
  };
  while (std::any_of(replaced.begin(), replaced.end(), passes) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(options_.quiet / 8);
}

Result<std::vector<Core::Turn>> Core::begin_replacing(const std::vector<SessionPtr>& sessions) {
  std::vector<Turn> all;
  Status status;
  for (const auto& s : sessions) {
    for (auto& turn : turns(*s)) {
      turn.session->replaced = turn.session->frozen = true;
      if (status && turn.name.empty()) status = check_held(*turn.session);
      if (status && !turn.name.empty()) {
        // It is read again under its new name.
        const std::lock_guard work(turn.session->work_mutex);
        status = flush_rows(*turn.session);
      }
      if (status && is_used(*turn.session))
        status = Error{EBUSY, "cannot activate " + s->name + ": programs have files or directories of " +
                                  (turn.session == s->previous ? "the generation before"
                                                               : turn.session->name) +
                                  " open (or had a moment ago), and would see a mixture; end them, or wait "
                                  "until they are done"};
      if (const auto other = find(turn.name); status && other != nullptr && other->kept_of != s->name)
        status = Error{EEXIST, "cannot activate " + s->name + ": the generation before would be named " +
                                   turn.name + ", which is another clone"};
      all.push_back(std::move(turn));
    }
  }
  if (status) return all;
  end_replacing(all);
  return status.error();
}

void Core::end_replacing(const std::vector<Turn>& turns) {
  for (const auto& turn : turns) {
    turn.session->replaced = false;
    turn.session->frozen = turn.session->kept_of.empty();
  }
}

Status Core::retire(const std::vector<Turn>& turns, const std::string& of, Catalog::Batch& batch) {
  for (const auto& turn : turns) {
    if (turn.session->name != of && turn.session->kept_of != of) continue;
    const uint64_t id = turn.session->id;
    auto status = turn.name.empty() ? batch.set_removing(id, turn.session->name)
                                    : batch.set_kept(id, turn.name, of);
    if (!status) return status;
  }
  return {};
}

void Core::replace_previous(const std::vector<SessionPtr>& sessions, const std::vector<Turn>& turns) {
  for (const auto& turn : turns) turn.session->removed = true;
  {
    const std::unique_lock lock(sessions_mutex_);
    for (const auto& turn : turns) {
      const auto it = sessions_.find(turn.session->name);
      if (it != sessions_.end() && it->second == turn.session) sessions_.erase(it);
    }
    for (const auto& s : sessions) {
      s->previous.reset();
      s->aside = false;
    }
  }
  for (const auto& s : sessions) {
    for (auto& o : s->objects) o.inherited = false;
    s->cursor = {};  // what it would share is another's now
    s->inheritance = {};
    s->previous_digests = {};
  }
  if (turns.empty()) return;
  auto status = settle_trees();
  auto rows = catalog_->sessions();
  if (status && !rows) status = rows.error();
  for (const auto& turn : turns) {
    detach_all(*turn.session);
    if (turn.name.empty() || !rows) continue;
    remove_track_files(turn.session->id);
    for (const auto& row : *rows)
      if (status && row.id == turn.session->id) status = load_session(row, {true, true, power(), false, nullptr});
  }
  if (!status)
    events_.add(EventKind::kTrouble, "",
                "what was replaced could not all be put in its place (" + status.error().message +
                "); the next mount does it");
  {
    const std::lock_guard lock(retired_mutex_);
    for (const auto& turn : turns)
      retired_.push_back({turn.session, turn.name.empty(), find(turn.session->name)});
    retired_wake_.notify_all();
  }
  if (!options_.copy_threads) remove_retired();
}

// What is big takes its time: not the command's.
void Core::remove_retired() {
  for (;;) {
    Retired retired;
    {
      const std::lock_guard lock(retired_mutex_);
      if (retired_.empty()) return;
      retired = std::move(retired_.back());
      retired_.pop_back();
    }
    const SessionPtr& s = retired.session;
    stop_worker(*s);
    if (!retired.with_clone) continue;
    if (auto status = remove_from_disk(s->id, s->name, true); !status)
      events_.add(EventKind::kTrouble, s->name,
                  "the generation of " + s->name + " that was replaced could not be removed: " +
                  status.error().message + "; the next mount does it");
    else if (retired.heir != nullptr)
      named_once(*retired.heir);
  }
}

// The other generation's tree is gone.
void Core::named_once(Session& s) {
  for (auto& o : s.objects) o.named_twice = false;
}

void Core::removing() {
  idle_priority();
  for (;;) {
    remove_retired();
    std::unique_lock lock(retired_mutex_);
    retired_wake_.wait(lock, [&] { return removing_ends_ || !retired_.empty(); });
    if (removing_ends_) return;
  }
}

// --- lists and places ----------------------------------------------------------------------------

SessionPtr Core::shown(const std::string& name) const {
  const std::shared_lock lock(sessions_mutex_);
  const auto it = sessions_.find(name);
  if (it == sessions_.end()) return nullptr;
  return it->second->previous != nullptr ? it->second->previous : it->second;
}

std::vector<SessionPtr> Core::all_sessions() const {
  const std::shared_lock lock(sessions_mutex_);
  std::vector<SessionPtr> all;
  for (const auto& [name, s] : sessions_) {
    all.push_back(s);
    if (s->previous != nullptr) all.push_back(s->previous);
  }
  return all;
}

// S is gone: the name shows nothing, or what it showed before.
void Core::unlist(const SessionPtr& s) {
  const std::unique_lock lock(sessions_mutex_);
  const auto it = sessions_.find(s->name);
  if (it == sessions_.end() || it->second != s) return;
  if (s->previous == nullptr) {
    sessions_.erase(it);
    return;
  }
  it->second = std::move(s->previous);
  s->previous.reset();
  it->second->frozen = false;
}

// Each tree goes to the place that its row says: after a generation took another's place, or a daemon
// was killed while it did.
Status Core::settle_trees() {
  struct Wanted {
    const Fd* dir;
    std::string name;
    std::string handle;
    uint64_t id;
  };
  std::unordered_map<uint64_t, Wanted> wanted;  // by the root's number
  auto rows = catalog_->sessions();
  if (!rows) return rows.error();
  for (const auto& row : *rows) {
    if (!check_identity(row)) continue;
    auto root = catalog_->root(row.id);
    if (!root) return root.error();
    if (root->first == 0) continue;
    Wanted w{&incomplete_dir_, row.name, root->second, row.id};
    if (row.state == kRemovingState && row.aside) {
      w.dir = &stage_dir_;
      w.name = removed_name(row.id);
    } else if (row.state == static_cast<int>(SessionState::kCopied) ||
               row.state == static_cast<int>(SessionState::kTerminated)) {
      w.dir = &clones_dir_;
    } else if (row.state != static_cast<int>(SessionState::kCreated) &&
               row.state != static_cast<int>(SessionState::kPrecopy)) {
      continue;  // where they are: at the end of a drain it may be either
    }
    wanted.emplace(root->first, std::move(w));
  }
  std::vector<std::pair<std::string, Wanted>> moving;  // on their way, in clones/
  for (const Fd* dir : {&clones_dir_, &incomplete_dir_}) {
    std::vector<std::string> names;
    int e = disk_.list(dir->get(), [&](const Disk::Entry& entry) {
      names.push_back(entry.name);
      return true;
    });
    for (size_t i = 0; e == 0 && i < names.size(); ++i) {
      const Fd tree(disk_, disk_.open(dir->get(), names[i].c_str(), O_PATH | O_NOFOLLOW));
      struct stat st{};
      if (!tree || disk_.stat(tree.get(), "", &st) < 0) continue;
      const auto it = wanted.find(st.st_ino);
      if (it == wanted.end() || (it->second.dir == dir && it->second.name == names[i])) continue;
      std::string handle;
      if (!it->second.handle.empty() && disk_.handle_of(tree.get(), &handle) == 0 &&
          handle != it->second.handle)
        continue;
      // No name of a clone begins with a dot.
      std::string between = ".moving-" + std::to_string(it->second.id);
      if (names[i] != between)
        e = disk_.rename(dir->get(), names[i].c_str(), clones_dir_.get(), between.c_str(), 0);
      moving.emplace_back(std::move(between), it->second);
    }
    if (e < 0) return Error::from_errno(e, "cannot put the trees of the pool in their places");
  }
  int e = 0;
  for (const auto& [between, to] : moving) {
    if (e == 0)
      e = disk_.rename(clones_dir_.get(), between.c_str(), to.dir->get(), to.name.c_str(),
                       RENAME_NOREPLACE);
  }
  if (e == 0 && !moving.empty()) e = disk_.sync(clones_dir_.get());
  if (e == 0 && !moving.empty()) e = disk_.sync(incomplete_dir_.get());
  if (e < 0) return Error::from_errno(e, "cannot put the trees of the pool in their places");
  return {};
}

}  // namespace clonefs::detail
