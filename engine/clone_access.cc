// Reading and writing activated clones: the clone side of interception.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

// Inode numbers of the clones mount: the slot of the name above, below it the source's number, or,
// for what the clone's user made, the pool's with a bit of its own.
constexpr unsigned kSlotShift = 48;
constexpr uint64_t kMadeInClone = uint64_t{1} << 47;
constexpr uint64_t kNumberMask = kMadeInClone - 1;

class CloneImpl final : public Clone {
 public:
  CloneImpl(Core& core, SessionPtr session, Fd root)
      : core_(core), session_(std::move(session)), root_(std::move(root)) {}

  const std::string& name() const override { return session_->name; }
  unsigned slot() const override { return session_->slot; }
  int error() const override {
    if (session_->removed) return ESTALE;
    return session_->state.load() == SessionState::kFailed ? EIO : 0;
  }
  int refuses_change() const override {
    if (const int e = error(); e != 0) return e;
    return session_->frozen ? EROFS : 0;
  }
  uint64_t incarnation() const override { return session_->incarnation; }
  std::shared_ptr<void> use(bool write) override {
    if (write) session_->writers.fetch_add(1);
    session_->open_handles.fetch_add(1);
    std::shared_ptr<void> token(session_.get(), [s = session_, write](void*) {
      // (Not who was refused.)
      if (!s->replaced) s->used_at = std::chrono::steady_clock::now();
      if (write) s->writers.fetch_sub(1);
      s->open_handles.fetch_sub(1);
    });
    if (session_->replaced) return nullptr;
    return token;
  }
  int root() const override { return root_.get(); }

  Object* object(uint64_t pool_ino) const {
    const std::shared_lock lock(session_->index_mutex);
    return session_->by_pool_ino.find(pool_ino);
  }

  uint64_t present_ino(uint64_t pool_ino) const override {
    const uint64_t slot = uint64_t{session_->slot} << kSlotShift;
    const Object* o = object(pool_ino);
    return o != nullptr ? slot | (o->source_id & kNumberMask)
                        : slot | kMadeInClone | (pool_ino & kNumberMask);
  }

  void seen(uint64_t pool_ino, std::string_view handle) override {
    Object* o = object(pool_ino);
    if (o == nullptr || handle.empty() || o->clone.handle() == handle) return;
    // Only the old handle's end proves it: file systems may have several for one object.
    if (core_.open_clone(*o, O_PATH).get() != -ESTALE) return;
    const std::unique_lock lock(session_->index_mutex);
    session_->by_pool_ino.remove(*o);
  }

  void present(struct stat* st) const override {
    Object* o = object(st->st_ino);
    st->st_ino = present_ino(st->st_ino);
    if (o == nullptr) return;
    // One name of an inherited file is another generation's, and for a moment a third one the stage's; only
    // what has one name is inherited. (Or it was until just now.)
    if (o->named_twice) st->st_nlink = session_->frozen ? 1 : std::max<nlink_t>(st->st_nlink, 2) - 1;
    const std::lock_guard lock(session_->object_lock(*o));
    // The caller may have looked at the pool's file before its times were set, and come here after.
    const timespec finished_at = o->finished_at;
    const bool older = st->st_ctim.tv_sec < finished_at.tv_sec ||
                       (st->st_ctim.tv_sec == finished_at.tv_sec &&
                        st->st_ctim.tv_nsec <= finished_at.tv_nsec);
    if (!o->changed) st->st_ctim = o->ctime;
    if (o->is_regular() && (!o->finished || older)) {
      st->st_atim = o->atime;
      st->st_mtim = o->mtime;
    }
    if (o->is_regular() && !o->finished) present_blocks(*o, st);
  }

  void changed(uint64_t pool_ino, const timespec* times) override {
    Object* o = object(pool_ino);
    if (o == nullptr) return;
    {
      const std::lock_guard lock(session_->object_lock(*o));
      o->changed = true;
      if (times != nullptr && !o->finished) {
        ShortTime* ours[2] = {&o->atime, &o->mtime};
        for (int i = 0; i < 2; ++i) {
          if (times[i].tv_nsec == UTIME_OMIT) continue;
          *ours[i] = times[i].tv_nsec == UTIME_NOW ? now() : times[i];
        }
        o->times_set = false;
      }
      // From now on the pool's file tells; its ctime may be an earlier one: clocks are set back.
      if (o->finished) o->finished_at = timespec{};
    }
    core_.row_changed(*session_, *o);
  }

