// Opening a pool, taking up its sessions where they were, and the clean end. FORMAT.md has what is
// on disk.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <unordered_set>

#include "engine/core.h"
#include "engine/row_rules.h"

namespace clonefs::detail {

namespace {

std::string current_boot() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace

Core::~Core() {
  stop_timekeeping();
  {
    const std::lock_guard lock(housekeeper_mutex_);
    housekeeper_stop_ = true;
    housekeeper_wake_.notify_all();
  }
  if (housekeeper_.joinable()) housekeeper_.join();
  {
    const std::lock_guard lock(retired_mutex_);
    removing_ends_ = true;
    retired_wake_.notify_all();
  }
  if (remover_.joinable()) remover_.join();
  for (const auto& retired : retired_) stop_worker(*retired.session);
  for (const auto& s : all_sessions()) stop_worker(*s);
  // Sessions refer to objects that refer to descriptors: before the disk goes.
  for (const auto& s : all_sessions())
    for (auto& o : s->objects) sources_.detach(o);
  sessions_.clear();
}

namespace {

// In the volume's .clonefs: a new text at each mount without clones. The catalog has the one that it
// saw last.
constexpr const char* kMark = "without-clones";
constexpr size_t kMarkSize = 36;

std::string new_mark() {
  std::ifstream file("/proc/sys/kernel/random/uuid");
  std::string id;
  std::getline(file, id);
  id.resize(kMarkSize, '-');
  return id;
}

}  // namespace

Status Core::open_source() {
  source_dir_ = Fd(disk_, disk_.open(options_.source, ".", O_RDONLY | O_DIRECTORY));
  if (!source_dir_)
    return Error::from_errno(source_dir_.get(), "cannot open " + options_.source_name);
  struct stat root{};
  if (const int e = disk_.stat(source_dir_.get(), "", &root); e < 0)
    return Error::from_errno(e, "cannot read " + options_.source_name);
  device_ = root.st_dev;
  if (const int e = disk_.lock(source_dir_.get()); e == -EWOULDBLOCK)
    return Error{EBUSY, options_.source_name + " is served by another clonefs already; unmount that "
                                               "one first (`clonefs umount MOUNTPOINT`; where it is not mounted any more, "
                                               "another mount namespace has it: end its processes)"};
  return {};
}

// The mark of mounts without clones: "" where there is none and none can be made, or another one with
// REPLACE. It is overwritten in place, which needs no room.
Result<std::string> Core::mark(bool replace) {
  const auto hidden = open_hidden();
  // A volume that cannot be written to does not change either.
  if (!hidden && hidden.error().code == EROFS) return std::string();
  if (!hidden) return hidden.error();
  const std::string what = options_.source_name + "/.clonefs/" + kMark;
  Fd file(disk_, disk_.open(hidden->get(), kMark, O_RDONLY | O_NOFOLLOW));
  std::string text(kMarkSize, '\0');
  if (file && !replace) {
    const ssize_t n = disk_.pread_full(file.get(), text.data(), kMarkSize, 0);
    if (n < 0) return Error::from_errno(static_cast<int>(n), "cannot read " + what);
    if (n == kMarkSize) return text;
  } else if (!file && file.get() != -ENOENT) {
    return Error::from_errno(file.get(), "cannot read " + what);
  }
  file = Fd(disk_, disk_.open(hidden->get(), kMark, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (file.get() == -EROFS) return std::string();
  text = new_mark();
  int e = file ? disk_.pwrite_full(file.get(), text.data(), kMarkSize, 0) : file.get();
  if (e == 0) e = disk_.sync(file.get());
  if (e == 0) e = disk_.sync(hidden->get());
  if (e < 0) return Error::from_errno(e, "cannot write " + what);
  return text;
}

Status Core::open_pool() {
  struct stat root{};
  if (const int e = disk_.stat(source_dir_.get(), "", &root); e < 0)
    return Error::from_errno(e, "cannot read " + options_.source_name);
  if (options_.pool.empty()) {
    const auto hidden = open_hidden();
    if (!hidden)
      return Error{hidden.error().code, hidden.error().message + "; or name another place with --pool"};
    const int e = disk_.mkdir(hidden->get(), "pool", 0700);
    if (e < 0 && e != -EEXIST)
      return Error::from_errno(e, "cannot make the pool in " + options_.source_name + "/.clonefs");
    pool_dir_ = Fd(disk_, disk_.open(hidden->get(), "pool", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  } else {
    const int e = disk_.mkdir(AT_FDCWD, options_.pool.c_str(), 0700);
    if (e < 0 && e != -EEXIST) return Error::from_errno(e, "cannot make the pool " + options_.pool);
    pool_dir_ = Fd(disk_, disk_.open(AT_FDCWD, options_.pool.c_str(), O_RDONLY | O_DIRECTORY));
  }
  if (!pool_dir_)
    return Error::from_errno(pool_dir_.get(),
                             "cannot open the pool " + (options_.pool.empty()
                                                            ? options_.source_name + "/.clonefs/pool"
                                                            : options_.pool));
  if (auto status = make_private(pool_dir_.get(), options_.pool.empty()
                                                      ? options_.source_name + "/.clonefs/pool"
                                                      : options_.pool);
      !status)
    return status;
  struct stat pool{};
  if (const int e = disk_.stat(pool_dir_.get(), "", &pool); e < 0)
    return Error::from_errno(e, "cannot read the pool");
  pool_device_ = pool.st_dev;
  pool_ino_ = pool.st_ino;
  if (disk_.path_of(pool_dir_.get(), &pool_name_) < 0) pool_name_ = options_.pool;
  if (!options_.pool.empty()) {
    if (lies_in(pool_dir_.get(), root))
      return Error{EINVAL, "the pool " + options_.pool +
                               " lies in the volume, whose changes it would see; leave --pool out "
                               "(then it is hidden in .clonefs) or name a directory outside"};
    if (lies_in(source_dir_.get(), pool))
      return Error{EINVAL, "the pool " + options_.pool +
                               " has the volume in it; name a directory of its own"};
  }
  lock_ = Fd(disk_, disk_.open(pool_dir_.get(), "lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (!lock_) return Error::from_errno(lock_.get(), "cannot write to the pool " + pool_name_);
  if (const int e = disk_.lock(lock_.get()); e < 0)
    return e == -EWOULDBLOCK
               ? Error{EBUSY, "the pool " + pool_name_ + " is in use by another clonefs; unmount "
                              "that volume first (`clonefs umount MOUNTPOINT`)"}
               : Error::from_errno(e, "cannot lock the pool " + pool_name_);
  struct Place {
    const char* name;
    Fd* fd;
  };
  for (const auto& [name, fd] : {Place{"clones", &clones_dir_}, Place{"incomplete", &incomplete_dir_},
                                 Place{"tracks", &tracks_dir_}, Place{"stage", &stage_dir_},
        Place{"journal", &journal_dir_}}) {
    const int e = disk_.mkdir(pool_dir_.get(), name, 0700);
    if (e < 0 && e != -EEXIST)
      return Error::from_errno(e, "cannot write to the pool " + pool_name_);
    *fd = Fd(disk_, disk_.open(pool_dir_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (!*fd) return Error::from_errno(fd->get(), "cannot open the pool's directory " + std::string(name));
  }
  source_space_ = {&disk_, source_dir_.get(), opens_handles(source_dir_.get())};
  pool_space_ = {&disk_, pool_dir_.get(), opens_handles(pool_dir_.get())};
  return {};
}

// What lies in the pool is believed and shows all that the volume has, whoever may read it there: it is
// the daemon's user's, and nobody else's.
Status Core::make_private(int dir, const std::string& name) {
  struct stat st{};
  if (const int e = disk_.stat(dir, "", &st); e < 0)
    return Error::from_errno(e, "cannot read " + name);
  if (st.st_uid != ::geteuid())
    return Error{EPERM, name + " belongs to user " + std::to_string(st.st_uid) +
                            ", who could write to files through clonefs that only user " +
                            std::to_string(::geteuid()) +
                            " may write to; mount as that user, or remove it"};
  if ((st.st_mode & 077) == 0) return {};
  if (const int e = disk_.chmod(dir, 0700); e < 0)
    return Error::from_errno(e, "cannot keep others out of " + name);
  return {};
}

// The volume's .clonefs, made when it is missing. EROFS: it is, and cannot be made.
Result<Fd> Core::open_hidden() {
  const std::string name = options_.source_name + "/.clonefs";
  const int made = disk_.mkdir(source_dir_.get(), ".clonefs", 0700);
  if (made < 0 && made != -EEXIST && made != -EROFS)
    return Error::from_errno(made, "cannot make " + name);
  Fd hidden(disk_, disk_.open(source_dir_.get(), ".clonefs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (!hidden)
    return Error::from_errno(made == -EROFS ? made : hidden.get(), "cannot open " + name);
  if (auto status = make_private(hidden.get(), name); !status) return status.error();
  return hidden;
}

// A directory in there; a new one is durable. Or -errno.
Fd Core::open_in_hidden(const char* name, Missing missing) {
  const auto hidden = open_hidden();
  if (!hidden) return Fd(disk_, -hidden.error().code);
  if (missing == Missing::kIsMade) {
    int e = disk_.mkdir(hidden->get(), name, 0700);
    if (e == 0) e = disk_.sync(hidden->get());
    if (e < 0 && e != -EEXIST) return Fd(disk_, e);
  }
  return Fd(disk_, disk_.open(hidden->get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
}

// Whether the directory behind FD lies in TOP, at any depth, or is it.
bool Core::lies_in(int fd, const struct stat& top) {
  Fd at(disk_, disk_.open(fd, ".", O_PATH | O_DIRECTORY));
  for (int depth = 0; at && depth < 4096; ++depth) {
    struct stat st{}, up{};
    if (disk_.stat(at.get(), "", &st) < 0) return false;
    if (st.st_dev == top.st_dev && st.st_ino == top.st_ino) return true;
    Fd parent(disk_, disk_.open(at.get(), "..", O_PATH | O_DIRECTORY));
    if (!parent || disk_.stat(parent.get(), "", &up) < 0) return false;
    if (up.st_dev == st.st_dev && up.st_ino == st.st_ino) return false;
    at = std::move(parent);
  }
  return false;
}

bool Core::opens_handles(int dir) {
  std::string handle;
  if (disk_.handle_of(dir, &handle) < 0) return false;
  const Fd fd(disk_, disk_.open_handle(dir, handle, O_PATH | O_DIRECTORY));
  return static_cast<bool>(fd);
}

std::string Core::mount_of_pool() {
  uint64_t id = 0;
  if (disk_.mount_id(pool_dir_.get(), &id) < 0) return "";
  return std::to_string(pool_device_) + " " + std::to_string(id);
}

Status Core::open() {
  if (auto status = open_source(); !status) return status;
  if (options_.no_clones) {
    pool_name_ = options_.pool.empty() ? options_.source_name + "/.clonefs/pool" : options_.pool;
    // Of what changes from now on the pool hears nothing.
    if (auto marked = mark(true); !marked)
      events_.add(EventKind::kTrouble, "",
                  marked.error().message + ": should the last mount not have ended cleanly, the next one "
                  "cannot know that the files were changed without the clones that were not drained; "
                  "terminate these then");
    return {};
  }
  auto status = open_pool();
  if (status) status = take_pool();
  // In use, or a place that cannot be one: it says what to do.
  if (status || status.error().code == EBUSY || status.error().code == EINVAL) return status;
  return Error{status.error().code,
               status.error().message + ". `clonefs fsck " +
                   (options_.pool.empty() ? options_.source_name + "/.clonefs/pool" : options_.pool) +
                   "` looks at the pool; `clonefs mount --no-clones` mounts the volume without it"};
}

Status Core::take_pool() {
  // Made here for its mode; SQLite gives what lies beside it the same.
  if (const Fd file(disk_, disk_.open(pool_dir_.get(), "catalog.db",
                                      O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600));
      file)
    disk_.chmod(file.get(), 0600);
  // SQLite opens by path: through the pool's descriptor, so that nobody can put another in its way.
  auto catalog = Catalog::open("/proc/self/fd/" + std::to_string(pool_dir_.get()) + "/catalog.db");
  if (!catalog)
    return Error{catalog.error().code, "the pool " + pool_name_ + " cannot be used: " +
                                           catalog.error().message};
  catalog_ = std::move(*catalog);

  std::string root_handle;
  if (disk_.handle_of(source_dir_.get(), &root_handle) < 0) {
    struct stat st{};
    disk_.stat(source_dir_.get(), "", &st);
    root_handle = "inode " + std::to_string(st.st_ino);
  }
  auto volume = catalog_->meta("volume");
  auto clean = catalog_->meta("clean");
  auto boot = catalog_->meta("boot");
  for (const auto* meta : {&volume, &clean, &boot})
    if (!*meta) return meta->error();
  if (!volume->empty() && *volume != root_handle)
    return Error{EXDEV, "the pool " + pool_name_ + " belongs to another volume than " +
                            options_.source_name + "; name the volume's own pool with --pool, or an "
                                                   "empty directory"};
  auto durability = catalog_->meta("durability");
  if (!durability) return durability.error();
  const std::string this_boot = options_.boot.empty() ? current_boot() : options_.boot;
  auto power_cut_at = catalog_->meta("power_cut_at");
  if (!power_cut_at) return power_cut_at.error();
  power_cut_at_ns_ = std::strtoll(power_cut_at->c_str(), nullptr, 10);
  auto mount = catalog_->meta("mount");
  if (!mount) return mount.error();
  const std::string this_mount = mount_of_pool();
  LastEnd end{*clean == "1", *boot == this_boot, *durability == to_string(Durability::kPower),
              false, nullptr};
  // Mounted anew since (it may be an image that was cut off): the page cache is another.
  if (end.was_power && *mount != this_mount) end.same_boot = false;
  auto known_mark = catalog_->meta("without_clones");
  if (!known_mark) return known_mark.error();
  const auto this_mark = mark(false);
  if (!this_mark) return this_mark.error();
  end.elsewhere = !known_mark->empty() && *known_mark != *this_mark;
  const bool cut = end.power_cut() && !volume->empty();
  if (cut) power_cut_at_ns_ = nanoseconds(now());

  if (auto status = settle_trees(); !status) return status;
  auto rows = catalog_->sessions();
  if (!rows) return rows.error();
  // What no session owns: left by a daemon that was killed in CREATE or delete.
  std::unordered_set<std::string> names, ids;
  for (const auto& row : *rows) {
    if (auto status = check_identity(row); !status) return status;
    next_id_ = std::max(next_id_, row.id + 1);
    if (row.state == kRemovingState) {
      if (auto status = remove_from_disk(row.id, row.name, row.aside); !status) return status;
      continue;
    }
    // (Of one that is Copied it is in clones/; what has its name here was to follow it, and has no row.)
    if (row.state != static_cast<int>(SessionState::kCopied) &&
        row.state != static_cast<int>(SessionState::kTerminated))
      names.insert(row.name);
    ids.insert(digests_name(row.id));
    if (row.state == static_cast<int>(SessionState::kTerminated)) continue;
    ids.insert(std::to_string(row.id));
    ids.insert(std::to_string(row.id) + ".durable");
  }
  if (auto status = sweep(incomplete_dir_.get(), names); !status) return status;
  if (auto status = sweep(tracks_dir_.get(), ids); !status) return status;
  if (auto status = sweep(stage_dir_.get(), {}); !status) return status;

  for (const auto& row : *rows) {
    if (row.state == kRemovingState) continue;
    if (auto status = load_session(row, end); !status) return status;
  }
  if (auto status = load_timetable(); !status) return status;
  sweep_limbo();
  if (end.was_power || power()) {
    auto journal = Journal::open(disk_, journal_dir_.get(), options_.journal_limit,
                                 [this] { call_for_checkpoint(); });
    if (!journal) return journal.error();
    journal_ = std::move(*journal);
    if (end.was_power && end.power_cut()) {
      if (auto status = replay_journal(); !status) return status;
    }
    // What a killed daemon had in the page cache was durable in the journal only.
    if (auto status = checkpoint_all(); !status) return status;
    if (auto status = journal_->reset(); !status) return status;
    if (!power()) journal_.reset();
  }
  {
    Catalog::Batch batch(*catalog_);
    auto status = batch.put_meta("volume", root_handle);
    if (status) status = batch.put_meta("clean", "0");
    if (status && cut) status = batch.put_meta("power_cut_at", std::to_string(power_cut_at_ns_));
    if (status) status = batch.put_meta("boot", this_boot);
    if (status) status = batch.put_meta("mount", this_mount);
    if (status) status = batch.put_meta("without_clones", *this_mark);
    if (status) status = batch.put_meta("durability", to_string(options_.durability));
    if (status) status = batch.clear_marks();
    if (status) status = batch.drop_orphans();
    for (auto& [name, s] : sessions_)
      if (status && s->active()) status = put_rows(*s, batch);
    if (status) status = batch.commit();
    if (!status) return status;
  }
  forget_losses();
  for (auto& [name, s] : sessions_)
    if (s->active()) rows_written(*s);
  for (auto& [name, s] : sessions_) {
    if (!s->before_activation() && !s->active()) continue;
    start_worker(s);
    call_for_journal();
  }
  reserve_room();
  look_at_pool();
  if (options_.copy_threads) {
    housekeeper_ = std::thread([this] { housekeeping(); });
    remover_ = std::thread([this] { removing(); });
  }
  return {};
}

Status Core::sweep(int dir, const std::unordered_set<std::string>& owned) {
  std::vector<std::string> stray;
  const int e = disk_.list(dir, [&](const Disk::Entry& entry) {
    if (!owned.contains(entry.name)) stray.push_back(entry.name);
    return true;
  });
  if (e < 0) return Error::from_errno(e, "cannot list the pool " + pool_name_);
  for (const auto& name : stray) {
    if (auto status = remove_tree(dir, name); !status) return status;
  }
  return {};
}

// A session whose rows or files make no sense is taken up as Failed: the volume and the others go on.
Status Core::load_session(const SessionRow& row, const LastEnd& end) {
  auto s = std::make_shared<Session>();
  s->id = row.id;
  s->name = row.name;
  s->slot = row.slot;
  s->column_id = row.column_id;
  s->nocopy = row.nocopy;
  s->created_at = row.created_at;
  s->activated_at = row.activated_at;
  s->fence_ns = row.fence_ns;
  s->pace = row.pace;
  s->error = row.error;
  s->aside = row.aside;
  s->keep = row.keep;
  s->kept_of = row.kept_of;
  const std::lock_guard work(s->work_mutex);
  bool slot_taken = false;
  {
    const std::unique_lock lock(sessions_mutex_);
    SessionPtr before;  // the generation that this one follows
    for (const auto& [name, other] : sessions_) {
      const bool follows = row.aside && name == row.name && other->previous == nullptr;
      if ((name == row.name && !follows) || other->id == row.id)
        return Error{EUCLEAN, "the catalog of the pool is damaged: two sessions have the name " + name +
                                  " or its number"};
      if (follows) before = other;
      slot_taken |= !follows && other->slot == row.slot;
    }
    if (before != nullptr) before->frozen = true;
    s->previous = std::move(before);
    sessions_[s->name] = s;
  }
  const struct Built {
    Session& session;
    ~Built() { session.building = false; }
  } built{*s};
  const auto lost = [&](const std::string& why) {
    if (s->error.empty()) {
      s->error = why;
      clones_failed_.fetch_add(1, std::memory_order_relaxed);
      events_.add(EventKind::kFailed, s->name, "FAILED " + s->name + ": " + why);
    }
    s->state.store(SessionState::kFailed);
    detach_all(*s);
    Catalog::Batch batch(*catalog_);
    auto status = batch.set_state(s->id, static_cast<int>(SessionState::kFailed), s->error);
    if (status) status = batch.commit();
    return status;
  };
  auto text = check_session(row);
  if (!text) return lost(text.error().message);
  if (slot_taken) return lost("its row in the catalog is damaged: another has its inode numbers");
  s->state.store(static_cast<SessionState>(row.state));
  s->track_size = TrackSize(row.track_size);
  s->paths = std::move(text->paths);
  s->selection = std::move(text->selection);
  const bool is_lost = recorded_loss(*s);
  auto status = load_objects(*s, end);
  if (s->state.load() == SessionState::kFailed) return {};
  if (is_lost)
    return lost("a track could not be saved before it was overwritten, and the pool did not answer");
  if (!status) return lost(status.error().message);
  status = take_up(s, end);
  if (!status) return lost(status.error().message);
  return {};
}

void Core::remove_volatile_track_file(uint64_t id) {
  disk_.unlink(tracks_dir_.get(), std::to_string(id).c_str(), 0);
}

Status Core::load_objects(Session& s, const LastEnd& end) {
  const auto state = s.state.load();
  // Of a Failed or Copied session the bits are only for the status: as far as they can be read. (A
  // clone that is Copied depends on nothing: its table need not be durable.)
  const bool copied = state == SessionState::kCopied;
  const bool for_status = copied || state == SessionState::kFailed;
  bool has_bits = state != SessionState::kTerminated;
  const bool before = state == SessionState::kCreated || state == SessionState::kPrecopy;
  // Whether the volatile table may be anything. Before activation it is written at a clean end only.
  const bool stale = end.power_cut() || (before && !end.clean);
  if (for_status) {
    auto file = open_track_file(s.id, false);
    has_bits = static_cast<bool>(file);
    if (has_bits) s.track_file = std::move(*file);
  } else if (has_bits) {
    for (auto* file : {&s.track_file, &s.durable_file}) {
      auto opened = open_track_file(s.id, file == &s.durable_file);
      if (!opened && stale && file == &s.track_file) {
        remove_volatile_track_file(s.id);
        opened = open_track_file(s.id, false);
      }
      if (!opened) return opened.error();
      *file = std::move(*opened);
    }
    if ((s.track_file.failed() && !end.power_cut()) || s.durable_file.failed())
      return Error{EIO, "a track could not be saved before it was overwritten (found at the mount)"};
  }
  // Then the bits are those of the last checkpoint.
  const bool from_durable = has_bits && !for_status && stale && end.was_power;
  if (from_durable) s.track_file.clear();
  bool digests_lost = false;
  if (has_bits && state != SessionState::kFailed) {
    auto digests = DigestFile::open(disk_, tracks_dir_.get(), digests_name(s.id), false);
    digests_lost = before && !digests;
    // An active session goes on without, and verify says so: what a later start finds would not tell
    // of the tracks that are copied now. One before activation copies all again.
    if (!digests && (before || state == SessionState::kCopyInProgress))
      disk_.unlink(tracks_dir_.get(), digests_name(s.id).c_str(), 0);
    if (digests_lost) {
      digests = DigestFile::open(disk_, tracks_dir_.get(), digests_name(s.id), true);
      if (!digests) return digests.error();
    }
    if (digests) s.digests = std::move(*digests);
  }
  uint64_t region_end = 0;
  std::vector<TrackBits> bits;
  std::vector<std::pair<uint64_t, uint64_t>> regions;
  std::vector<uint32_t> parents;  // of each object
  std::unordered_map<uint32_t, Object*> by_id;
  std::unordered_set<SourceId> sources;
  auto status = catalog_->objects(s.id, [&](ObjectRow r) -> Status {
    if (auto ok = check_object(r); !ok) return ok;
    if (r.id < s.next_object_id || s.by_pool_ino.find(r.pool_ino) != nullptr ||
        !sources.insert(r.source_id).second)
      return Error{EUCLEAN, "its members in the catalog are damaged: one is there twice"};
    Object& o = s.objects.emplace_back();
    o.id = r.id;
    s.next_object_id = o.id + 1;
    by_id[o.id] = &o;
    parents.push_back(r.parent);
    o.type = static_cast<uint16_t>(r.type & S_IFMT);
    o.changed = r.changed;
    o.altered = r.altered ? Object::kRecorded : Object::kNot;
    o.finished = r.finished;
    o.tracked = false;
    o.source_id = r.source_id;
    o.source = FileRef::from_handle(r.source_handle);
    o.pool_ino = r.pool_ino;
    o.clone = FileRef::from_handle(r.pool_handle);
    o.size = r.size;
    o.atime = r.atime;
    o.mtime = r.mtime;
    o.ctime = r.ctime;
    if (!r.capability.empty()) o.capability = std::make_unique<std::string>(r.capability);
    s.by_pool_ino.add(o);
    s.counters.objects.fetch_add(1);
    if (o.is_regular()) s.counters.files.fetch_add(1);
    if (r.column_base < 0) return {};
    const bool beyond = for_status && r.column_base + static_cast<int64_t>(r.column_count) >
                                          static_cast<int64_t>(s.track_file.end());
    if (!has_bits || beyond) {
      if (state == SessionState::kTerminated || copied) {
        // What is left of it: where the digests are.
        o.column = std::make_unique<Column>();
        o.column->base = static_cast<uint64_t>(r.column_base);
        o.column->capacity = r.column_capacity;
        o.column->digests = r.column_count;
      }
      return {};
    }
    if (r.column_capacity > 0)
      regions.emplace_back(static_cast<uint64_t>(r.column_base), r.column_capacity);
    auto column = std::make_unique<Column>();
    column->base = static_cast<uint64_t>(r.column_base);
    column->count = r.column_count;
    column->capacity = r.column_capacity;
    const TrackFile& table = from_durable ? s.durable_file : s.track_file;
    // Before memory is asked for: what can be read is no longer than the file.
    const bool readable = r.column_count == 0 || column->base + r.column_count <= table.end();
    int e = readable ? 0 : -ENODATA;
    if (e < 0 && (!before || !stale))
      return Error{EUCLEAN, "its track table is too short"};
    if (e < 0) column->count = r.column_count = std::min(r.column_count, tracks_there(s, o));
    bits.resize(r.column_count);
    if (e == 0) e = table.read(column->base, bits.data(), bits.size());
    if (digests_lost || (before && stale && (!from_durable || e == -ENODATA))) {
      // No checkpoint has seen it: all of it again.
      for (uint64_t t = 0; t < bits.size(); ++t) bits[t] = s.selected(t) ? kRecopy : kOutside;
      e = 0;
    }
    if (e == -ENODATA) return Error{EUCLEAN, "its track table is too short"};
    if (e < 0) return Error::from_errno(e, "cannot read its track table");
    if (stale && !before) {
      e = s.track_file.write(column->base, bits.data(), bits.size());
      if (e < 0) return Error::from_errno(e, "cannot write its track table");
    }
    region_end = std::max(region_end, column->base + column->capacity);
    column->bits.make(r.column_count);
    auto& c = s.counters;
    const uint64_t track = s.track_size.bytes();
    for (uint64_t t = 0; t < r.column_count; ++t) {
      const TrackBits changed = copied ? bits[t] & kChanged : 0;
      bits[t] = durable_form(bits[t]);
      if (for_status && !is_possible(bits[t])) bits[t] = kOutside;
      if (copied && in_extent(bits[t])) bits[t] = on_drained(bits[t]);
      if (!is_possible(bits[t]))
        return Error{EUCLEAN, "its track table is damaged: impossible bits"};
      column->bits[t].store(bits[t] | changed, std::memory_order_relaxed);
      if (is_pending(bits[t])) {
        o.pending.fetch_add(1);
        c.tracks_pending.fetch_add(1);
      }
      if (is_precopied(bits[t])) c.tracks_precopied.fetch_add(1);
      if (is_unsaved(bits[t])) o.unsaved.fetch_add(1);
      if (in_extent(bits[t])) {
        c.tracks_total.fetch_add(1);
        c.bytes_total.fetch_add(track);
        if (!is_pending(bits[t])) c.bytes_copied.fetch_add(track);
      }
    }
    o.column = std::move(column);
    if (digests_lost || (stale && before)) note_table(s, o);
    return {};
  });
  if (!status) return status;
  s.track_file.raise_end(region_end);
  if (auto ok = check_regions(std::move(regions)); !ok) return ok;
  // Of regions that came after those that the catalog knows: they are given out again, empty.
  if (before) {
    if (const int e = s.digests.cut(s.track_file.end()); e < 0)
      return Error::from_errno(e, "cannot write its digests");
  }
  for (size_t i = 0; i < s.objects.size(); ++i) {
    const auto parent = by_id.find(parents[i]);
    if (parent != by_id.end() && parent->second != &s.objects[i]) s.objects[i].parent = parent->second;
  }
  if (s.objects.empty() || s.objects.front().id != 0 || !s.objects.front().is_directory())
    return Error{EUCLEAN, "its members in the catalog are damaged: there is no root"};
  return {};
}

// How many tracks a member can have by what is on either side.
uint64_t Core::tracks_there(const Session& s, const Object& o) const {
  uint64_t tracks = 0;
  struct stat st{};
  for (const Fd& fd : {open_source(o, O_PATH), open_clone(o, O_PATH)})
    if (fd && disk_.stat(fd.get(), "", &st) == 0 && S_ISREG(st.st_mode))
      tracks = std::max(tracks, s.track_size.tracks_in(static_cast<uint64_t>(st.st_size)));
  return tracks;
}

// Files that the session writes to lie in its tree, whatever the catalog says.
Status Core::keep_to_tree(Session& s, int tree) {
  if (!pool_space_.by_handle) return {};  // those that are pinned were found there
  std::unordered_set<uint64_t> there;
  int e = list_numbers(tree, false, there);
  bool looked_twice = false;
  for (auto& o : s.objects) {
    if (there.contains(o.pool_ino)) continue;
    // Where entries have other numbers than files: once more by looking at each.
    if (e == 0 && !std::exchange(looked_twice, true)) e = list_numbers(tree, true, there);
    if (e < 0) return Error::from_errno(e, "cannot read its tree in the pool");
    if (!there.contains(o.pool_ino)) o.clone = FileRef();  // removed by the clone's user, at best
  }
  return {};
}

int Core::list_numbers(int tree, bool each, std::unordered_set<uint64_t>& numbers) {
  // A directory may have more of them in it than there are descriptors.
  std::vector<FileRef> dirs(1);
  if (const int e = FileRef::of(pool_space_, tree, &dirs[0]); e < 0) return e;
  while (!dirs.empty()) {
    const Fd dir = dirs.back().open(pool_space_, O_RDONLY | O_DIRECTORY);
    dirs.pop_back();
    struct stat st{};
    int e = dir ? disk_.stat(dir.get(), "", &st) : dir.get();
    if (e < 0) return e;
    if (st.st_dev != pool_device_) continue;
    numbers.insert(st.st_ino);
    std::vector<std::string> names;
    e = disk_.list(dir.get(), [&](const Disk::Entry& entry) {
      numbers.insert(entry.ino);
      if (each || entry.type == DT_DIR || entry.type == DT_UNKNOWN) names.push_back(entry.name);
      return true;
    });
    if (e < 0) return e;
    for (const auto& name : names) {
      if (each) {
        if (e = disk_.stat(dir.get(), name.c_str(), &st); e < 0) return e;
        numbers.insert(st.st_ino);
      }
      const Fd inner(disk_, disk_.open(dir.get(), name.c_str(),
                                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      if (!inner && inner.get() != -ENOTDIR && inner.get() != -ELOOP) return inner.get();
      if (!inner) continue;
      if (e = FileRef::of(pool_space_, inner.get(), &dirs.emplace_back()); e < 0) return e;
    }
  }
  return 0;
}

Status Core::take_up(const SessionPtr& s, const LastEnd& end) {
  // The tree: in incomplete/ until it is Copied, and, for the moment before that is written down,
  // in clones/ already. What the name shows beside it has the other place.
  const auto state = s->state.load();
  const bool drained = state == SessionState::kCopied || state == SessionState::kTerminated;
  Fd tree;
  struct stat st{};
  bool another = false;
  for (const Fd* dir : {&incomplete_dir_, &clones_dir_}) {
    if (tree) break;
    tree = Fd(disk_, disk_.open(dir->get(), s->name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW));
    if (!tree || disk_.stat(tree.get(), "", &st) < 0) continue;
    if (st.st_ino == s->objects.front().pool_ino) continue;
    another = true;
    tree.reset();
  }
  if (!tree)
    return another ? Error{ESTALE, "its tree in the pool is another than the one that was made"}
                   : Error{ENOENT, "its tree is not in the pool any more"};

  if (!pool_space_.by_handle || !source_space_.by_handle) {
    if (auto status = find_pins(*s, tree.get()); !status) return status;
  }
  if (!drained) {
    if (auto status = keep_to_tree(*s, tree.get()); !status) return status;
  }
  // Its tree is in its place: settle_trees().
  if (drained) return end.clean ? track_again(s) : Status();

  if (state == SessionState::kCopyInProgress) {
    if (end.power_cut() && !end.was_power)
      return Error{EIO, "the machine went down before all was drained, and the volume was mounted "
                        "with durability relaxed"};
    // After a clean end what is recorded of the sources tells whether any of it was changed.
    if (end.elsewhere && !end.clean)
      return Error{ESTALE, "the volume was mounted without its clones (--no-clones) before all of it was "
                           "drained, after a daemon that had not ended cleanly"};
    for (auto& o : s->objects) {
      if (o.gone) continue;
      if (end.power_cut() && !o.changed) o.finished = false;
      if (!o.finished) sources_.attach(s, o);
      if (!end.clean) {
        if (auto status = clear_pending(*s, o); !status) return status;
      }
    }
    if (!end.clean) return {};
    auto marks = catalog_->marks(s->id);
    if (!marks) return marks.error();
    std::unordered_map<uint32_t, SourceMark> by_object;
    for (const auto& m : *marks) by_object[m.object] = m;
    for (auto& o : s->objects) {
      if (o.gone || o.pending.load() == 0) continue;
      const Fd source = open_source(o, O_PATH);
      const auto mark = by_object.find(o.id);
      if (!source || disk_.stat(source.get(), "", &st) < 0)
        return Error{ESTALE, "its source " + path_of(*s, o) +
                                 " was removed while clonefs was not mounted, before all of it was "
                                 "drained"};
      if (mark == by_object.end() || !same_time(mark->second.ctime, st.st_ctim) ||
          mark->second.size != static_cast<uint64_t>(st.st_size))
        return Error{ESTALE, "its source " + path_of(*s, o) +
                                 " was changed while clonefs was not mounted, before all of it was "
                                 "drained"};
    }
    return {};
  }

  // Created, Precopy: the source may have changed in any way. All is looked at again; bits are
  // trusted where the source is what it was when they were written down.
  if (auto status = select_paths(s->paths, &s->root_filter); !status) return status;
  std::unordered_map<uint32_t, SourceMark> checked;
  if (!end.clean) {
    auto marks = catalog_->marks(s->id);
    if (!marks) return marks.error();
    for (const auto& m : *marks) checked[m.object] = m;
  }
  // It was Copied, and is refreshed in place.
  const bool refresh = s->activated_at.tv_sec != 0;
  Object& root = s->objects.front();
  root.filter = s->root_filter.whole ? nullptr : &s->root_filter;
  if (s->previous != nullptr) inherit_from(*s, s->previous);
  std::unordered_map<uint32_t, Object*> tracked;
  if (end.before != nullptr)
    for (auto& o : end.before->objects)
      if (!o.gone && is_worth_tracking(o)) tracked[o.id] = &o;
  if (root.filter != nullptr) {
    if (auto status = set_filters(*s, root, s->root_filter); !status) return status;
  }
  for (auto& o : s->objects) {
    if (o.gone) continue;
    if (open_clone(o, O_PATH).get() == -ESTALE) {
      // Taken out of the skeleton, but not yet out of the catalog. What is still there is made anew.
      drop_object(*s, o);
      continue;
    }
    Object* p = s->previous == nullptr ? nullptr : s->previous->by_pool_ino.find(o.pool_ino);
    // Its number may have been that of a file which the clone's user removed.
    if (p != nullptr && o.is_regular() && open_clone(*p, O_PATH)) {
      // Inherited: as long as nothing has changed. That is found out anew.
      p->named_twice = true;
      drop_object(*s, o);
      continue;
    }
    sources_.attach(s, o);
    const Object* was = nullptr;  // the object that knows which tracks were written since
    if (const auto it = tracked.find(o.id); it != tracked.end()) was = it->second;
    if (refresh) {
      o.finished = false;
      o.times_set = false;
      o.changed = false;
      row_changed(*s, o);
    }
    if (!o.is_regular()) continue;
    // As it was when the bits were written down? After a power cut no ctime tells it: what a program
    // synced with fdatasync just before is there, the ctime that goes with it need not be.
    const Fd source = open_source(o, O_PATH);
    bool trusted = source && disk_.stat(source.get(), "", &st) == 0 && !end.power_cut();
    if (trusted && end.clean) {
      trusted = refresh ? unchanged_since(*s, o, st)
                        : same_time(st.st_ctim, o.ctime) && static_cast<uint64_t>(st.st_size) == o.size;
    } else if (trusted) {
      const auto mark = checked.find(o.id);
      trusted = mark != checked.end() && o.column != nullptr &&
                mark->second.column_base == o.column->base &&
                same_time(st.st_ctim, mark->second.ctime) &&
                static_cast<uint64_t>(st.st_size) == mark->second.size;
    }
    trusted |= was != nullptr;
    // By users of a clone whose activation was never acknowledged: it is not theirs any more.
    if (o.altered.exchange(Object::kNot) != Object::kNot) {
      trusted = false;
      row_changed(*s, o);
    }
    // Precopied is what a drained track is now.
    if (refresh && o.column != nullptr)
      change_bits(*s, o, {0, o.column->count}, is_drained, on_precopied);
    if (trusted && was != nullptr) take_changed(*s, o, *end.before, *was);
    if (!trusted && o.column != nullptr) {
      change_bits(*s, o, {0, o.column->count}, is_precopied, on_precopy_write);
      o.compare = true;
      // What is copied again gets its digest again, what is not has none.
      if (const int e = s->digests.forget(o.column->base, o.column->capacity); e < 0)
        return Error::from_errno(e, "cannot write its digests");
    }
    o.recheck = !(end.clean && trusted);
  }
  mark_all(s);
  if (!refresh) return {};
  s->activated_at = {};
  Catalog::Batch batch(*catalog_);
  auto status = put_rows(*s, batch);
  if (status) status = batch.put_session(row_of(*s));
  if (status) status = batch.commit();
  if (status) rows_written(*s);
  return status;
}

// Attached anew, O is told of what is written from now on: what was before, WAS knows.
void Core::take_changed(Session& s, Object& o, Session& before, const Object& was) {
  std::vector<Extent> changed;
  {
    const std::lock_guard lock(before.object_lock(was));
    for (uint64_t t = 0; t < was.column->count; ++t) {
      if (!is_changed(was.column->at(t)) || !s.selected(t)) continue;
      if (changed.empty() || changed.back().end() != t) changed.push_back({t, 0});
      ++changed.back().count;
    }
  }
  for (const Extent& extent : changed)
    change_bits(s, o, extent, [](TrackBits b) { return !is_pending(b) || is_copying(b); }, on_recheck);
}

// A clone that is Copied, after a clean end: what was noted of its sources goes on, if these are what
// they were then.
Status Core::track_again(const SessionPtr& s) {
  if (s->state.load() != SessionState::kCopied) return {};
  auto marks = catalog_->marks(s->id);
  if (!marks) return marks.error();
  std::unordered_map<uint32_t, SourceMark> by_object;
  for (const auto& m : *marks) by_object[m.object] = m;
  for (auto& o : s->objects) {
    const auto mark = by_object.find(o.id);
    if (o.gone || o.column == nullptr || mark == by_object.end()) continue;
    // Before it is looked at.
    sources_.attach(s, o);
    sources_.only_track(o);
    const Fd source = open_source(o, O_PATH);
    struct stat st{};
    o.tracked = source && disk_.stat(source.get(), "", &st) == 0 &&
                same_time(st.st_ctim, mark->second.ctime) &&
                static_cast<uint64_t>(st.st_size) == mark->second.size &&
                mark->second.column_base == o.column->base;
    if (!is_worth_tracking(o)) detach(*s, o);
  }
  return {};
}

// After an unclean end the clone's file may have, of tracks that are pending, what was put there last
// in part; and the clone's user may have cut it off, which its bits do not know.
Status Core::clear_pending(Session& s, Object& o) {
  if (o.pending.load() == 0) return {};
  const Fd clone = open_clone(o, O_RDWR);
  if (clone.get() == -ESTALE) return {};
  struct stat st{};
  int e = clone ? disk_.stat(clone.get(), "", &st) : clone.get();
  if (e < 0) return Error::from_errno(e, "cannot open " + path_of(s, o) + " in the pool");
  const auto size = static_cast<uint64_t>(st.st_size);
  if (size < o.size) {
    // Nothing of the source is shown beyond, also if it grows again.
    o.size = size;
    row_changed(s, o);
  }
  for (uint64_t t = 0; t < o.column->count;) {
    if (!is_pending(o.column->at(t))) {
      ++t;
      continue;
    }
    uint64_t u = t;
    while (u < o.column->count && is_pending(o.column->at(u))) ++u;
    const uint64_t from = s.track_size.offset_of(t);
    const uint64_t to = std::min(size, s.track_size.offset_of(u));
    auto status = each_data(clone.get(), from, to, [&](ByteRange r) {
      if (e == 0) e = clear_range(clone.get(), r);
    });
    if (!status) return status;
    if (e < 0) return Error::from_errno(e, "cannot clear tracks of " + path_of(s, o) + " in the pool");
    t = u;
  }
  return {};
}

// Tracks that were saved before they were overwritten and are not on the clone side for certain.
Status Core::replay_journal() {
  struct Members {
    SessionPtr session;
    std::unordered_map<uint32_t, Object*> by_id;
  };
  std::unordered_map<uint64_t, Members> by_id;
  for (const auto& [name, s] : sessions_) {
    if (!s->active()) continue;
    Members& members = by_id[s->id];
    members.session = s;
    for (auto& o : s->objects) members.by_id[o.id] = &o;
  }
  if (const std::string damage = journal_->damage(); !damage.empty()) {
    for (const auto& [name, s] : sessions_)
      if (s->active() && s->counters.tracks_pending.load() != 0)
        fail(*s, "tracks that were overwritten may be lost with the COFW journal: " + damage);
  }
  uint64_t tracks = 0;
  auto status = journal_->replay([&](const JournalRecord& r) -> Status {
    const auto it = by_id.find(r.session);
    if (it == by_id.end() || r.range.offset > kMaxFileSize) return {};
    Session& s = *it->second.session;
    const auto member = it->second.by_id.find(r.object);
    if (member == it->second.by_id.end()) return {};
    Object& o = *member->second;
    if (o.gone || o.column == nullptr || !s.active()) return {};
    Fd clone;
    const Extent extent = s.track_size.touched(r.range);
    for (uint64_t t = extent.first; t < std::min(extent.end(), o.column->count); ++t) {
      if (!is_pending(o.column->at(t))) continue;  // a checkpoint came after it
      const uint64_t from = std::max(r.range.offset, s.track_size.offset_of(t));
      const uint64_t stop =
          std::min({r.range.end(), s.track_size.offset_of(t + 1), std::max(from, o.size)});
      // Records have whole tracks, as far as the member goes.
      if (from != s.track_size.offset_of(t) ||
          stop < std::min(s.track_size.offset_of(t + 1), std::max(from, o.size)))
        continue;
      if (!clone) clone = open_clone(o, O_RDWR);
      if (clone.get() == -ESTALE) return {};
      const char* data = r.data + (from - r.range.offset);
      int e = clone ? disk_.pwrite_full(clone.get(), data, stop - from, from) : clone.get();
      if (e == 0) e = put_digests(s, o, {t, 1}, data);
      if (e == 0) e = change_bits(s, o, {t, 1}, is_pending, on_drained);
      if (e < 0) {
        fail(s, Error::from_errno(e, "cannot take a track of " + path_of(s, o) +
                                         " back from the journal")
                    .message);
        return {};
      }
      ++tracks;
    }
    return {};
  });
  if (status && tracks != 0)
    events_.add(EventKind::kRecovered, "",
                "after a power cut: " + std::to_string(tracks) + " tracks taken from the journal");
  return status;
}

// Deleting clones is the way out of a full pool, and a clean end must be possible there: the catalog
// has room of its own behind the end of its files. Where that can't be had it is as full as the pool.
void Core::reserve_room() {
  constexpr uint64_t kReserve = 1 << 20;
  for (const char* name : {"catalog.db", "catalog.db-wal"}) {
    const Fd file(disk_, disk_.open(pool_dir_.get(), name, O_RDWR | O_NOFOLLOW));
    struct stat st{};
    if (!file || disk_.stat(file.get(), "", &st) < 0) continue;
    disk_.allocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, static_cast<uint64_t>(st.st_size) + kReserve);
  }
}

// All sessions that hold bits, whatever changed in them.
Status Core::checkpoint_all() {
  if (!power()) {
    // From power to relaxed: what the journal held is durable before it goes.
    const int e = disk_.syncfs(pool_dir_.get());
    if (e < 0) return Error::from_errno(e, "cannot make the clones durable");
    return {};
  }
  std::vector<SessionPtr> sessions;
  for (const auto& [name, s] : sessions_) {
    if (!s->active() && !s->before_activation()) continue;
    sessions.push_back(s);
    for (auto& o : s->objects)
      if (!o.gone && o.column != nullptr) note_for_checkpoint(*s, o);
  }
  return checkpoint(sessions);
}

// Which directories above the selected paths are there in the skeleton, and with which names. One
// descriptor at a time: a path may have many levels.
Status Core::set_filters(Session& s, const Object& dir, const PathNode& node) {
  std::vector<std::pair<Object*, const PathNode*>> inner;
  {
    const Fd fd = open_clone(dir, O_PATH | O_DIRECTORY);
    if (!fd) return Error::from_errno(fd.get(), "cannot open " + path_of(s, dir) + " in the pool");
    for (const auto& [name, child] : node.children) {
      if (child.whole) continue;
      struct stat st{};
      const int e = disk_.stat(fd.get(), name.c_str(), &st);
      if (e == -ENOENT) continue;
      if (e < 0) return Error::from_errno(e, "cannot read " + name + " in the pool");
      if (Object* o = s.by_pool_ino.find(st.st_ino); o != nullptr && o->is_directory())
        inner.emplace_back(o, &child);
    }
  }
  for (const auto& [o, child] : inner) {
    o->filter = child;
    if (auto status = set_filters(s, *o, *child); !status) return status;
  }
  return {};
}

// Without file handles, objects are found by their numbers in the trees.
Status Core::find_pins(Session& s, int tree) {
  int e = 0;
  if (!pool_space_.by_handle)
    e = pin_tree(tree, pool_device_, [&](int fd, uint64_t ino) {
      Object* o = s.by_pool_ino.find(ino);
      return o == nullptr ? 0 : o->clone.pin(pool_space_, fd);
    });
  std::unordered_map<SourceId, Object*> by_source;
  for (auto& o : s.objects) by_source[o.source_id] = &o;
  if (e == 0 && !source_space_.by_handle)
    e = pin_tree(source_dir_.get(), device_, [&](int fd, uint64_t ino) {
      const auto it = by_source.find(ino);
      return it == by_source.end() ? 0 : it->second->source.pin(source_space_, fd);
    });
  if (e < 0) return Error::from_errno(e, "cannot find its members");
  return {};
}

// Calls FN, which returns 0 or -errno, for each object of the tree that can be reached.
int Core::pin_tree(int dir, dev_t device, const std::function<int(int, uint64_t)>& fn) {
  const auto passed_over = [](int e) { return e == -ENOENT || e == -ESTALE || e == -EACCES; };
  struct stat st{};
  if (const int e = disk_.stat(dir, "", &st); e < 0) return passed_over(e) ? 0 : e;
  if (st.st_dev != device) return 0;
  if (const int e = fn(dir, st.st_ino); e < 0) return e;
  std::vector<std::string> names;
  int e = disk_.list(dir, [&](const Disk::Entry& entry) {
    names.push_back(entry.name);
    return true;
  });
  if (e < 0 && !passed_over(e)) return e;
  for (const auto& name : names) {
    const Fd fd(disk_, disk_.open(dir, name.c_str(), O_PATH | O_NOFOLLOW));
    e = fd ? disk_.stat(fd.get(), "", &st) : fd.get();
    if (e < 0 && !passed_over(e)) return e;
    if (e < 0 || st.st_dev != device) continue;
    if (st.st_ino == pool_ino_ && st.st_dev == pool_device_) continue;
    e = S_ISDIR(st.st_mode) ? pin_tree(fd.get(), device, fn) : fn(fd.get(), st.st_ino);
    if (e < 0) return e;
  }
  return 0;
}

// For track_again(). What is not written is compared.
Status Core::keep_changed(Session& s, Catalog::Batch& batch) {
  for (auto& o : s.objects) {
    if (o.gone || !o.only_tracked || !s.track_file) continue;
    const Fd source = open_source(o, O_PATH);
    struct stat st{};
    if (!source || disk_.stat(source.get(), "", &st) < 0) continue;
    // A change after the end may have the same ctime.
    if (nanoseconds(now()) - nanoseconds(st.st_ctim) < ctime_tick(st.st_ctim)) continue;
    std::vector<TrackBits> bits(o.column->count);
    for (uint64_t t = 0; t < bits.size(); ++t)
      bits[t] = durable_form(o.column->at(t)) | (o.column->at(t) & kChanged);
    if (s.track_file.write(o.column->base, bits.data(), bits.size()) < 0) continue;
    auto status =
        batch.put_mark(s.id, {o.id, st.st_ctim, static_cast<uint64_t>(st.st_size), o.column->base});
    if (!status) return status;
  }
  if (s.track_file && s.track_file.datasync() < 0) return batch.drop_marks(s.id);
  return {};
}

Status Core::close() {
  stop_timekeeping();
  {
    const std::lock_guard command(command_mutex_);
    const std::lock_guard lock(state_mutex_);
    closed_ = true;
    stopping_ = true;
    ++state_version_;
    state_cv_.notify_all();
  }
  if (options_.no_clones) return {};
  {
    const std::lock_guard lock(housekeeper_mutex_);
    housekeeper_stop_ = true;
    housekeeper_wake_.notify_all();
  }
  if (housekeeper_.joinable()) housekeeper_.join();
  for (const auto& s : all_sessions()) stop_worker(*s);
  std::vector<SessionPtr> waiting;
  for (auto& [name, s] : sessions_) {
    const std::lock_guard work(s->work_mutex);
    if (!s->before_activation()) continue;
    waiting.push_back(s);
    // So that what is recorded is what the source is. Where it is not, the next start finds that.
    for (bool quiet = false; !quiet;) {
      if (auto status = sync_skeleton(s, &quiet); !status) break;
    }
  }
  for (auto& s : waiting)
    if (auto status = flush_tables(*s); !status) return status;
  // Nobody works on the sessions any more; a work mutex may not be asked for beneath a batch.
  if (auto status = checkpoint(waiting); !status) return status;
  // "Clean" is a promise about all that the next start reads.
  int e = power() ? 0 : disk_.syncfs(pool_dir_.get());
  bool needs_source = false;
  for (const auto& s : all_sessions()) {
    const bool needs = s->before_activation() || s->active();
    // What RECREATE inherits or shares of a clone goes by its sources' ctimes.
    needs_source |= needs || s->state.load() != SessionState::kFailed;
    if (e == 0 && needs) e = s->track_file.datasync();
  }
  // The marks, and ctimes, speak of the source's data, which programs may not have synced.
  if (e == 0 && needs_source) e = disk_.syncfs(source_dir_.get());
  if (e < 0) return Error::from_errno(e, "cannot make the pool durable");
  Catalog::Batch batch(*catalog_);
  Status status = batch.clear_marks();
  for (const auto& s : all_sessions()) {
    if (status) status = put_rows(*s, batch);
    if (status && s->state.load() == SessionState::kCopied) status = keep_changed(*s, batch);
    if (s->state.load() != SessionState::kCopyInProgress) continue;
    for (auto& o : s->objects) {
      if (o.gone || o.pending.load() == 0) continue;
      const Fd source = open_source(o, O_PATH);
      struct stat st{};
      if (!source || disk_.stat(source.get(), "", &st) < 0) continue;
      if (status)
        status = batch.put_mark(s->id, {o.id, st.st_ctim, static_cast<uint64_t>(st.st_size), o.column->base});
    }
  }
  if (status) status = batch.put_meta("clean", "1");
  if (status) status = batch.commit();
  return status;
}

}  // namespace clonefs::detail
