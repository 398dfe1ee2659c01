// The only code that changes the bits of tracks, and the copying of tracks from the source to the
// clone side. STATES.md has the transitions and who may make them.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

constexpr int64_t kSayRefusalEvery = 60;  // seconds
// Less is written sooner than its transfer is negotiated.
constexpr uint64_t kTransferAtLeast = 64 << 10;
constexpr uint64_t kBlock = 4096;

void count_transition(Session& s, Object& o, TrackBits from, TrackBits to) {
  auto& c = s.counters;
  const uint64_t bytes = s.track_size.bytes();
  const bool was = is_pending(from);
  const bool is = is_pending(to);
  if (is && !was) {
    o.pending.fetch_add(1);
    c.tracks_pending.fetch_add(1);
    if (!in_extent(from)) {
      c.tracks_total.fetch_add(1);
      c.bytes_total.fetch_add(bytes);
    } else {
      c.bytes_copied.fetch_sub(bytes);
    }
  }
  if (was && !is) {
    c.bytes_copied.fetch_add(bytes);
    if ((from & kRewritten) != 0) c.tracks_recopied.fetch_add(1);
    c.tracks_pending.fetch_sub(1);
    o.pending.fetch_sub(1);
  }
  if (is_unsaved(to) && !is_unsaved(from)) o.unsaved.fetch_add(1);
  if (is_unsaved(from) && !is_unsaved(to)) o.unsaved.fetch_sub(1);
  if (is_precopied(to) && !is_precopied(from)) c.tracks_precopied.fetch_add(1);
  if (is_precopied(from) && !is_precopied(to)) c.tracks_precopied.fetch_sub(1);
}

}  // namespace

void Core::leave_tracks(Session& s, Object& o, uint64_t first) {
  const std::lock_guard lock(s.object_lock(o));
  if (o.column == nullptr || first >= o.column->count) return;
  auto& c = s.counters;
  const uint64_t end = o.column->count;
  o.column->count = first;
  for (uint64_t t = first; t < end; ++t) {
    const TrackBits bits = o.column->bits[t].load(std::memory_order_relaxed);
    if (!in_extent(bits)) continue;
    c.tracks_total.fetch_sub(1);
    c.bytes_total.fetch_sub(s.track_size.bytes());
    if (is_pending(bits)) {
      c.tracks_pending.fetch_sub(1);
      o.pending.fetch_sub(1);
    } else {
      if (is_precopied(bits)) c.tracks_precopied.fetch_sub(1);
      c.bytes_copied.fetch_sub(s.track_size.bytes());
    }
    if (is_unsaved(bits)) o.unsaved.fetch_sub(1);
    o.column->bits[t].store(on_left(bits), std::memory_order_release);
  }
  note_for_checkpoint(s, o);
  note_table(s, o);
}

int Core::change_bits(Session& s, Object& o, Extent extent, bool (*which)(TrackBits),
                      Transition transition) {
  const std::lock_guard lock(s.object_lock(o));
  return change_bits_locked(s, o, extent, which, transition);
}

int Core::change_bits_locked(Session& s, Object& o, Extent extent, bool (*which)(TrackBits),
                             Transition transition) {
  Column* column = o.column.get();
  if (column == nullptr) return 0;
  const uint64_t end = std::min(extent.end(), column->count);
  const bool write_through = !s.before_activation();
  std::vector<TrackBits> next;
  for (uint64_t t = extent.first; t < end;) {
    // A run of tracks that change, written to disk with one call.
    while (t < end && !which(column->at(t))) ++t;
    next.clear();
    bool to_disk = false;
    uint64_t u = t;
    for (; u < end && which(column->at(u)) && next.size() < 65536; ++u) {
      const TrackBits from = column->at(u);
      const TrackBits to = transition(from);
      to_disk |= durable_form(from) != durable_form(to);
      next.push_back(to);
    }
    if (next.empty()) break;
    if (to_disk) note_for_checkpoint(s, o);
    if (to_disk && write_through) {
      std::vector<TrackBits> durable(next);
      for (auto& b : durable) b = durable_form(b);
      if (const int e = s.track_file.write(column->base + t, durable.data(), durable.size()); e < 0)
        return e;
    }
    for (uint64_t i = 0; i < next.size(); ++i) {
      auto& bits = column->bits[t + i];
      const TrackBits from = bits.load(std::memory_order_relaxed);
      bits.store(next[i], std::memory_order_release);
      count_transition(s, o, from, next[i]);
    }
    if (to_disk && !write_through) note_table(s, o);
    t = u;
  }
  return 0;
}

