// Checkpoints: what is on the clone side and its digests become durable, then the bits that say so, then the
// journal is free (DESIGN.md section 7). In that order: a bit is never durable before the data
// that it speaks of.
#include <fcntl.h>

#include <algorithm>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

// More files than this are synced faster all at once.
constexpr size_t kSyncOneByOne = 16;
// What was kept of as many for a moment is worth giving back.
constexpr size_t kManyObjects = 10'000;
// A source that changed so short before it was looked at could change again without another ctime.
constexpr time_t kFreshSeconds = 2;

struct Snapshot {
  SessionPtr session;
  Object* object;
  bool active;
  uint64_t base;
  std::vector<TrackBits> bits;
};

}  // namespace

void Core::note_for_checkpoint(Session& s, Object& o) {
  if (!power() || o.in_checkpoint.exchange(true)) return;
  const std::lock_guard lock(s.checkpoint_objects_mutex);
  s.checkpoint_objects.push_back(&o);
}

void Core::call_for_checkpoint() {
  if (!options_.copy_threads) {
    (void)checkpoint({});
    return;
  }
  const std::lock_guard lock(housekeeper_mutex_);
  checkpoint_called_ = true;
  housekeeper_wake_.notify_all();
}

// There will be COFWs: their journal is made ready for them.
void Core::call_for_journal() {
  if (!power()) return;
  if (!options_.copy_threads) {
    (void)prepare_journal();
    return;
  }
  const std::lock_guard lock(housekeeper_mutex_);
  journal_called_ = true;
  housekeeper_wake_.notify_all();
}

// False: it is ready. On a slow disk it takes turns with the rest of the housekeeping; a checkpoint comes first.
bool Core::prepare_journal() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
  do {
    {
      const std::lock_guard lock(housekeeper_mutex_);
      if (housekeeper_stop_ || checkpoint_called_) return true;
    }
    // Little of what is left, if little is.
    const auto room = this->room();
    if (!room || !journal_->zero_ahead(std::min(options_.journal_ahead, *room / 128))) return false;
  } while (std::chrono::steady_clock::now() < end);
  return true;
}

Status Core::checkpoint(const std::vector<SessionPtr>& extra) {
  if (!power()) return {};
  const std::lock_guard one(checkpoint_mutex_);
  // From here on new records go to the other file. What the old one holds has been put on the clone
  // side already, with its bits: the snapshots below have it.
  const bool rotated = journal_->rotate();

  std::vector<SessionPtr> sessions = extra;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& [name, s] : sessions_)
      if (s->active() && std::find(extra.begin(), extra.end(), s) == extra.end())
        sessions.push_back(s);
  }
  std::vector<Snapshot> snapshots;
  std::vector<std::pair<SessionPtr, Object*>> changed;
  std::vector<std::pair<SessionPtr, SourceMark>> marks;
  for (const auto& s : sessions) {
    const bool active = s->active();
    std::vector<Object*> objects;
    {
      const std::lock_guard lock(s->checkpoint_objects_mutex);
      objects.swap(s->checkpoint_objects);
    }
    for (Object* o : objects) {
      o->in_checkpoint.store(false);
      if (!o->gone) changed.emplace_back(s, o);
      struct stat st{};
      bool known = false;
      if (!active && !o->gone) {
        // Before the bits are looked at: a later write shows in the ctime.
        const Fd source = open_source(*o, O_PATH);
        known = source && disk_.stat(source.get(), "", &st) == 0;
      }
      const std::lock_guard lock(s->object_lock(*o));
      if (o->column == nullptr || o->column->count == 0) continue;
      if (known) {
        SourceMark mark{o->id, st.st_ctim, static_cast<uint64_t>(st.st_size), o->column->base};
        if (now().tv_sec - st.st_ctim.tv_sec < kFreshSeconds) mark.ctime = {};
        marks.emplace_back(s, mark);
      }
      Snapshot snapshot{s, o, active, o->column->base, {}};
      snapshot.bits.resize(o->column->count);
      for (uint64_t t = 0; t < snapshot.bits.size(); ++t)
        snapshot.bits[t] = durable_form(o->column->at(t));
      snapshots.push_back(std::move(snapshot));
    }
  }

  // The clone side: data, attributes, and the names in directories.
  int e = 0;
  const bool one_by_one =
      changed.size() <= kSyncOneByOne &&
      std::all_of(changed.begin(), changed.end(), [](const auto& c) {
        return c.second->is_regular() || c.second->is_directory();
      });
  for (const auto& [s, o] : changed) {
    if (!one_by_one || e < 0) break;
    const Fd clone = open_clone(*o, O_RDONLY);
    if (clone.get() == -ESTALE) continue;
    e = clone ? disk_.sync(clone.get()) : clone.get();
  }
  if (!one_by_one) e = disk_.syncfs(pool_dir_.get());
  for (const auto& s : sessions) {
    if (e < 0) break;
    e = s->digests.datasync();
  }
  for (const auto& snapshot : snapshots) {
    if (e < 0) break;
    e = snapshot.session->durable_file.write(snapshot.base, snapshot.bits.data(),
                                             snapshot.bits.size());
  }
  for (const auto& s : sessions) {
    if (e < 0) break;
    e = s->durable_file.datasync();
  }
  Status status;
  if (e < 0) status = Error::from_errno(e, "cannot make the clones durable");
  if (status && !marks.empty()) {
    Catalog::Batch batch(*catalog_);
    for (const auto& [s, mark] : marks)
      if (status && !s->removed) status = batch.put_mark(s->id, mark);
    if (status) status = batch.commit();
  }
  if (!status) {
    for (const auto& [s, o] : changed) note_for_checkpoint(*s, *o);
    return status;
  }

  for (const auto& snapshot : snapshots) {
    Session& s = *snapshot.session;
    Object& o = *snapshot.object;
    const std::lock_guard lock(s.object_lock(o));
    // Before activation a track that was written and copied again has newer data than was synced: an
    // object whose bits changed since is for the next checkpoint. (It has its note for that.)
    if (!snapshot.active && o.in_checkpoint.load()) continue;
    for (uint64_t t = 0; t < snapshot.bits.size();) {
      const auto done = [&](uint64_t i) {
        return i < snapshot.bits.size() && in_extent(snapshot.bits[i]) &&
               !is_pending(snapshot.bits[i]);
      };
      if (!done(t)) {
        ++t;
        continue;
      }
      uint64_t u = t;
      while (done(u)) ++u;
      change_bits_locked(s, o, {t, u - t}, is_unsaved, on_durable);
      t = u;
    }
  }
  if (rotated) journal_->release();
  if (snapshots.size() > kManyObjects) {
    snapshots = {};
    give_back_memory();
  }
  return {};
}

