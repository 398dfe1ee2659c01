// Changes of the volume: what happens before them (COFW, marks, limbo) and after (marks).
#include <fcntl.h>

#include <cinttypes>
#include <cstdio>

#include "engine/core.h"

namespace clonefs::detail {

namespace {

constexpr ByteRange kAll = {0, kMaxFileSize};

bool any_before_activation(const Attachments& attachments) {
  for (const auto& a : *attachments)
    if (a.session->before_activation()) return true;
  return false;
}


std::string limbo_name(SourceId id) {
  char name[20];
  std::snprintf(name, sizeof name, "%016" PRIx64, id);
  return name;
}

}  // namespace

// Whether a session needs something of the source still.
bool Core::any_needed(const Attachments& attachments) const {
  for (const auto& a : *attachments)
    if (a.session->active() && !settled(*a.object)) return true;
  return false;
}

Change Core::begin_change() {
  Change change;
  change.state_ = std::make_unique<ChangeState>();
  change.state_->core = this;
  change.state_->fence_slot = fence_.enter();
  change.state_->epoch = sources_.attach_epoch();
  if (pace_.wanted()) {
    change.state_->begin = Pace::Clock::now();
    change.state_->beside = pace_.copying();
  }
  return change;
}

Change Core::change_data(SourceId id, int fd, ByteRange range) {
  Change change = begin_change();
  if (id == 0) return change;
  auto& part = change.state_->parts.emplace_back();
  part.id = id;
  part.data = true;
  part.range = range;
  if (sources_.empty()) return change;
  const auto source = sources_.find(id, &part.seen);
  if (!source) return change;
  for (const auto& a : *part.seen) {
    if (a.object->gone) continue;
    if (a.session->before_activation())
      mark_written(*a.session, *a.object, range);
    else
      note_changed(*a.session, *a.object, range);
  }
  if (any_needed(part.seen)) change.error_ = -save_before_write(*source, part.seen, fd, range);
  return change;
}

Change Core::change_size(SourceId id, int fd, uint64_t size) {
  // The old size matters only to a member; the file cannot become one unseen (attach_epoch), but
  // then its old size is needed too.
  uint64_t old = 0;
  if (id != 0) {
    struct stat st{};
    Attachments attachments;
    // When nobody can tell, all that there may be is cut off.
    if (fd >= 0) {
      old = disk_.stat(fd, "", &st) == 0 ? static_cast<uint64_t>(st.st_size) : kMaxFileSize;
    } else if (sources_.find(id, &attachments)) {
      old = kMaxFileSize;
      for (const auto& a : *attachments) {
        const Fd path = open_source(*a.object, O_PATH);
        if (path && disk_.stat(path.get(), "", &st) == 0) {
          old = static_cast<uint64_t>(st.st_size);
          break;
        }
      }
    }
  }
  return change_data(id, fd, {std::min(old, size), old > size ? old - size : size - old});
}

Change Core::change_attributes(SourceId id) { return change_data(id, -1, {}); }

Change Core::change_names(const NamesChange& names) {
  Change change = begin_change();
  ChangeState& state = *change.state_;
  for (int i = 0; i < 2; ++i) {
    if (names.parents[i] != 0) {
      auto& part = state.parts.emplace_back();
      part.id = names.parents[i];
      part.entries = true;
      part.name = names.names[i];
      if (!sources_.empty()) sources_.find(part.id, &part.seen);
    }
    if (names.objects[i] != 0) {
      auto& part = state.parts.emplace_back();
      part.id = names.objects[i];
      if (!sources_.empty()) sources_.find(part.id, &part.seen);
    }
  }
  if (names.victim == 0) return change;
  state.victim_id = names.victim;
  {
    auto& part = state.parts.emplace_back();
    part.id = names.victim;
  }
  if (sources_.empty()) return change;
  // Pinned, to see at the end whether the last name is gone. (A session that comes while the change
  // is under way tells a new file with the same number by its handle.)
  state.victim =
      Fd(disk_, disk_.open(names.victim_dir, std::string(names.victim_name).c_str(),
                           O_PATH | O_NOFOLLOW));
  auto& part = state.parts.back();
  const auto source = sources_.find(names.victim, &part.seen);
  if (!source || !any_needed(part.seen)) return change;
  change.error_ = -keep_in_limbo(*source, part.seen, state.victim.get());
  return change;
}

int Core::keep_in_limbo(const Source& source, const Attachments& attachments, int fd) {
  const SourceId id = source.id;
  {
    const Claims::Holder claim(source.limbo, kAll);
    if (sources_.in_limbo(id)) return 0;
    int e = fd < 0 ? fd : 0;
    if (e == 0) e = open_limbo();
    const std::string name = limbo_name(id);
    if (e == 0) e = disk_.link(fd, limbo_dir_.get(), name.c_str());
    if (e == -EEXIST) {
      // Of a file that had the same inode number once: nobody needs it.
      disk_.unlink(limbo_dir_.get(), name.c_str(), 0);
      e = disk_.link(fd, limbo_dir_.get(), name.c_str());
    }
    if (e == 0 && power()) {
      e = disk_.sync(limbo_dir_.get());
      if (e < 0) disk_.unlink(limbo_dir_.get(), name.c_str(), 0);
    }
    if (e == 0) {
      if (sources_.needed(id))
        sources_.set_in_limbo(id, true);
      else  // drained and detached meanwhile
        disk_.unlink(limbo_dir_.get(), name.c_str(), 0);
      return 0;
    }
  }
  // No hidden name can be made (no hard links there, or too many): copy all of it first.
  return save_before_write(source, attachments, -1, kAll);
}

int Core::open_limbo() {
  const std::lock_guard lock(limbo_mutex_);
  if (!limbo_dir_) limbo_dir_ = open_in_hidden("limbo", Missing::kIsMade);
  return limbo_dir_ ? 0 : limbo_dir_.get();
}

// Nobody was attached to SOURCE any more.
void Core::release_limbo(const Source& source) {
  const Claims::Holder claim(source.limbo, kAll);
  // Somebody came meanwhile: it is released when he goes.
  if (!sources_.in_limbo(source.id) || sources_.needed(source.id)) return;
  disk_.unlink(limbo_dir_.get(), limbo_name(source.id).c_str(), 0);
  sources_.set_in_limbo(source.id, false);
}

// Which of the hidden names nobody needs any more (after a restart), and which stand. Makes the hidden
// directory while nobody has looked at the volume's root: later its times would change unnoticed.
void Core::sweep_limbo() {
  if (open_limbo() != 0) return;
  std::vector<std::string> unused;
  disk_.list(limbo_dir_.get(), [&](const Disk::Entry& e) {
    Attachments attachments;
    if (sources_.find(e.ino, &attachments) && any_needed(attachments) &&
        e.name == limbo_name(e.ino))
      sources_.set_in_limbo(e.ino, true);
    else
      unused.push_back(e.name);
    return true;
  });
  for (const auto& name : unused) disk_.unlink(limbo_dir_.get(), name.c_str(), 0);
}

void Core::end_change(ChangeState& state) {
  if (state.begin != Pace::Clock::time_point{})
    pace_.note(state.fence_slot, state.beside, Pace::Clock::now() - state.begin);
  const bool attached_since = state.epoch != sources_.attach_epoch();
  for (auto& part : state.parts) {
    if (attached_since) sources_.find(part.id, &part.seen);
    if (part.seen == nullptr || !any_before_activation(part.seen)) continue;
    for (const auto& a : *part.seen) {
      Session& s = *a.session;
      Object& o = *a.object;
      if (!s.before_activation() || o.gone) continue;
      if (part.data) mark_written(s, o, part.range);
      if (part.entries)
        mark_name(s, o, part.name);
      else
        mark_object(s, o);
    }
  }
  if (state.victim && state.victim_id != 0) {
    struct stat st{};
    Attachments attachments;
    if (disk_.stat(state.victim.get(), "", &st) == 0 && st.st_nlink == 0 &&
        sources_.find(state.victim_id, &attachments)) {
      // Its number may be given to another file once the last descriptor is closed.
      for (const auto& a : *attachments) {
        if (!a.session->before_activation()) continue;
        a.object->gone = true;
        detach(*a.session, *a.object);
      }
    }
  }
  state.victim.reset();
  fence_.leave(state.fence_slot);
}

}  // namespace clonefs::detail