void Core::mark_written(Session& s, Object& o, ByteRange range) {
  if (range.empty()) return;
  {
    const std::lock_guard lock(s.object_lock(o));
    if (o.column == nullptr) return;
    Extent extent = s.track_size.touched(range);
    const uint64_t end = std::min(extent.end(), o.column->count);
    const auto changes = [](TrackBits b) { return !is_pending(b) || is_copying(b); };
    for (uint64_t t = extent.first; t < end; ++t) {
      if (!changes(o.column->at(t)) || !s.selected(t)) continue;
      uint64_t u = t + 1;
      while (u < end && changes(o.column->at(u)) && s.selected(u)) ++u;
      change_bits_locked(s, o, {t, u - t}, changes, on_precopy_write);  // in memory
      t = u;
    }
  }
  s.precopied.store(false);
}

void Core::note_changed(Session& s, Object& o, ByteRange range) {
  if (!o.tracked || range.empty()) return;
  change_bits(s, o, s.track_size.touched(range), [](TrackBits b) { return !is_changed(b); },
              on_changed);  // in memory
}

void Core::note_table(Session& s, Object& o) {
  if (o.table_stale.exchange(true)) return;
  const std::lock_guard lock(s.stale_tables_mutex);
  s.stale_tables.push_back(&o);
}

Status Core::flush_tables(Session& s) {
  std::vector<Object*> stale;
  {
    const std::lock_guard lock(s.stale_tables_mutex);
    stale.swap(s.stale_tables);
  }
  int e = 0;
  std::vector<TrackBits> bits;
  for (Object* o : stale) {
    const std::lock_guard lock(s.object_lock(*o));
    o->table_stale.store(false);
    if (o->gone || o->column == nullptr) continue;
    bits.resize(o->column->count);
    for (uint64_t t = 0; t < bits.size(); ++t) bits[t] = durable_form(o->column->at(t));
    if (e == 0) e = s.track_file.write(o->column->base, bits.data(), bits.size());
    if (e < 0) note_table(s, *o);
  }
  if (e < 0) return Error::from_errno(e, "cannot write the track table of " + s.name);
  return {};
}

Fd Core::open_source(const Object& o, int flags) const {
  return o.source.open(source_space_, flags);
}

Fd Core::open_clone(const Object& o, int flags) const {
  Fd fd = o.clone.open(pool_space_, flags);
  struct stat st{};
  // A handle may come from the catalog: the number was found in the session's tree.
  if (fd) {
    if (const int e = disk_.stat(fd.get(), "", &st); e < 0) return Fd(disk_, e);
    if (st.st_ino != o.pool_ino) return Fd(disk_, -ESTALE);
  }
  if (fd || fd.get() != -EACCES || (flags & O_PATH) != 0) return fd;
  // Without privilege the clone's own mode may keep the daemon out of its own file: give the owner
  // access for the moment of opening.
  const Fd path = o.clone.open(pool_space_, O_PATH);
  if (!path || disk_.stat(path.get(), "", &st) < 0 || st.st_ino != o.pool_ino) return fd;
  const mode_t access = S_ISDIR(st.st_mode) ? 0700 : 0600;
  if (disk_.chmod(path.get(), (st.st_mode & 07777) | access) < 0) return fd;
  fd = o.clone.open(pool_space_, flags);
  disk_.chmod(path.get(), st.st_mode & 07777);
  return fd;
}