  int about_to_change(uint64_t pool_ino, uint64_t victim) override {
    Object* o = object(pool_ino);
    if (o == nullptr) return 0;
    if (const int e = core_.alter(*session_, *o); e < 0 || victim == 0) return e;
    // Known to be put in another directory (it has, or had, several names).
    Object* lost = object(victim);
    if (lost == nullptr) return 0;
    const Object* parent = lost->parent;
    if (parent != nullptr && parent->altered == Object::kRecorded) return 0;
    return core_.alter(*session_, *lost);
  }

  const SessionPtr& session() const { return session_; }

 private:
  // Pending tracks count as allocated: programs take a file without blocks for one hole (tar).
  void present_blocks(const Object& o, struct stat* st) const {
    const auto size = static_cast<uint64_t>(st->st_size);
    const uint64_t pending = std::min(o.pending.load() * session_->track_size.bytes(), size);
    const auto most = static_cast<blkcnt_t>((size + 4095) / 4096 * 8);
    const auto blocks = st->st_blocks + static_cast<blkcnt_t>((pending + 511) / 512);
    st->st_blocks = std::max(st->st_blocks, std::min(blocks, most));
  }

  Core& core_;
  const SessionPtr session_;
  const Fd root_;
};

class CloneFileImpl final : public CloneFile {
 public:
  CloneFileImpl(Core& core, std::shared_ptr<CloneImpl> clone, int fd, Object* object)
      : core_(core), clone_(std::move(clone)), fd_(fd), object_(object) {}

  bool drained() const override {
    return clone_->error() == 0 && (object_ == nullptr || object_->finished);
  }

  ssize_t read(void* data, size_t size, uint64_t offset) override {
    if (const int e = clone_->error(); e != 0) return -e;
    if (plain()) return core_.disk_.pread_full(fd_, data, size, offset);
    struct stat st{};
    if (const int e = core_.disk_.stat(fd_, "", &st); e < 0) return e;
    const auto end = static_cast<uint64_t>(st.st_size);
    if (offset >= end) return 0;
    size = std::min<uint64_t>(size, end - offset);
    Session& s = *clone_->session();
    auto* out = static_cast<char*>(data);
    for (uint64_t at = offset; at < offset + size;) {
      const uint64_t track = s.track_size.track_of(at);
      const bool from_source = pending(track);
      uint64_t next = track + 1;
      while (s.track_size.offset_of(next) < offset + size && pending(next) == from_source) ++next;
      const uint64_t stop = std::min(offset + size, s.track_size.offset_of(next));
      const ssize_t n = from_source
                            ? read_pending({track, next - track}, {at, stop - at}, out + (at - offset))
                            : core_.disk_.pread_full(fd_, out + (at - offset), stop - at, at);
      if (n < 0) return n;
      std::fill(out + (at - offset) + n, out + (stop - offset), 0);
      at = stop;
    }
    // A clone that failed meanwhile may have lost what was read.
    if (const int e = clone_->error(); e != 0) return -e;
    return static_cast<ssize_t>(size);
  }

  ssize_t write(const void* data, size_t size, uint64_t offset) override {
    if (const int e = clone_->error(); e != 0) return -e;
    if (size == 0) return 0;
    ssize_t written = 0;
    const int e = change({offset, size}, true, [&] {
      written = core_.disk_.pwrite(fd_, data, size, offset);
      return static_cast<int>(std::min<ssize_t>(written, 0));
    });
    if (e < 0) return e;
    return written;
  }

  int truncate(uint64_t size) override {
    if (const int e = clone_->error(); e != 0) return -e;
    const uint64_t end = object_ == nullptr ? size : std::max(object_->size, size);
    return change({size, end - size}, true, [&] { return core_.disk_.truncate(fd_, size); });
  }

  int sync(bool data_only) override {
    if (const int e = clone_->error(); e != 0) return -e;
    if (object_ != nullptr && !object_->finished) {
      auto status = core_.checkpoint_object(*clone_->session(), *object_);
      if (!status) return -status.error().code;
    }
    return data_only ? core_.disk_.datasync(fd_) : core_.disk_.sync(fd_);
  }