Status Core::checkpoint_object(Session& s, Object& o) {
  if (!power() || s.removed) return {};
  std::vector<TrackBits> bits;
  uint64_t base = 0;
  {
    const std::lock_guard lock(s.object_lock(o));
    if (o.column == nullptr || o.column->count == 0) return {};
    base = o.column->base;
    bits.resize(o.column->count);
    for (uint64_t t = 0; t < bits.size(); ++t) bits[t] = durable_form(o.column->at(t));
  }
  const Fd clone = open_clone(o, O_RDONLY);
  int e = clone ? disk_.sync(clone.get()) : clone.get();
  if (e == 0) e = s.digests.datasync();
  if (e == 0) e = s.durable_file.write(base, bits.data(), bits.size());
  if (e == 0) e = s.durable_file.datasync();
  if (e < 0) return Error::from_errno(e, "cannot make " + path_of(s, o) + " durable");
  return {};
}

// What pending tracks show is on the source only, and programs may not have synced it. In ACTIVATE, when
// the fence is open again: what was there at the consistency point is durable now, or in the journal
// if it was overwritten meanwhile.
Status Core::sync_sources(const std::vector<SessionPtr>& sessions) {
  if (!power()) return {};
  std::vector<std::pair<SessionPtr, const Object*>> pending;
  for (const auto& s : sessions) {
    if (s->counters.tracks_pending.load() == 0) continue;
    for (const auto& o : s->objects)
      if (!o.gone && o.pending.load() != 0) pending.emplace_back(s, &o);
  }
  int e = 0;
  if (pending.size() > kSyncOneByOne) {
    e = disk_.syncfs(source_dir_.get());
    if (e < 0) return Error::from_errno(e, "cannot make " + options_.source_name + " durable");
  } else {
    for (const auto& [s, o] : pending) {
      const Fd source = open_source(*o);
      if (source.get() == -ESTALE) continue;  // removed before the fence: its names tell
      e = source ? disk_.sync(source.get()) : source.get();
      if (e < 0) return Error::from_errno(e, "cannot make " + path_of(*s, *o) + " durable on the source");
    }
  }
  return {};
}

}  // namespace clonefs::detail
