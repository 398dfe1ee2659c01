// verify: the clone's files are what was copied. Reads with idle priority and holds no lock meanwhile:
// commands, writers and the copy program go on, and a clone that is removed is not held up.
#include <fcntl.h>
#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

constexpr uint64_t kChunk = 1 << 20;
constexpr size_t kMostFindings = 10000;  // that are kept; all are counted

// Foreground I/O goes first, until the end of the scope.
class IdleIo {
 public:
  IdleIo() : before_(::syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0)) {
    ::syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
  }
  ~IdleIo() {
    if (before_ >= 0) ::syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, before_);
  }
  IdleIo(const IdleIo&) = delete;
  IdleIo& operator=(const IdleIo&) = delete;

 private:
  const long before_;
};

const char* kind_of(mode_t type) {
  if (S_ISREG(type)) return "file";
  if (S_ISDIR(type)) return "directory";
  if (S_ISLNK(type)) return "symbolic link";
  return "special file";
}

}  // namespace

class Verifier {
 public:
  Verifier(Core& core, SessionPtr session, const std::function<bool()>& cancelled)
      : core_(core), s_(std::move(session)), cancelled_(cancelled) {}

  Result<VerifyReport> run() {
    auto digests = DigestFile::open(core_.disk_, core_.tracks_dir_.get(), digests_name(s_->id), false);
    if (auto status = go_on(); !status) return status.error();
    if (!digests)
      return Error{ENODATA, s_->name + " cannot be verified, its digests are not there: " +
                                digests.error().message};
    digests_ = std::move(*digests);
    const IdleIo idle;
    report_.name = s_->name;
    // After the activation objects come and go no more.
    for (Object& o : s_->objects) {
      if (o.gone) continue;
      if (auto status = go_on(); !status) return status.error();
      check(o);
    }
    if (auto status = go_on(); !status) return status.error();
    report_.at = now();
    return std::move(report_);
  }

 private:
  // Why it cannot go on.
  Status go_on() const {
    if (s_->removed) return Error{ENOENT, s_->name + " was removed while it was verified"};
    if (s_->state.load() == SessionState::kFailed) {
      const std::lock_guard lock(s_->text_mutex);
      return Error{EIO, s_->name + " is Failed: " + s_->error};
    }
    if (core_.stopping_) return Error{ESHUTDOWN, "clonefs is being unmounted"};
    if (cancelled_ && cancelled_()) return Error{EINTR, "verify " + s_->name + ": interrupted"};
    return {};
  }

  void found(const std::string& path, ByteRange range, const std::string& what) {
    auto& all = report_.findings;
    if (!all.empty() && all.back().path == path && all.back().what == what && range.length != 0 &&
        all.back().range.end() == range.offset) {
      all.back().range.length += range.length;
      return;
    }
    ++report_.damaged;
    if (all.size() < kMostFindings) all.push_back({path, range, what});
  }

  void check(Object& o) {
    ++report_.objects;
    const Fd fd = core_.open_clone(o, O_PATH);
    struct stat st{};
    const int e = fd ? core_.disk_.stat(fd.get(), "", &st) : fd.get();
    if (e == -ESTALE || e == -ENOENT || (e == 0 && st.st_nlink == 0)) {
      const Object* parent = o.parent;
      if (o.altered != Object::kNot || (parent != nullptr && parent->altered != Object::kNot)) {
        ++report_.altered;
        return;
      }
      const std::string place = parent != nullptr ? core_.path_of(*s_, *parent) : ".";
      found(place, {}, std::string("a ") + kind_of(o.type) + " of it is missing (inode " +
                           std::to_string(o.source_id) + " of the volume)");
      return;
    }
    if (e < 0) {
      found(core_.path_of(*s_, o), {}, Error::from_errno(e, "cannot be opened").message);
      return;
    }
    if ((st.st_mode & S_IFMT) != o.type) {
      found(core_.path_of(*s_, o), {}, std::string("is a ") + kind_of(st.st_mode) + ", was a " +
                                           kind_of(o.type));
      return;
    }
    if (!o.is_regular()) return;
    ++report_.files;
    if (!check_data(o, static_cast<uint64_t>(st.st_size))) ++report_.altered;
  }

  // False: its users have changed it.
  bool check_data(Object& o, uint64_t size) {
    const auto altered = [&] { return o.altered != Object::kNot; };
    if (size != o.size) {
      if (altered()) return false;
      found(core_.path_of(*s_, o), {}, "has " + std::to_string(size) + " bytes, had " +
                                           std::to_string(o.size));
      return true;
    }
    if (altered()) return false;
    if (size == 0) return true;
    Fd clone = core_.open_clone(o, O_RDONLY | O_NOATIME);
    if (clone.get() == -EPERM) clone = core_.open_clone(o, O_RDONLY);
    if (!clone) {
      if (clone.get() == -ESTALE) return true;  // removed just now
      found(core_.path_of(*s_, o), {}, Error::from_errno(clone.get(), "cannot be opened").message);
      return true;
    }
    // What the disk has, not what the kernel remembers of it.
    core_.disk_.drop_cache(clone.get());
    const TrackSize ts = s_->track_size;
    const uint64_t end = ts.tracks_in(size);
    const uint64_t at_once = std::max<uint64_t>(1, kChunk / ts.bytes());
    for (uint64_t t = 0; t < end;) {
      if (!go_on()) return true;
      Extent chunk = {t, std::min(at_once, end - t)};
      const uint64_t known = look(o, &chunk);
      if (t >= known) {
        // Nothing was ever copied there: on to the next data, if there is any.
        const int64_t data = core_.disk_.seek(clone.get(), ts.offset_of(t), SEEK_DATA);
        if (data == -ENXIO) break;
        if (data > 0 && ts.track_of(static_cast<uint64_t>(data)) > t) {
          t = ts.track_of(static_cast<uint64_t>(data));
          continue;
        }
      }
      if (!compare(o, clone.get(), chunk)) return false;
      t += chunk.count;
    }
    return true;
  }

