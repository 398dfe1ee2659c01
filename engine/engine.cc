#include "engine/engine.h"

#include "engine/core.h"

namespace clonefs {

Change::Change() = default;
Change::Change(Change&&) noexcept = default;
Change& Change::operator=(Change&& o) noexcept {
  if (this != &o) {
    if (state_ != nullptr) state_->core->end_change(*state_);
    state_ = std::move(o.state_);
    error_ = o.error_;
  }
  return *this;
}
Change::~Change() {
  if (state_ != nullptr) state_->core->end_change(*state_);
}

Engine::Engine(std::unique_ptr<detail::Core> core) : core_(std::move(core)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(EngineOptions options, Disk& disk) {
  auto core = std::make_unique<detail::Core>(std::move(options), disk);
  if (auto status = core->open(); !status) return status.error();
  return std::unique_ptr<Engine>(new Engine(std::move(core)));
}

Status Engine::close() { return core_->close(); }

Change Engine::change_data(SourceId id, int fd, ByteRange range) {
  return core_->change_data(id, fd, range);
}
Change Engine::change_size(SourceId id, int fd, uint64_t size) {
  return core_->change_size(id, fd, size);
}
Change Engine::change_attributes(SourceId id) { return core_->change_attributes(id); }
Change Engine::change_names(const NamesChange& names) { return core_->change_names(names); }

Engine::Foreground::Foreground(Engine& engine) {
  if (!engine.core_->pace_.wanted()) return;
  core_ = engine.core_.get();
  beside_ = core_->pace_.copying();
  begin_ = std::chrono::steady_clock::now();
}
Engine::Foreground::~Foreground() {
  if (core_ == nullptr) return;
  core_->pace_.note(detail::thread_slot(), beside_,
                    std::chrono::steady_clock::now() - begin_);
}

void Engine::set_flush(std::function<Status(const Wanted&)> flush) {
  const std::lock_guard lock(core_->hooks_mutex_);
  core_->flush_ = std::move(flush);
}
void Engine::set_clones_changed(std::function<void(const std::string&, bool)> changed) {
  const std::lock_guard lock(core_->hooks_mutex_);
  core_->clones_changed_ = std::move(changed);
}

Status Engine::create(const CreateOptions& options) { return core_->create(options); }
Status Engine::recreate(const RecreateOptions& options) { return core_->recreate(options); }
Status Engine::precopy(const std::vector<std::string>& names) { return core_->precopy(names); }
Status Engine::activate(const std::vector<std::string>& names) { return core_->activate(names); }
Status Engine::terminate(const std::vector<std::string>& names, bool force) {
  return core_->terminate(names, force);
}
Status Engine::remove(const std::vector<std::string>& names, bool force) {
  return core_->remove(names, force);
}
Status Engine::resume(const std::vector<std::string>& names) { return core_->resume(names); }
Status Engine::hold(const std::string& name, const std::string& tag) {
  return core_->hold_clone(name, tag);
}
Status Engine::release(const std::string& name, const std::string& tag) {
  return core_->release_clone(name, tag);
}
Status Engine::set_rate(const std::string& name, uint64_t bytes_per_s) {
  return core_->set_rate(name, bytes_per_s);
}
Status Engine::wait(const std::string& name, Goal goal,
                    std::optional<std::chrono::milliseconds> timeout) {
  return core_->wait(name, goal, timeout);
}

Result<VerifyReport> Engine::verify(const std::string& name,
                                    const std::function<bool()>& cancelled) {
  return core_->verify(name, cancelled);
}
std::shared_ptr<const VerifyReport> Engine::verified(const std::string& name) const {
  return core_->verified(name);
}

std::vector<SessionStatus> Engine::status() const { return core_->status(); }
Result<SessionStatus> Engine::status(const std::string& name) const { return core_->status(name); }
EngineCounts Engine::counts() const { return core_->counts(); }
PoolStatus Engine::pool_status() const { return core_->pool_watch_.status(); }
Result<std::vector<MemberExtents>> Engine::extents(const std::string& name) const {
  return core_->extents(name);
}
Result<TrackMap> Engine::track_map(const std::string& name, size_t cells) const {
  return core_->track_map(name, cells);
}

std::vector<EngineEvent> Engine::events(uint64_t after) const {
  return core_->events().after(after);
}
bool Engine::wait_event(uint64_t after, std::chrono::milliseconds timeout) const {
  return core_->events().wait(after, timeout);
}
void Engine::log(EventKind kind, const std::string& name, const std::string& text) {
  core_->events().add(kind, name, text);
}

std::vector<CloneInfo> Engine::clones() const { return core_->clones(); }
Result<std::shared_ptr<Clone>> Engine::clone(const std::string& name) const {
  return core_->clone(name);
}
Result<std::unique_ptr<CloneFile>> Engine::open_clone_file(const std::shared_ptr<Clone>& clone,
                                                           int fd, uint64_t pool_ino) {
  return core_->open_clone_file(clone, fd, pool_ino);
}

bool Engine::step(const std::string& name) {
  const auto s = core_->find(name);
  return s != nullptr && core_->step(s);
}
bool Engine::step_read(const std::string& name) {
  const auto s = core_->find(name);
  return s != nullptr && core_->step_read(s);
}
bool Engine::step_finish(const std::string& name) {
  const auto s = core_->find(name);
  return s != nullptr && core_->step_finish(s);
}

void Engine::start_timekeeping() { core_->start_timekeeping(); }
void Engine::keep_time(const timespec& wall, std::chrono::nanoseconds since_boot) {
  core_->keep_time(wall, since_boot);
}

Status Engine::checkpoint() {
  if (core_->options_.no_clones) return {};
  return core_->checkpoint({});
}
Durability Engine::durability() const { return core_->options_.durability; }
bool Engine::changes_may_wait() const { return core_->changes_may_wait(); }
bool Engine::pool_answers() { return core_->pool_answers(); }
Engine::JournalStatistics Engine::journal_statistics() const {
  if (core_->journal_ == nullptr) return {};
  const auto s = core_->journal_->statistics();
  return {s.records, s.commits, s.bytes};
}

Status Engine::available() const { return core_->available(); }
const std::string& Engine::pool_path() const { return core_->pool_name_; }
dev_t Engine::device() const { return core_->device_; }

}  // namespace clonefs