int Core::read_source(int fd, ByteRange range, char* data, std::vector<ByteRange>* holes) {
  holes->clear();
  // The layout first: a hole that is filled meanwhile is a write, and that clears the copy.
  uint64_t at = range.offset;
  while (at < range.end()) {
    const int64_t begin = disk_.seek(fd, at, SEEK_DATA);
    if (begin == -ENXIO) {
      holes->push_back({at, range.end() - at});
      break;
    }
    if (begin < 0) break;  // no such call there: all is data
    const uint64_t data_at = std::min<uint64_t>(static_cast<uint64_t>(begin), range.end());
    if (data_at > at) holes->push_back({at, data_at - at});
    if (data_at >= range.end()) break;
    const int64_t end = disk_.seek(fd, data_at, SEEK_HOLE);
    if (end < 0 || static_cast<uint64_t>(end) >= range.end()) break;
    at = static_cast<uint64_t>(end);
  }
  if (holes->size() == 1 && (*holes)[0] == range) {
    std::fill_n(data, range.length, 0);
    return 0;
  }
  const ssize_t n = disk_.pread_full(fd, data, range.length, range.offset);
  if (n < 0) return static_cast<int>(n);
  std::fill(data + n, data + range.length, 0);
  if (holes->empty()) find_holes(fd, range, data, holes);
  return 0;
}

// Where the file system does not tell holes (NFS before 4.2), but the file has less blocks than bytes:
// blocks of zeros are holes. Elsewhere zeros that were written stay data, as a native copy's.
void Core::find_holes(int fd, ByteRange range, const char* data, std::vector<ByteRange>* holes) {
  const auto zero = [&](uint64_t at) {
    const uint64_t length = std::min(kBlock, range.length - at);
    return data[at] == 0 && std::memcmp(data + at, data + at + 1, length - 1) == 0;
  };
  for (uint64_t at = 0; at < range.length; at += kBlock) {
    if (!zero(at)) continue;
    if (holes->empty()) {
      struct stat st{};
      if (disk_.stat(fd, "", &st) < 0 || st.st_blocks * 512 >= st.st_size ||
          range.offset + at >= static_cast<uint64_t>(st.st_size))
        return;
      const int64_t hole = disk_.seek(fd, 0, SEEK_HOLE);
      if (hole >= 0 && hole < st.st_size) return;
    }
    const uint64_t length = std::min(kBlock, range.length - at);
    if (!holes->empty() && holes->back().end() == range.offset + at)
      holes->back().length += length;
    else
      holes->push_back({range.offset + at, length});
  }
}

// Makes RANGE, which is in the file, a hole, or zeros where there are none. 0 or -errno.
int Core::clear_range(int fd, ByteRange range) {
  const int e =
      disk_.allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.offset, range.length);
  if (e != -EOPNOTSUPP && e != -ENOSYS) return e;
  const std::vector<char> zeros(range.length);
  return disk_.pwrite_full(fd, zeros.data(), zeros.size(), range.offset);
}

int Core::put_tracks(Session& s, Object& o, int clone_fd, const char* data, ByteRange range,
                     const std::vector<ByteRange>& holes, bool clone_may_have_data,
                     int source_fd) {
  const ByteRange wanted = {range.offset,
                            range.offset >= o.size ? 0 : std::min(range.length, o.size - range.offset)};
  uint64_t at = wanted.offset;
  const auto write_to = [&](uint64_t end) {
    end = std::min(end, wanted.end());
    if (end <= at) return 0;
    uint64_t from = at;
    // Whole blocks only; the rest of a file's end is written.
    const uint64_t whole = (end - at) / TrackSize::kMin * TrackSize::kMin;
    if (source_fd >= 0 && whole >= kTransferAtLeast && at % TrackSize::kMin == 0 &&
        transfer(source_fd, clone_fd, {at, whole}))
      from += whole;
    return disk_.pwrite_full(clone_fd, data + (from - range.offset), end - from, from);
  };
  for (const auto& hole : holes) {
    if (hole.end() <= at) continue;
    if (hole.offset >= wanted.end()) break;
    if (const int e = write_to(hole.offset); e < 0) return e;
    const uint64_t from = std::max(at, hole.offset);
    const uint64_t end = std::min(hole.end(), wanted.end());
    if (clone_may_have_data && end > from) {
      if (const int e = clear_range(clone_fd, {from, end - from}); e < 0) return e;
    }
    at = end;
  }
  if (const int e = write_to(wanted.end()); e < 0) return e;
  o.finished.store(false);
  if (const int e = keep_capability(o, clone_fd); e < 0) return e;
  return put_digests(s, o, s.track_size.touched(range), data);
}