  int allocate(int mode, uint64_t offset, uint64_t length) override {
    if (const int e = clone_->error(); e != 0) return -e;
    const auto call = [&] { return core_.disk_.allocate(fd_, mode, offset, length); };
    if ((mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0) {
      if (const int e = copy({0, kMaxFileSize}); e < 0) return e;
      return change({}, false, call);
    }
    const bool overwrites = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
    return change(overwrites ? ByteRange{offset, length} : ByteRange{}, overwrites, call);
  }

  int64_t seek(uint64_t offset, int whence) override {
    if (const int e = clone_->error(); e != 0) return -e;
    if (plain()) return core_.disk_.seek(fd_, offset, whence);
    struct stat st{};
    if (const int e = core_.disk_.stat(fd_, "", &st); e < 0) return e;
    const auto end = static_cast<uint64_t>(st.st_size);
    if (offset >= end) return -ENXIO;
    const TrackSize ts = clone_->session()->track_size;
    if (whence == SEEK_DATA) {
      if (pending(ts.track_of(offset))) return static_cast<int64_t>(offset);
      const int64_t here = core_.disk_.seek(fd_, offset, SEEK_DATA);
      if (here < 0 && here != -ENXIO) return here;
      const uint64_t limit = here < 0 ? end : static_cast<uint64_t>(here);
      for (uint64_t t = ts.track_of(offset) + 1; ts.offset_of(t) < limit && t < column_count(); ++t)
        if (pending(t)) return static_cast<int64_t>(ts.offset_of(t));
      return here;
    }
    uint64_t at = offset;
    while (at < end) {
      if (pending(ts.track_of(at))) {
        at = ts.offset_of(ts.track_of(at) + 1);
        continue;
      }
      const int64_t hole = core_.disk_.seek(fd_, at, SEEK_HOLE);
      if (hole < 0) return hole;
      at = static_cast<uint64_t>(hole);
      if (at >= end || !pending(ts.track_of(at))) break;
    }
    return static_cast<int64_t>(std::min(at, end));
  }

 private:
  // Nothing is pending: the pool's file has it all. (It can't become pending again.)
  bool plain() const { return object_ == nullptr || object_->pending.load() == 0; }
  bool pending(uint64_t track) const {
    return object_->column != nullptr && is_pending(object_->column->at(track));
  }
  uint64_t column_count() const { return object_->column == nullptr ? 0 : object_->column->count; }

  // Bytes of tracks that were pending: from the source, and those that flipped meanwhile from the
  // clone's file. A bit flips before the source is overwritten.
  ssize_t read_pending(Extent tracks, ByteRange range, char* out) {
    Session& s = *clone_->session();
    const TrackSize ts = s.track_size;
    ssize_t n = 0;
    {
      const std::lock_guard lock(source_mutex_);
      if (!source_) source_ = core_.open_source(*object_);
      n = source_ ? core_.disk_.pread_full(source_.get(), out, range.length, range.offset)
                  : source_.get();
    }
    if (n >= 0) std::fill(out + n, out + range.length, 0);
    for (uint64_t t = tracks.first; t < tracks.end(); ++t) {
      const uint64_t from = std::max(range.offset, ts.offset_of(t));
      const uint64_t stop = std::min(range.end(), ts.offset_of(t + 1));
      if (pending(t)) {
        if (n < 0) return n;
        s.counters.clone_read_tracks.fetch_add(1);
        // Beyond what the member had at the consistency point there is nothing.
        const uint64_t last = std::clamp(object_->size, from, stop);
        std::fill(out + (last - range.offset), out + (stop - range.offset), 0);
        continue;
      }
      const ssize_t m =
          core_.disk_.pread_full(fd_, out + (from - range.offset), stop - from, from);
      if (m < 0) return m;
      std::fill(out + (from - range.offset) + m, out + (stop - range.offset), 0);
    }
    return static_cast<ssize_t>(range.length);
  }

  // Copies the pending tracks of RANGE for this clone alone.
  int copy(ByteRange range) {
    Attachments attachments;
    const auto source = core_.sources_.find(object_->source_id, &attachments);
    if (!source) return 0;
    auto own = std::make_shared<std::vector<Attachment>>();
    for (const auto& a : *attachments)
      if (a.object == object_) own->push_back(a);
    const int e = core_.copy_now(*source, own, -1, range, false);
    return e < 0 ? e : -clone_->error();
  }

  // Changes bytes of RANGE by CALL: 0 or -errno. Tracks that RANGE covers in part are copied first,
  // those that it covers wholly are done by it.
  template <class Call>
  int change(ByteRange range, bool overwrites, Call call) {
    if (object_ != nullptr) {
      if (const int e = core_.alter(*clone_->session(), *object_); e < 0) return e;
    }
    if (plain()) {
      const int e = call();
      if (e >= 0 && object_ != nullptr) note();
      return e;
    }
    Session& s = *clone_->session();
    const TrackSize ts = s.track_size;
    Extent whole;
    if (overwrites && !range.empty()) {
      const Extent touched = ts.touched(range);
      const bool to_end = range.end() >= object_->size;
      const bool head = range.offset > ts.offset_of(touched.first);
      const bool tail = !to_end && range.end() < ts.offset_of(touched.end());
      if (head) {
        if (const int e = copy({ts.offset_of(touched.first), ts.bytes()}); e < 0) return e;
      }
      if (tail && (touched.count > 1 || !head)) {
        if (const int e = copy({ts.offset_of(touched.end() - 1), ts.bytes()}); e < 0) return e;
      }
      whole = touched;
      if (head) ++whole.first, --whole.count;
      if (tail && whole.count > 0) --whole.count;
    }
    Attachments attachments;
    const auto source = core_.sources_.find(object_->source_id, &attachments);
    int e = 0;
    if (!source) {
      e = call();
    } else {
      const Claims::Holder claim(source->claims, range);
      e = call();
      if (e >= 0 && whole.count > 0) {
        const int w = core_.change_bits(s, *object_, whole, is_pending, on_drained);
        if (w < 0) {
          core_.fail(s, Error::from_errno(w, "cannot write the track table").message);
          return w;
        }
      }
    }
    if (e >= 0) note();
    if (s.counters.tracks_pending.load() == 0) core_.wake(s);
    return e;
  }

  // Data changed: its own times show from now on.
  void note() {
    Session& s = *clone_->session();
    {
      const std::lock_guard lock(s.object_lock(*object_));
      object_->changed = true;
      if (object_->finished) {
        const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
        core_.disk_.utimes(fd_, times);
      } else {
        object_->mtime = now();
        object_->times_set = false;
      }
    }
    core_.row_changed(s, *object_);
  }

  Core& core_;
  const std::shared_ptr<CloneImpl> clone_;
  const int fd_;
  Object* const object_;
  std::mutex source_mutex_;
  Fd source_;  // guarded by source_mutex_
};

bool is_visible(const Session& s) {
  if (s.removed || s.building) return false;
  switch (s.state.load()) {
    case SessionState::kCopyInProgress:
    case SessionState::kCopied:
    case SessionState::kTerminated:
      return true;
    case SessionState::kFailed:
      return s.activated_at.tv_sec != 0;
    default:
      return false;
  }
}

}  // namespace