  // Takes down how the tracks of CHUNK are now, and cuts it where what is pending changes; how many
  // tracks have digests.
  uint64_t look(Object& o, Extent* chunk) {
    const std::lock_guard lock(s_->object_lock(o));
    const Column* column = o.column.get();
    const uint64_t known = column == nullptr ? 0 : std::max(column->count, column->digests);
    base_ = column == nullptr ? 0 : column->base;
    known_ = known > chunk->first ? std::min(known - chunk->first, chunk->count) : 0;
    pending_ = column != nullptr && is_pending(column->at(chunk->first));
    uint64_t n = 1;
    while (n < chunk->count &&
           (column != nullptr && is_pending(column->at(chunk->first + n))) == pending_)
      ++n;
    chunk->count = n;
    known_ = std::min(known_, n);
    return known;
  }

  bool compare(Object& o, int clone, Extent chunk) {
    const TrackSize ts = s_->track_size;
    const auto bytes_of = [&](uint64_t track, uint64_t count) {
      const uint64_t at = ts.offset_of(track);
      return ByteRange{at, std::min(count * ts.bytes(), o.size - at)};
    };
    if (pending_) {
      // Nothing to compare it with but that it can be read.
      const Fd source = core_.open_source(o);
      for (uint64_t t = chunk.first; t < chunk.end(); ++t) {
        const int e = source ? read(source.get(), bytes_of(t, 1)) : source.get();
        if (e == 0) {
          ++report_.source_tracks;
        } else if (!still_pending(o, t)) {
          if (look_again(o, t) && !compare(o, clone, {t, 1})) return false;
        } else if (go_on()) {
          found(core_.path_of(*s_, o), bytes_of(t, 1),
                Error::from_errno(e, "is not copied yet, and its source cannot be read").message);
        }
      }
      return true;
    }
    std::vector<uint64_t> digests(chunk.count, 0);
    int e = known_ == 0 ? 0 : digests_.read(base_ + chunk.first, digests.data(), known_);
    if (e < 0) {
      found(core_.path_of(*s_, o), bytes_of(chunk.first, chunk.count),
            Error::from_errno(e, "cannot be compared, its digests cannot be read").message);
      return true;
    }
    e = read(clone, bytes_of(chunk.first, chunk.count));
    for (uint64_t t = chunk.first; t < chunk.end(); ++t) {
      const ByteRange range = bytes_of(t, 1);
      const int own = e < 0 ? read(clone, range) : 0;
      const char* data = buffer_.data() + (e < 0 ? 0 : range.offset - ts.offset_of(chunk.first));
      const bool same = own == 0 && digest_of(data, range.length) == digests[t - chunk.first];
      if (!same && o.altered != Object::kNot) return false;
      ++report_.tracks;
      report_.bytes += range.length;
      if (same) continue;
      found(core_.path_of(*s_, o), range,
            own < 0 ? Error::from_errno(own, "cannot be read").message
                    : "is not what was copied");
    }
    return true;
  }

  bool still_pending(const Object& o, uint64_t track) {
    const std::lock_guard lock(s_->object_lock(o));
    return o.column != nullptr && is_pending(o.column->at(track));
  }
  bool look_again(Object& o, uint64_t track) {
    Extent one = {track, 1};
    look(o, &one);
    return !pending_;
  }

  int read(int fd, ByteRange range) {
    buffer_.resize(range.length);
    return core_.read_source(fd, range, buffer_.data(), &holes_);
  }

  Core& core_;
  const SessionPtr s_;
  const std::function<bool()>& cancelled_;
  VerifyReport report_;
  DigestFile digests_;
  std::vector<char> buffer_;
  std::vector<ByteRange> holes_;
  // Of the chunk that was looked at.
  uint64_t base_ = 0;
  uint64_t known_ = 0;  // how many of it have a digest in the file
  bool pending_ = false;
};

Result<VerifyReport> Core::verify(const std::string& name, const std::function<bool()>& cancelled) {
  const auto s = shown(name);
  if (s == nullptr)
    return no_clone(name);
  if (s->before_activation())
    return Error{EINVAL, name + " is " + to_string(s->state.load()) +
                             ": there is no clone yet; activate it first"};
  auto report = Verifier(*this, s, cancelled).run();
  if (!report) return report;
  {
    const std::lock_guard lock(s->text_mutex);
    s->verified = std::make_shared<const VerifyReport>(*report);
  }
  events_.add(report->damaged == 0 ? EventKind::kVerified : EventKind::kDamaged, name,
              report->damaged == 0
                  ? "verified " + name
                  : "DAMAGED " + name + ": " + std::to_string(report->damaged) +
                        (report->damaged == 1 ? " finding" : " findings") + ", the first: " +
                        report->findings.front().path + " " + report->findings.front().what);
  return report;
}

std::shared_ptr<const VerifyReport> Core::verified(const std::string& name) const {
  const auto s = shown(name);
  if (s == nullptr) return nullptr;
  const std::lock_guard lock(s->text_mutex);
  return s->verified;
}

}  // namespace clonefs::detail