int Core::keep_capability(const Object& o, int clone_fd) {
  if (o.capability == nullptr) return 0;
  const int e = disk_.set_xattr(clone_fd, "security.capability", *o.capability);
  // Not everybody may give it back, nor did at first.
  return e == -EPERM || e == -EOPNOTSUPP || e == -ENOSYS || e == -EACCES ? 0 : std::min(e, 0);
}

// False: RANGE must be written. Whatever the reason is: when it is serious, writing meets it too.
bool Core::transfer(int source_fd, int clone_fd, ByteRange range) {
  for (;;) {
    const auto method = method_.load();
    if (method == Method::kWrite) return false;
    const bool share = method == Method::kShare;
    const int e =
        share && !options_.share
            ? -EOPNOTSUPP
            : disk_.transfer(share ? Disk::Transfer::kShare : Disk::Transfer::kServer, source_fd,
                             clone_fd, range.offset, range.length);
    if (e == 0) {
      if (!method_works_.exchange(true))
        events_.add(share ? "copies to the pool share their blocks with the source"
                          : "copies to the pool are made by the server");
      return true;
    }
    if (e != -EOPNOTSUPP && e != -ENOTTY && e != -EXDEV && e != -ENOSYS) return false;
    if (method_works_) return false;  // of this file only
    auto expected = method;
    method_.compare_exchange_strong(expected, share ? Method::kServer : Method::kWrite);
  }
}

int Core::put_digests(Session& s, Object& o, Extent tracks, const char* data) {
  const TrackSize ts = s.track_size;
  const uint64_t from = ts.offset_of(tracks.first);
  std::vector<uint64_t> digests(tracks.count);
  for (uint64_t i = 0; i < tracks.count; ++i) {
    const uint64_t at = ts.offset_of(tracks.first + i);
    const uint64_t length = at < o.size ? std::min(o.size - at, ts.bytes()) : 0;
    digests[i] = digest_of(data + (at - from), length);
  }
  return s.digests.write(o.column->base + tracks.first, digests.data(), digests.size());
}

// What is to be done before the source is overwritten: the track is on the clone side, and with
// durability power it is durable there or in the journal.
bool Core::is_due(const Attachment& a, ByteRange range, bool cofw) const {
  if (!a.session->active() || a.object->column == nullptr) return false;
  const auto due = cofw && power() ? is_unsaved : is_pending;
  const Extent extent = a.session->track_size.touched(range);
  const uint64_t end = std::min(extent.end(), a.object->column->count);
  for (uint64_t t = extent.first; t < end; ++t)
    if (due(a.object->column->at(t))) return true;
  return false;
}

int Core::save_before_write(const Source& source, const Attachments& attachments,
                            int fd, ByteRange range) {
  const auto due = [&](const Attachment& a) { return is_due(a, range, true); };
  std::vector<Session*> copied_for;
  for (const auto& a : *attachments)
    if (due(a)) copied_for.push_back(a.session.get());
  if (copied_for.empty()) return 0;
  const auto begin = std::chrono::steady_clock::now();
  const int e = save_in_time(source, attachments, fd, range);
  const auto took = std::chrono::steady_clock::now() - begin;
  cofw_latency_.note(took);
  for (Session* s : copied_for) s->counters.cofw_latency.note(took);
  if (e < 0) writes_refused_.fetch_add(1, std::memory_order_relaxed);
  return e;
}

