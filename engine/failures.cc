// What an error makes of a session. What is lost is Failed, for ever and loudly; what only could not
// go on is tried again, and then waits for somebody to make room.
#include "engine/core.h"

namespace clonefs::detail {

namespace {

// Errors in a row after which the copy program stops, and what long enough without one ends the row.
constexpr unsigned kMostCopyErrors = 7;
constexpr auto kEndOfRow = std::chrono::seconds(60);

}  // namespace

void Core::fail(Session& s, const std::string& why) {
  {
    const std::lock_guard lock(s.text_mutex);
    if (!s.error.empty() || s.removed) return;
    s.error = why;
  }
  s.state.store(SessionState::kFailed, std::memory_order_release);
  // Whatever happens next, a clone that is not exact must say so after a restart too. The byte in
  // the track table needs no space.
  s.track_file.set_failed();
  if (power()) {
    s.durable_file.set_failed();
    s.durable_file.datasync();
  }
  {
    Catalog::Batch batch(*catalog_);
    auto status = batch.set_state(s.id, static_cast<int>(SessionState::kFailed), why);
    if (status) status = batch.commit();
  }
  events_.add("FAILED " + s.name + ": " + why);
  s.announce = true;
  wake(s);
  state_changed();
}

void Core::copy_failed(Session& s, const Error& error) {
  const auto now = std::chrono::steady_clock::now();
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
  events_.add("PAUSED " + s.name + ": " + error.message + "; nothing is lost: when the cause is gone (" +
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
    locks.emplace_back(s->work_mutex);
    if (s->removed) return Error{ENOENT, "there is no clone named " + s->name};
    const auto state = s->state.load();
    if (state != SessionState::kPrecopy && state != SessionState::kCopyInProgress)
      return Error{EINVAL, s->name + " is " + to_string(state) +
                               "; only a session that is being copied can be resumed"};
  }
  for (const auto& s : sessions) {
    if (s->trouble.load() == Trouble::kPaused) events_.add("resumed " + s->name);
    end_trouble(*s);
    wake(*s);
  }
  state_changed();
  return {};
}

}  // namespace clonefs::detail
