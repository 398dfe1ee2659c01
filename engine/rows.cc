// Sessions and objects as rows of the catalog.
#include <algorithm>

#include "engine/core.h"

namespace clonefs::detail {

void Core::row_changed(Session& s, Object& o) {
  const std::lock_guard lock(s.rows_mutex);
  if (o.row_dirty) return;
  o.row_dirty = true;
  s.dirty_rows.push_back(&o);
}

SessionRow Core::row_of(const Session& s) const {
  SessionRow r;
  r.id = s.id;
  r.name = s.name;
  r.aside = s.aside;
  r.keep = s.keep;
  r.kept_of = s.kept_of;
  r.slot = s.slot;
  r.column_id = s.column_id;
  r.state = static_cast<int>(s.state.load());
  r.track_size = s.track_size.bytes();
  r.nocopy = s.nocopy;
  r.created_at = s.created_at;
  r.activated_at = s.activated_at;
  r.fence_ns = s.fence_ns;
  r.pace = s.pace.load();
  {
    const std::lock_guard lock(s.text_mutex);
    r.error = s.error;
  }
  for (const auto& path : s.paths) r.paths += path + '\0';
  for (const auto& range : s.selection)
    r.selection += std::to_string(range.offset) + ":" + std::to_string(range.length) + ",";
  return r;
}

ObjectRow Core::row_of(Session& s, Object& o) {
  const std::lock_guard lock(s.object_lock(o));
  ObjectRow r;
  r.session = s.id;
  r.id = o.id;
  if (const Object* parent = o.parent) r.parent = parent->id;
  r.type = o.type;
  r.changed = o.changed;
  r.finished = o.finished;
  r.source_id = o.source_id;
  r.source_handle = o.source.handle();
  r.pool_ino = o.pool_ino;
  r.pool_handle = o.clone.handle();
  r.size = o.size;
  r.atime = o.atime;
  r.mtime = o.mtime;
  r.ctime = o.ctime;
  if (o.column != nullptr) {
    r.column_base = static_cast<int64_t>(o.column->base);
    r.column_count = std::max<uint64_t>(o.column->count, o.column->digests);
    r.column_capacity = o.column->capacity;
  }
  if (o.capability != nullptr) r.capability = *o.capability;
  r.altered = o.altered != Object::kNot;
  return r;
}

Status Core::put_rows(Session& s, Catalog::Batch& batch) {
  auto& rows = s.rows_in_batch;
  auto& dropped = s.dropped_in_batch;
  {
    const std::lock_guard lock(s.rows_mutex);
    for (Object* o : s.dirty_rows) o->row_dirty = false;
    rows.insert(rows.end(), s.dirty_rows.begin(), s.dirty_rows.end());
    s.dirty_rows = {};
    dropped.insert(dropped.end(), s.dropped_rows.begin(), s.dropped_rows.end());
    s.dropped_rows.clear();
  }
  // Some may be from a batch that was not written.
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  for (Object* o : rows) {
    if (o->gone && s.before_activation()) continue;
    if (auto status = batch.put_object(row_of(s, *o)); !status) return status;
  }
  for (const uint32_t id : dropped) {
    if (auto status = batch.drop_object(s.id, id); !status) return status;
  }
  return {};
}

void Core::rows_written(Session& s) {
  s.rows_in_batch = {};
  s.dropped_in_batch = {};
}

Status Core::flush_rows(Session& s) {
  {
    const std::lock_guard lock(s.rows_mutex);
    if (s.dirty_rows.empty() && s.dropped_rows.empty() && s.rows_in_batch.empty() &&
        s.dropped_in_batch.empty())
      return {};
  }
  Catalog::Batch batch(*catalog_);
  auto status = put_rows(s, batch);
  if (status) status = batch.commit();
  if (status) rows_written(s);
  return status;
}

// Room that the session may still take in the pool, at most.
uint64_t Core::still_needed(Session& s) {
  const uint64_t track = s.track_size.bytes();
  const std::unique_lock work(s.work_mutex, std::try_to_lock);
  // Whole tracks are too many: the last one of a file seldom is. When nobody may look, what was seen last
  // is a bound as well.
  if (!work) return std::min(s.counters.tracks_pending.load() * track, s.needed_at_last);
  uint64_t needed = 0;
  for (const auto& o : s.objects) {
    const uint64_t pending = o.pending.load();
    if (o.gone || pending == 0) continue;
    const std::lock_guard lock(s.object_lock(o));
    needed += std::min(pending * track, (o.size + 4095) / 4096 * 4096);
  }
  s.needed_at_last = needed;
  return needed;
}

void Core::look_at_pool() {
  const auto free = room();
  if (!free) return;
  std::vector<SessionPtr> running;
  uint64_t needed = 0;
  {
    const std::shared_lock lock(sessions_mutex_);
    for (const auto& [name, s] : sessions_) {
      if (s->building || (!s->active() && s->state.load() != SessionState::kPrecopy)) continue;
      needed += s->counters.tracks_pending.load() * s->track_size.bytes();
      running.push_back(s);
    }
  }
  // Many objects are looked at only when it matters.
  if (needed > *free) {
    needed = 0;
    for (const auto& s : running) needed += still_needed(*s);
  }
  const auto time = std::chrono::steady_clock::now();
  const std::chrono::duration<double> passed = time - pool_looked_at_;
  pool_looked_at_ = time;
  if (const auto text = pool_watch_.look(*free, needed, passed.count()); !text.empty())
    events_.add(EventKind::kPoolFilling, "", text);
}

// What users of clones changed goes to the catalog within a second; checkpoints.
void Core::housekeeping() {
  constexpr auto kCheckpointEvery = std::chrono::seconds(5);
  constexpr auto kPrecopyCheckpointEvery = std::chrono::seconds(30);
  std::string checkpoint_error, catalog_error;
  // Each error once, until all is well again.
  const auto say = [&](std::string& said, const std::string& what, const Status& status) {
    const std::string text = status ? "" : what + ": " + status.error().message;
    if (!text.empty() && text != said) events_.add(EventKind::kTrouble, "", text);
    said = text;
  };
  auto last_checkpoint = std::chrono::steady_clock::now();
  auto last_precopy_checkpoint = last_checkpoint;
  std::unique_lock lock(housekeeper_mutex_);
  while (!housekeeper_stop_) {
    housekeeper_wake_.wait_for(lock, std::chrono::seconds(1),
                               [&] { return housekeeper_stop_ || checkpoint_called_ || journal_called_; });
    if (housekeeper_stop_) break;
    const auto time = std::chrono::steady_clock::now();
    const bool called = std::exchange(checkpoint_called_, false);
    bool prepare = std::exchange(journal_called_, false);
    lock.unlock();
    if (prepare && !called) prepare = prepare_journal();
    if (called || time - last_checkpoint > kCheckpointEvery) {
      std::vector<SessionPtr> precopied;
      if (time - last_precopy_checkpoint > kPrecopyCheckpointEvery) {
        const std::shared_lock names(sessions_mutex_);
        for (const auto& [name, s] : sessions_)
          if (s->state.load() == SessionState::kPrecopy && !s->building) precopied.push_back(s);
        last_precopy_checkpoint = time;
      }
      say(checkpoint_error, "checkpoint", checkpoint(precopied));
      last_checkpoint = std::chrono::steady_clock::now();
    }
    Status rows;
    for (const auto& s : all_sessions()) {
      s->note_progress();
      const std::unique_lock work(s->work_mutex, std::try_to_lock);
      if (!work || s->removed || s->building || s->before_activation()) continue;
      if (auto status = flush_rows(*s); !status) rows = status;
    }
    say(catalog_error, "catalog", rows);
    look_at_pool();
    lock.lock();
    journal_called_ |= prepare;
  }
}

}  // namespace clonefs::detail