// With the patience of the stall limit.
int Core::save_in_time(const Source& source, const Attachments& attachments, int fd,
                       ByteRange range) {
  const auto due = [&](const Attachment& a) { return is_due(a, range, true); };
  // The job's own: the caller may have given up, and FD be another file, before it reads.
  const auto own = std::make_shared<Fd>(disk_, fd < 0 ? fd : disk_.duplicate(fd));
  const auto result =
      guard_.run([this, source, attachments, own, range](const PoolGuard::Progress& progress) {
        return copy_now(source, attachments, own->get(), range, true, progress);
      });
  if (result) return *result;
  const auto limit = guard_.limit().count();
  const std::string why = "the pool did not answer for " +
                          (limit % 1000 == 0 ? std::to_string(limit / 1000) + " s"
                                             : std::to_string(limit) + " ms") +
                          " (--stall-limit)";
  bool refuse = false;
  for (const auto& a : *attachments) {
    if (!due(a)) continue;
    if (options_.on_error == OnError::kFailWrite) {
      events_.add(EventKind::kWriteRefused, a.session->name,
                  "write refused for " + a.session->name + ": " + why);
      refuse = true;
    } else {
      refuse |= !fail(*a.session, why + " when a track was to be saved before it is overwritten", true);
    }
  }
  return refuse ? -EIO : 0;
}

int Core::copy_now(const Source& source, const Attachments& attachments, int fd, ByteRange range,
                   bool cofw, const PoolGuard::Progress& progress) {
  // Tracks may be of different sizes: whole tracks of the largest.
  uint64_t unit = TrackSize::kMin;
  for (const auto& a : *attachments)
    if (a.session->active()) unit = std::max(unit, a.session->track_size.bytes());
  const uint64_t step = std::max<uint64_t>(unit, 1 << 20);
  const uint64_t begin = range.offset / unit * unit;
  const uint64_t end = std::min(kMaxFileSize, (range.end() + unit - 1) / unit * unit);

  const bool durable = cofw && power();
  uint64_t limit = 0;  // no session has tracks beyond
  for (const auto& a : *attachments)
    if (a.session->active() && a.object->column != nullptr)
      limit = std::max(limit, a.session->track_size.offset_of(a.object->column->count));

  // What becomes of an error: the policy counts for writes to the source only. Who changes a clone
  // gets it; nothing is lost by it.
  const auto lost = [&](const Attachment& a, int e) {  // whether the caller gets it
    if (!cofw) return true;
    const Error error = Error::from_errno(
        e, "cannot save a track of " + path_of(*a.session, *a.object) + " before it is overwritten");
    if (options_.on_error == OnError::kFailClone) return !fail(*a.session, error.message, true);
    // Now and then: a program may try for ever.
    auto& said = a.session->refusal_said;
    if (const int64_t time = now().tv_sec; time - said >= kSayRefusalEvery) {
      said = time;
      events_.add(EventKind::kWriteRefused, a.session->name,
                  "write refused for " + a.session->name + ": " + error.message);
    }
    return true;
  };
  Fd own;
  std::vector<char> buffer;
  std::vector<ByteRange> holes;
  for (uint64_t at = begin; at < std::min(end, limit); at += step) {
    const ByteRange chunk = {at, std::min(step, end - at)};
    const auto wanted = [&](const Attachment& a) { return is_due(a, chunk, cofw); };
    if (std::none_of(attachments->begin(), attachments->end(), wanted)) continue;
    progress();
    const Claims::Holder claim(source.claims, chunk);
    // Who had the claim before may have done it all.
    if (std::none_of(attachments->begin(), attachments->end(), wanted)) continue;
    buffer.resize(chunk.length);
    if (fd < 0) {
      for (const auto& a : *attachments) {
        if (own) break;
        own = open_source(*a.object);
      }
      fd = own.get();
    }
    int read_error = fd < 0 ? fd : read_source(fd, chunk, buffer.data(), &holes);
    if (read_error == -EBADF && !own) {
      // The caller's descriptor is for writing only.
      own = open_source(*attachments->front().object);
      fd = own.get();
      read_error = fd < 0 ? fd : read_source(fd, chunk, buffer.data(), &holes);
    }
    for (const auto& a : *attachments) {
      if (!wanted(a)) continue;
      Session& s = *a.session;
      Object& o = *a.object;
      int e = read_error;
      const Fd clone = e < 0 ? Fd() : open_clone(o, O_RDWR);
      if (e == 0 && clone.get() == -ESTALE) {
        // The clone's file has no name any more: nobody can ask for its tracks.
        e = change_bits(s, o, {0, o.column->count}, is_pending, on_drained);
      } else if (e == 0 && !clone) {
        e = clone.get();
      }
      const Extent extent = s.track_size.touched(chunk);
      const uint64_t last = std::min(extent.end(), o.column->count);
      for (uint64_t t = extent.first; t < last && e == 0;) {
        if (!is_pending(o.column->at(t))) {
          ++t;
          continue;
        }
        uint64_t u = t;
        bool again = false;
        while (u < last && is_pending(o.column->at(u))) {
          again |= (o.column->at(u) & kRewritten) != 0;
          ++u;
        }
        const ByteRange run = {s.track_size.offset_of(t),
                               s.track_size.offset_of(u) - s.track_size.offset_of(t)};
        e = put_tracks(s, o, clone.get(), buffer.data() + (run.offset - chunk.offset), run, holes,
                       again);
        if (e == 0) e = change_bits(s, o, {t, u - t}, is_pending, on_drained);
        if (e == 0 && cofw) {
          s.counters.cofw_tracks.fetch_add(u - t);
          cofw_tracks_.fetch_add(u - t, std::memory_order_relaxed);
        }
        t = u;
      }
      if (e < 0) {
        if (lost(a, e)) return e;
      }
      if (s.counters.tracks_pending.load() == 0) wake(s);
    }
    if (durable) {
      progress();
      const int e = save_to_journal(*attachments, chunk, buffer.data(), lost);
      if (e < 0) return e;
    }
  }
  return 0;
}