int Core::alter(Session& s, Object& o) {
  if (o.altered == Object::kRecorded) return 0;
  Catalog::Batch batch(*catalog_);
  if (o.altered == Object::kRecorded) return 0;  // by who had the catalog before
  // A row that is written from now on has it too.
  o.altered = Object::kBeingRecorded;
  if (s.frozen) {
    // Looked at after it is said: who inherits looks the other way round.
    o.altered = Object::kNot;
    return -EROFS;
  }
  auto status = batch.set_altered(s.id, o.id);
  if (status) status = batch.commit();
  if (!status) return -status.error().code;
  o.altered = Object::kRecorded;
  return 0;
}

std::vector<CloneInfo> Core::clones() const {
  const std::shared_lock lock(sessions_mutex_);
  std::vector<CloneInfo> clones;
  for (const auto& [name, session] : sessions_) {
    const auto& s = session->previous != nullptr ? session->previous : session;
    if (is_visible(*s)) clones.push_back({name, s->slot, s->state.load()});
  }
  return clones;
}

Result<std::shared_ptr<Clone>> Core::clone(const std::string& name) {
  const auto s = shown(name);
  if (s == nullptr || !is_visible(*s))
    return Error{ENOENT, "there is no clone named " + name + " that can be read"};
  if (s->state.load() == SessionState::kFailed && s->objects.empty())
    return Error{EIO, name + " is Failed"};
  Fd root = open_clone(s->objects.front(), O_PATH | O_DIRECTORY);
  if (!root && root.get() != -ESTALE) return Error::from_errno(root.get(), "cannot open " + name);
  if (!root) return Error{EIO, "the tree of " + name + " is not in the pool any more"};
  return std::shared_ptr<Clone>(std::make_shared<CloneImpl>(*this, s, std::move(root)));
}

Result<std::unique_ptr<CloneFile>> Core::open_clone_file(const std::shared_ptr<Clone>& clone, int fd,
                                                         uint64_t pool_ino) {
  auto impl = std::static_pointer_cast<CloneImpl>(clone);
  if (const int e = impl->error(); e != 0)
    return Error::from_errno(e, "cannot open a file of " + impl->name());
  Object* o = impl->object(pool_ino);
  return std::unique_ptr<CloneFile>(std::make_unique<CloneFileImpl>(*this, impl, fd, o));
}

}  // namespace clonefs::detail
