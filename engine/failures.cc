// What an error makes of a session. What is lost is Failed, for ever and loudly; what only could not
// go on is tried again, and then waits for somebody to make room.
#include "engine/core.h"

namespace clonefs::detail {

namespace {

// Errors in a row after which the copy program stops, and what long enough without one ends the row.
constexpr unsigned kMostCopyErrors = 7;
constexpr auto kEndOfRow = std::chrono::seconds(60);

}  // namespace

// Not only what was asked lately: nobody may have asked since the pool went away.
bool Core::pool_answers() {
  if (!pool_dir_) return true;  // mounted without its clones
  const auto asked = guard_.run([this](const PoolGuard::Progress&) {
    struct statvfs fs{};
    return disk_.statvfs(pool_dir_.get(), &fs);
  });
  return asked.has_value();
}

bool Core::fail(Session& s, const std::string& why, bool overwrites) {
  {
    std::unique_lock lock(s.text_mutex);
    if (s.removed) return true;
    if (!s.error.empty()) {
      // Nobody overwrites a track before the loss is written down.
      s.failed_cv.wait(lock, [&] { return !s.failing; });
      return s.state.load() == SessionState::kFailed;
    }
    s.error = why;
    s.failing = true;
  }
  // Whatever happens next, a clone that is not exact must say so after a restart too. The byte in
  // the track table needs no space; what the pool cannot take is written to the volume.
  const auto session = s.shared_from_this();
  const auto in_pool = guard_.run([this, session, why](const PoolGuard::Progress&) {
    Session& failed = *session;
    int e = failed.track_file.set_failed();
    if (power()) {
      e = failed.durable_file.set_failed();
      if (e == 0) e = failed.durable_file.datasync();
    }
    Catalog::Batch batch(*catalog_);
    auto status = batch.set_state(failed.id, static_cast<int>(SessionState::kFailed), why);
    if (status) status = batch.commit();
    return status ? 0 : e;
  });
  const int e = in_pool && *in_pool == 0 ? 0 : record_loss(s);
  if (e == 0)
    events_.add(EventKind::kFailed, s.name, "FAILED " + s.name + ": " + why);
  else
    events_.add(overwrites ? EventKind::kWriteRefused : EventKind::kFailed, s.name,
                "that " + s.name + " is lost can be written neither to the pool nor to the volume (" +
                Error::from_errno(e, "").message + (overwrites ? "); a write is refused: " : "): ") + why);
  const bool failed = e == 0 || !overwrites;
  {
    const std::lock_guard lock(s.text_mutex);
    s.failing = false;
    if (failed)
      s.state.store(SessionState::kFailed, std::memory_order_release);
    else
      s.error.clear();
    s.failed_cv.notify_all();
  }
  if (failed) {
    clones_failed_.fetch_add(1, std::memory_order_relaxed);
    s.announce = true;
    wake(s);
    state_changed();
  }
  return failed;
}

namespace {

// Ids are used again when a pool is made anew: the time tells them apart.
std::string loss_name(const Session& s) {
  return std::to_string(s.id) + "-" + std::to_string(s.created_at.tv_sec) + "-" +
         std::to_string(s.created_at.tv_nsec);
}

}  // namespace

// .clonefs/lost of the volume: sessions that are Failed, which their pool may not know.
int Core::record_loss(const Session& s) {
  const Fd dir = open_in_hidden("lost", Missing::kIsMade);
  if (!dir) return dir.get();
  const Fd made(disk_, disk_.open(dir.get(), loss_name(s).c_str(),
                                  O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
  if (!made) return made.get();
  const int e = disk_.sync(made.get());
  return e < 0 ? e : disk_.sync(dir.get());
}

bool Core::recorded_loss(const Session& s) {
  struct stat st{};
  const Fd dir = open_in_hidden("lost", Missing::kIsError);
  return dir && disk_.stat(dir.get(), loss_name(s).c_str(), &st) == 0;
}

// The pool knows them now.
void Core::forget_losses() {
  const Fd dir = open_in_hidden("lost", Missing::kIsError);
  if (!dir) return;
  for (const auto& [name, s] : sessions_)
    if (s->state.load() == SessionState::kFailed)
      disk_.unlink(dir.get(), loss_name(*s).c_str(), 0);
}

void Core::copy_failed(Session& s, const Error& error) {
  const auto now = std::chrono::steady_clock::now();
  copy_errors_.fetch_add(1, std::memory_order_relaxed);
  if (now - s.last_copy_error > kEndOfRow) s.copy_errors = 0;
  s.last_copy_error = now;
  const bool pause = ++s.copy_errors >= kMostCopyErrors;
  {
    const std::lock_guard lock(s.text_mutex);
    s.trouble_text = error.message;
  }
  s.trouble.store(pause ? Trouble::kPaused : Trouble::kRetrying);
  s.precopied.store(false);
  if (!pause) return;
  // So that all is looked at again.
  s.cursor = Session::Cursor{};
  events_.add(EventKind::kPaused, s.name,
              "PAUSED " + s.name + ": " + error.message + "; nothing is lost: when the cause is gone (" +
              (error.code == ENOSPC || error.code == EDQUOT ? "make room in the pool" : "see the disk") +
              "), type clonefs resume " + s.name);
  state_changed();
}

void Core::end_trouble(Session& s) {
  s.copy_errors = 0;
  s.trouble.store(Trouble::kNone);
}

Status Core::resume(const std::vector<std::string>& names) {
  const std::lock_guard command(command_mutex_);
  Status status;
  const auto sessions = find_all(names, &status);
  if (!status) return status;
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& s : sessions) {
    if (status = hold(s, locks); !status) return status;
    const auto state = s->state.load();
    if (state != SessionState::kPrecopy && state != SessionState::kCopyInProgress)
      return Error{EINVAL, s->name + " is " + to_string(state) +
                               "; only a session that is being copied can be resumed"};
  }
  for (const auto& s : sessions) {
    if (s->trouble.load() == Trouble::kPaused)
      events_.add(EventKind::kResumed, s->name, "resumed " + s->name);
    end_trouble(*s);
    wake(*s);
  }
  state_changed();
  return {};
}

}  // namespace clonefs::detail