// Makes the unsaved tracks of CHUNK durable for all active sessions at once. BYTES is what the source
// has there: it was not overwritten since the consistency point of any of them. With the claim.
int Core::save_to_journal(const std::vector<Attachment>& attachments, ByteRange chunk,
                          const char* bytes,
                          const std::function<bool(const Attachment&, int)>& lost) {
  std::vector<JournalRecord> records;
  std::vector<std::pair<const Attachment*, Extent>> saved;
  for (const auto& a : attachments) {
    Session& s = *a.session;
    if (!s.active() || a.object->column == nullptr) continue;
    const Extent extent = s.track_size.touched(chunk);
    const uint64_t last = std::min(extent.end(), a.object->column->count);
    for (uint64_t t = extent.first; t < last;) {
      if (!is_unsaved(a.object->column->at(t))) {
        ++t;
        continue;
      }
      uint64_t u = t;
      while (u < last && is_unsaved(a.object->column->at(u))) ++u;
      const uint64_t from = s.track_size.offset_of(t);
      const uint64_t end = std::min(s.track_size.offset_of(u), a.object->size);
      if (end > from) records.push_back({s.id, a.object->id, {from, end - from}, bytes + (from - chunk.offset)});
      saved.push_back({&a, {t, u - t}});
      t = u;
    }
  }
  const int e = records.empty() ? 0 : journal_->append(records, options_.stall_limit);
  bool refuse = false;
  for (const auto& [a, extent] : saved) {
    if (e < 0)
      refuse |= lost(*a, e);
    else
      change_bits(*a->session, *a->object, extent, is_unsaved, on_durable);
  }
  return refuse ? e : 0;
}

}  // namespace clonefs::detail
