#include "tests/engine/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sstream>

#include "tests/engine/catalog_vfs.h"
#include "tests/engine/power_disk.h"
#include "tests/engine/sharing_disk.h"
#include "tests/engine/turns.h"


namespace clonefs::test {
namespace {

constexpr uint64_t kLargestFile = 200 << 10;

struct ModelSession {
  CreateOptions options;
  SessionState state = SessionState::kCreated;
  uint64_t track_size = 0;
  bool half_step = false;
  Tree tree;  // from activation on: what the clone shows
  struct File {
    DirectVolume::OpenClone open;
    std::shared_ptr<TreeObject> object;
  };
  std::deque<File> files;  // of the clone, held open
  std::shared_ptr<ModelSession> previous;  // the generation that is shown until this one is activated
  unsigned keep = 0;
  std::string kept_of;

  bool activated() const {
    return state == SessionState::kCopyInProgress || state == SessionState::kCopied ||
           state == SessionState::kTerminated;
  }
};

// Whether the command is allowed in the state (of an existing session).
bool may_precopy(SessionState s) {
  return s == SessionState::kCreated;
}
bool may_activate(SessionState s) {
  return s == SessionState::kCreated || s == SessionState::kPrecopy;
}
bool may_terminate(SessionState s, bool force) {
  return s == SessionState::kCopied || (force && s != SessionState::kTerminated);
}
bool may_remove(SessionState s, bool force) {
  return force || s == SessionState::kCopied || s == SessionState::kTerminated;
}

// Whether two changes of a file never have the same ctime when it is looked at between them.
bool has_fine_ctimes() {
  const int fd = ::open("/dev/shm", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  struct stat before {}, after {};
  bool fine = fd >= 0;
  for (int i = 0; i < 100 && fine; ++i) {
    fine = fstat(fd, &before) == 0 && ::write(fd, "x", 1) == 1 && fstat(fd, &after) == 0 &&
           (before.st_ctim.tv_nsec != after.st_ctim.tv_nsec ||
            before.st_ctim.tv_sec != after.st_ctim.tv_sec);
  }
  if (fd >= 0) ::close(fd);
  return fine;
}

class ModelRun {
 public:
  ModelRun(uint64_t seed, const ModelOptions& how) : random_(seed), verbose_(how.verbose) {
    DirectVolume::Options options;
    if (how.power_cuts || has_fine_ctimes()) options.ctime_tick = std::chrono::nanoseconds(1);
    options.where = how.where;
    options.tracked_at_least = 1 + random_.below(4);
    if (random_.chance(30)) options.pool = Where::kMemory;
    if (how.power_cuts) {
      power_ = std::make_unique<PowerDisk>(seed);
      power_->verbose = how.verbose;
      power_->shares = random_.chance(50);
      vfs_ = std::make_unique<CatalogVfs>(*power_);
      options.disk = power_.get();
      options.volume_disk = &power_->volume();
      options.present = [this](struct stat* st) { power_->present(st); };
      options.boot = "0";
      if (random_.chance(40)) {
        // One that fills up: when the power fails then, its writer must not wait for ever.
        small_journal_ = true;
        options.journal_limit = 16384 << random_.below(6);
        options.stall_limit = std::chrono::seconds(5);
      }
    }
    if (!how.power_cuts && random_.chance(50)) {
      sharing_ = std::make_unique<SharingDisk>();
      options.disk = sharing_.get();
    }
    // With a power cut at a certain operation all must happen in one order.
    if (!how.power_cuts) options.copy_workers = 1 + static_cast<unsigned>(random_.below(3));
    volume_ = std::make_unique<DirectVolume>(options);
    // The copy program runs within changes, too.
    volume_->after_begin = volume_->before_end = [this] {
      if (!alone_ && random_.chance(8)) step();
    };
  }

  ModelReport run() {
    for (int i = 0; i < (power_ ? 8 : 25); ++i) change_volume();
    if (power_) {
      if (random_.chance(70)) power_->settle();
      create();
      if (random_.chance(50)) create();
      uncertain_.clear();
    }
    arm();
    const int actions = power_ ? 15 + static_cast<int>(random_.below(40))
                               : 60 + static_cast<int>(random_.below(120));
    for (int i = 0; i < actions && failure_.empty(); ++i) act();
    if (power_) power_->fail_after(0);
    if (failure_.empty()) finish();
    for (const int fd : handles_) close(fd);
    if (!failure_.empty()) report_.failure = failure_ + "\nlast actions:\n" + history();
    return report_;
  }

 private:
  using Names = std::vector<std::string>;

  void act() {
    const uint64_t what = random_.below(100);
    if (what < 45) {
      change_volume();
    } else if (what < 60) {
      command();
    } else if (what < 76) {
      step();
    } else if (what < 86) {
      change_clone();
    } else if (what < 95) {
      read_clone();
    } else if (what < 98 && !power_) {
      check_all();
    } else if (what < 97 && power_) {
      make_durable();
    } else {
      restart();
    }
    if (off()) return recover();
    uncertain_.clear();
    follow_states();
  }

  // --- the power

  bool off() const { return power_ != nullptr && power_->off(); }

  // When it fails next.
  void arm() {
    if (!power_) return;
    constexpr uint64_t kWithin[] = {30, 200, 1000};
    power_->fail_after(random_.chance(10) ? 0 : 1 + random_.below(kWithin[random_.below(3)]));
  }

  // What a session was before the command that is under way: after a power cut either is right.
  struct Outcome {
    std::optional<SessionState> state;
    CreateOptions options;
    uint64_t track_size = 0;
    Tree tree;
    std::shared_ptr<ModelSession> previous;
    unsigned keep = 0;
    std::string kept_of;
  };
  void remember(const std::string& name) {
    Outcome& before = uncertain_[name];
    before = {};
    if (const ModelSession* s = find(name)) {
      before = {s->state, s->options, s->track_size, s->tree, s->previous, s->keep, s->kept_of};
    }
  }

  // The clone's user is about to change the data of OBJECT: until it is synced, any sector may be as
  // it was.
  void remember_data(const std::shared_ptr<TreeObject>& object) {
    if (power_) unsynced_[object].push_back(object->data);
  }

  void make_durable() {
    switch (random_.below(5)) {
      case 4:
        return at_once();
      case 0: {
        if (random_.chance(40)) {
          // The journal takes its turns meanwhile.
          for (uint64_t i = 0; i < 1 + random_.below(3); ++i) {
            fail_checkpoint();
            const Listing l = listing();
            if (!l.files.empty()) change_data(random_.pick(l.files));
          }
          if (random_.chance(60)) return;
        }
        const Status status = volume_->engine().checkpoint();
        note("checkpoint");
        if (!status) fail("checkpoint: " + status.error().message);
        return;
      }
      case 1: {
        const Listing l = listing();
        if (l.files.empty()) return;
        const std::string path = random_.pick(l.files);
        return done("sync " + path, volume_->sync(path));
      }
      default: {
        ModelSession* s = some_clone();
        ModelSession::File* file = s == nullptr ? nullptr : some_clone_file(*s);
        if (file == nullptr) return;
        note("clone sync " + s->options.name);
        const int r = file->open.file->sync(random_.chance(50));
        if (r != 0) return fail("clone sync: " + std::to_string(r));
        if (!off()) unsynced_.erase(file->object);
      }
    }
  }

  // One that comes to no end must not have let go of anything.
  void fail_checkpoint() {
    power_->fail_sync = 1 + static_cast<unsigned>(random_.below(3));
    const Status status = volume_->engine().checkpoint();
    power_->fail_sync = 0;
    note("checkpoint" + (status ? "" : " -> " + status.error().message));
  }

  // Two things at once, of which the first is a write: they meet where one waits for the other, too.
  void at_once() {
    if (small_journal_) return;  // with a limit the engine's own threads write to the pool
    const Listing l = listing();
    if (l.files.empty()) return;
    const std::string path = random_.pick(l.files);
    const uint64_t offset = some_offset(volume_->content(path).size());
    const std::string data = some_data();
    const auto write = [&] { done("write at once", volume_->write(path, offset, data)); };
    if (random_.chance(30)) fail_checkpoint();
    Turns turns(random_.below(1u << 30));
    power_->before_operation = [&] { turns.point(); };
    alone_ = true;
    switch (random_.below(4)) {
      case 3:
        note("write " + path + " and checkpoint");
        turns.run(write, [&] { (void)volume_->engine().checkpoint(); });
        break;
      case 0: {
        // Most often to the same tracks.
        const std::string other = random_.chance(70) ? path : random_.pick(l.files);
        const uint64_t at = random_.chance(70) ? offset : some_offset(50000);
        const std::string more = some_data();
        note("write " + path + " and " + other);
        int result = 0;
        turns.run(write, [&] { result = volume_->write(other, at, more); });
        done("the other write", result);
        break;
      }
      case 1: {
        if (sessions_.empty()) break;
        const std::string name = std::next(sessions_.begin(), static_cast<std::ptrdiff_t>(random_.below(
                                                                  sessions_.size())))->first;
        note("write " + path + " and step " + name);
        turns.run(write, [&] {
          for (int i = 0; i < 3; ++i) volume_->engine().step(name);
        });
        break;
      }
      default: {
        ModelSession* s = some_clone();
        ModelSession::File* file = s == nullptr ? nullptr : some_clone_file(*s);
        if (file == nullptr) break;
        const std::string& expected = file->object->data;
        note("write " + path + " and read " + s->options.name);
        std::string found;
        turns.run(write, [&] { found = read_clone_file(*file->open.file, expected.size()); });
        const std::string report = difference(expected, found);
        if (!report.empty()) fail("read at once with a write: " + report);
      }
    }
    alone_ = false;
    power_->before_operation = nullptr;
    for (auto& [name, s] : sessions_) s.half_step = false;
  }

  // The machine went down: it comes up again, perhaps not at the first attempt.
  void recover() {
    note("-- power cut at operation " + std::to_string(power_->operations()));
    ++report_.power_cuts;
    forget_descriptors();
    const auto lose_times = [](Tree& tree) {
      for (auto& [path, object] : tree) object->own_mtime |= object->own_ctime;
    };
    const auto lose_all = [&](auto& s) {
      lose_times(s.tree);
      if (s.previous != nullptr) lose_times(s.previous->tree);
    };
    for (auto& [name, s] : sessions_) lose_all(s);
    for (auto& [name, before] : uncertain_) lose_all(before);
    for (;;) {
      volume_->kill();
      power_->cut();
      volume_->use_boot(std::to_string(++boot_));
      if (random_.chance(25)) power_->fail_after(1 + random_.below(80));
      const Status status = volume_->open();
      if (!off()) {
        note("-- opened again");
        if (!status) return fail("open after a power cut: " + status.error().message);
        break;
      }
      note("-- power cut during recovery");
      ++report_.cuts_in_recovery;
      ++report_.power_cuts;
    }
    power_->fail_after(0);
    settle_commands();
    forget_spoilt();
    uncertain_.clear();
    settle_data();
    follow_states();
    check_all();
    for (auto& [name, s] : sessions_) {
      report_.clones_checked += s.activated();
      settle_times(name, s);
    }
    arm();
  }

  void forget_descriptors() {
    for (auto& [name, s] : sessions_) {
      s.half_step = false;
      s.files.clear();
      if (s.previous != nullptr) s.previous->files.clear();
    }
    if (!power_) return;
    for (const int fd : handles_) close(fd);
    handles_.clear();
  }

  // The command that was under way happened, or it did not: of several names for all or for none.
  void settle_commands() {
    int happened = 0, not_happened = 0;
    for (const auto& [name, before] : uncertain_) {
      ModelSession* after = find(name);
      const SessionStatus status = volume_->status(name);
      const bool exists = !status.name.empty();
      std::string found = exists ? to_string(status.state) : "none";
      if (before.state == SessionState::kFailed && exists) {
        // It was being removed because it was spoilt.
        const Status removed = volume_->engine().remove({name}, true);
        if (!removed) fail("remove " + name + ": " + removed.error().message);
        sessions_.erase(name);
        continue;
      }
      if (after != nullptr && exists && status.state == after->state) {
        ++happened;
      } else if (after == nullptr && !exists) {
        ++happened;
      } else if (before.state.has_value() == exists && (!exists || *before.state == status.state)) {
        ++not_happened;
        sessions_.erase(name);
        if (!exists) continue;
        ModelSession& s = sessions_[name];
        s.options = before.options;
        s.state = *before.state;
        s.track_size = before.track_size;
        s.tree = before.tree;
        s.previous = before.previous;
        s.keep = before.keep;
        s.kept_of = before.kept_of;
      } else if (before.previous != nullptr && after == nullptr && exists &&
                 status.state == before.previous->state) {
        // Deleted: the generation that was prepared, and not yet the one before.
        const Status removed = volume_->engine().remove({name}, true);
        if (!removed) fail("remove " + name + ": " + removed.error().message);
      } else if (after != nullptr && (!before.state || !before.previous) &&
                 (!before.state || *before.state == SessionState::kCopied ||
                  *before.state == SessionState::kTerminated) &&
                 status.state == SessionState::kCreated) {
        // CREATE or RECREATE with precopy or activation: the first half.
        after->state = SessionState::kCreated;
        after->tree.clear();
      } else if (before.state == SessionState::kCopyInProgress && after == nullptr &&
                 status.state == SessionState::kCopied) {
        fail(name + " was drained by a command that removes it");
      } else {
        fail(name + " is " + found + " after a power cut in a command" +
             (exists ? ": " + status.error : ""));
      }
    }
    if (happened != 0 && not_happened != 0) fail("a command happened for some of its names only");
    uncertain_.clear();
  }

  // What the clones' users had not synced is there or not, sector by sector: that is what it is now.
  void settle_data() {
    for (auto& [name, session] : sessions_) {
      ModelSession& s = shown(session);
      if (!s.activated()) continue;
      for (auto& [path, object] : s.tree) {
        const auto it = unsynced_.find(object);
        if (it == unsynced_.end()) continue;
        std::vector<std::string>& versions = it->second;
        versions.push_back(object->data);
        const auto open = volume_->open_clone(name, path, O_RDONLY);
        if (!open) {
          fail("cannot open " + path + " of " + name + " after a power cut: it is " +
               to_string(volume_->status(name).state) + " " + volume_->status(name).error);
          continue;
        }
        struct stat st {};
        fstat(open.fd, &st);
        const std::string found = read_clone_file(*open.file, static_cast<uint64_t>(st.st_size));
        if (std::none_of(versions.begin(), versions.end(),
                         [&](const std::string& v) { return v.size() == found.size(); })) {
          fail(path + " of " + name + " has a size that it never had: " +
               std::to_string(found.size()));
        }
        for (size_t i = 0; i < found.size(); ++i) {
          if (std::none_of(versions.begin(), versions.end(), [&](const std::string& v) {
                return (i < v.size() ? v[i] : '\0') == found[i];
              })) {
            fail(path + " of " + name + " has what it never had at " + std::to_string(i));
            break;
          }
        }
        object->data = found;
        unsynced_.erase(it);
      }
    }
    unsynced_.clear();
  }

  // --- the volume

  struct Listing {
    Names files, directories, all;  // without the root
  };
  Listing listing() const {
    Listing l;
    for (const auto& [path, type] : list_tree(volume_->root())) {
      l.all.push_back(path);
      if (S_ISREG(type)) l.files.push_back(path);
      if (S_ISDIR(type)) l.directories.push_back(path);
    }
    return l;
  }

  std::string some_directory(const Listing& l) {
    return l.directories.empty() || random_.chance(35) ? "." : random_.pick(l.directories);
  }
  std::string new_name(const Listing& l) {
    return join(some_directory(l), "n" + std::to_string(next_name_++));
  }
  uint64_t some_offset(uint64_t size) {
    const uint64_t track = uint64_t{4096} << random_.below(3);
    uint64_t offset = random_.below(size + 2 * track);
    if (random_.chance(40)) offset -= offset % track;
    return std::min(offset, kLargestFile);
  }
  uint64_t some_length() {
    if (random_.chance(30)) return 4096 << random_.below(3);
    return 1 + random_.below(random_.chance(50) ? 100 : 40000);
  }
  std::string some_data() { return pattern(next_data_++, some_length()); }
  static uint64_t size_of(int fd) {
    struct stat st {};
    return fstat(fd, &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
  }

  void change_volume() {
    const Listing l = listing();
    const uint64_t what = random_.below(100);
    const bool full = l.all.size() > 30;
    if (l.files.empty() || (what < 12 && !full)) {
      const std::string path = new_name(l);
      const std::string data = random_.chance(15) ? "" : some_data();
      done("make " + path, volume_->make(path, data, random_.chance(50) ? 0644 : 0600));
    } else if (what < 42) {
      change_data(random_.pick(l.files));
    } else if (what < 50) {
      by_handle(l);
    } else if (what < 54 && !full) {
      const std::string path = new_name(l);
      done("mkdir " + path, volume_->mkdir(path));
    } else if (what < 57 && !full) {
      const std::string path = new_name(l);
      if (random_.chance(60)) {
        done("symlink " + path, volume_->symlink(std::to_string(next_data_), path));
      } else {
        done("mknod " + path, volume_->mknod(path, S_IFIFO | 0640));
      }
    } else if (what < 62 && !full) {
      const std::string from = random_.pick(l.files), to = new_name(l);
      done("link " + from + " " + to, volume_->link(from, to));
    } else if (what < 72) {
      const std::string path = random_.pick(l.all);
      done("unlink " + path, volume_->unlink(path));
    } else if (what < 88) {
      rename(l);
    } else {
      change_attributes(random_.chance(5) ? "." : random_.pick(l.all));
    }
  }

  void change_data(const std::string& path) {
    const uint64_t size = volume_->content(path).size();
    const uint64_t offset = some_offset(size);
    const uint64_t length =
        std::min(some_length(), kLargestFile - std::min(offset, kLargestFile) + 1);
    const std::string where = path + " " + std::to_string(offset) + "+" + std::to_string(length);
    switch (random_.below(12)) {
      case 0:
        return done("truncate " + path, volume_->truncate(path, 0));
      case 1:
      case 2:
        return done("truncate " + where, volume_->truncate(path, offset));
      case 3: {
        const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        return done("punch " + where, volume_->allocate(path, mode, offset, length));
      }
      case 4: {
        const int mode = FALLOC_FL_ZERO_RANGE | (random_.chance(50) ? FALLOC_FL_KEEP_SIZE : 0);
        return done("zero " + where, volume_->allocate(path, mode, offset, length));
      }
      case 5: {
        const int mode = random_.chance(50) ? FALLOC_FL_KEEP_SIZE : 0;
        return done("allocate " + where, volume_->allocate(path, mode, offset, length));
      }
      case 6: {
        const std::string from = random_.pick(listing().files);
        if (from == path) return;
        return done("copy_range " + from + " to " + where,
                    volume_->copy_range(from, random_.below(5000), path, offset, length));
      }
      default:
        return done("write " + where, volume_->write(path, offset, pattern(next_data_++, length)));
    }
  }

  // Through a descriptor that stays open, whatever happens to the file's names.
  void by_handle(const Listing& l) {
    if (handles_.empty() || (handles_.size() < 6 && random_.chance(40))) {
      const std::string path = random_.pick(l.files);
      const bool fresh = random_.chance(30);
      const int fd = fresh ? volume_->tmpfile(some_directory(l)) : volume_->open_file(path, O_RDWR);
      done(fresh ? "tmpfile" : "open " + path, fd < 0 ? fd : 0);
      if (fd >= 0) handles_.push_back(fd);
      return;
    }
    const size_t at = random_.below(handles_.size());
    const int fd = handles_[at];
    struct stat st {};
    fstat(fd, &st);
    const std::string name = "ino " + std::to_string(st.st_ino);
    if (random_.chance(15)) {
      close(fd);
      handles_.erase(handles_.begin() + static_cast<std::ptrdiff_t>(at));
      done("close " + name, 0);
    } else if (random_.chance(15)) {
      const std::string to = new_name(l);
      done("link " + name + " " + to, volume_->link_fd(fd, to));
    } else if (random_.chance(20)) {
      const uint64_t size = some_offset(size_of(fd));
      done("truncate " + name, volume_->truncate_fd(fd, size));
    } else {
      const uint64_t offset = some_offset(size_of(fd));
      const std::string data = some_data();
      done("write " + name + " " + std::to_string(offset) + "+" + std::to_string(data.size()),
           volume_->write_fd(fd, offset, data));
    }
  }

  void rename(const Listing& l) {
    const std::string from = random_.pick(l.all);
    const uint64_t how = random_.below(10);
    if (how < 4) {
      const std::string to = new_name(l);
      done("rename " + from + " " + to, volume_->rename(from, to));
    } else if (how < 8) {
      const std::string to = random_.pick(l.all);
      done("rename over " + from + " " + to, volume_->rename(from, to));
    } else {
      const std::string to = random_.pick(l.all);
      done("exchange " + from + " " + to, volume_->rename(from, to, RENAME_EXCHANGE));
    }
  }

  void change_attributes(const std::string& path) {
    struct stat st {};
    fstatat(volume_->root(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW);
    const bool link = S_ISLNK(st.st_mode);
    switch (random_.below(5)) {
      case 0:
        if (link) return;
        return done("chmod " + path,
                    volume_->chmod(path, (S_ISDIR(st.st_mode) ? 0700 : 0600) |
                                             static_cast<mode_t>(random_.below(0100))));
      case 1:
        if (geteuid() != 0) return;
        return done("chown " + path, volume_->chown(path, static_cast<uid_t>(random_.below(5)),
                                                    static_cast<gid_t>(random_.below(5))));
      case 2: {
        const timespec times[2] = {{1000, 1}, {static_cast<time_t>(random_.below(2000000000)), 7}};
        return done("utimes " + path, volume_->utimes(path, times));
      }
      default: {
        if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) return;
        const std::string name = "user.x" + std::to_string(random_.below(3));
        if (random_.chance(30)) {
          return done("remove xattr " + path, volume_->remove_xattr(path, name));
        }
        return done("xattr " + path, volume_->set_xattr(path, name, std::to_string(next_data_++)));
      }
    }
  }

  // --- commands

  static ModelSession& shown(ModelSession& s) { return s.previous != nullptr ? *s.previous : s; }

  std::string some_name() { return "c" + std::to_string(random_.below(power_ ? 3 : 6)); }
  ModelSession* find(const std::string& name) {
    const auto it = sessions_.find(name);
    return it == sessions_.end() ? nullptr : &it->second;
  }

  void expect(const std::string& what, const Status& status, bool allowed) {
    note(what + (status ? "" : " -> " + status.error().message));
    if (static_cast<bool>(status) == allowed) return;
    fail(what + (status ? ": should have been refused" : ": refused: " + status.error().message));
  }

  // Paths of which none contains another, and none is a symbolic link's or lies behind one.
  Names some_paths() {
    if (random_.chance(35)) return {"."};
    const Listing l = listing();
    Names paths;
    for (uint64_t i = 0; i < 1 + random_.below(4) && !l.all.empty(); ++i) {
      const std::string path =
          random_.chance(50) && !l.files.empty() ? random_.pick(l.files) : random_.pick(l.all);
      const bool overlaps = std::any_of(paths.begin(), paths.end(), [&](const std::string& p) {
        return p == path || p.compare(0, path.size() + 1, path + "/") == 0 ||
               path.compare(0, p.size() + 1, p + "/") == 0;
      });
      if (!overlaps) paths.push_back(path);
    }
    return paths.empty() ? Names{"."} : paths;
  }

  void command() {
    switch (random_.below(12)) {
      case 10:
      case 11:
        return recreate();
      case 0:
      case 1:
      case 2:
        return create();
      case 3: {
        const std::string name = some_name();
        ModelSession* s = find(name);
        const bool allowed = s != nullptr && may_precopy(s->state) && !s->options.nocopy;
        if (allowed) remember(name);
        expect("precopy " + name, volume_->engine().precopy({name}), allowed);
        if (allowed) s->state = SessionState::kPrecopy;
        return;
      }
      case 4:
      case 5:
      case 6:
        return activate();
      case 7:
      case 8: {
        const std::string name = some_name();
        const bool force = random_.chance(20);
        ModelSession* s = find(name);
        const bool allowed = s != nullptr && may_terminate(s->state, force);
        check_before(name);
        if (allowed) remember(name);
        expect("terminate " + name + (force ? " force" : ""),
               volume_->engine().terminate({name}, force), allowed);
        if (!allowed) return;
        if (s->state == SessionState::kCopied) {
          s->state = SessionState::kTerminated;
          s->files.clear();
          if (!off()) check(name, *s);
        } else if (s->previous != nullptr) {
          const auto previous = s->previous;
          *s = std::move(*previous);
          if (!off()) check(name, *s);
        } else {
          sessions_.erase(name);
        }
        return;
      }
      default: {
        const std::string name = some_name();
        const bool force = random_.chance(30);
        ModelSession* s = find(name);
        const bool allowed = s != nullptr && may_remove(s->state, force);
        if (allowed) remember(name);
        expect("remove " + name + (force ? " force" : ""), volume_->engine().remove({name}, force),
               allowed);
        if (allowed) sessions_.erase(name);
        return;
      }
    }
  }

  void create() {
    ModelSession s;
    s.options = volume_->options(some_name(), some_paths());
    const uint64_t how = random_.below(10);
    s.options.precopy = how < 4;
    s.options.activate = how >= 7;
    s.options.nocopy = random_.chance(15);
    s.options.thin = random_.chance(20);
    if (random_.chance(50)) s.options.track_size = TrackSize(4096 << random_.below(5));
    s.track_size = s.options.track_size ? s.options.track_size->bytes() : 4096;
    if (random_.chance(20)) {
      for (uint64_t i = 0; i < 1 + random_.below(3); ++i) {
        s.options.extents.push_back({random_.below(100000), 1 + random_.below(50000)});
      }
    }
    // Precopy in a session that never copies says nothing; the two are tried apart.
    if (s.options.nocopy) s.options.precopy = false;
    s.state = s.options.precopy ? SessionState::kPrecopy : SessionState::kCreated;
    std::string paths;
    for (const std::string& path : s.options.paths) paths += " " + path;
    const bool allowed = find(s.options.name) == nullptr;
    if (allowed) remember(s.options.name);
    expect("create " + s.options.name + paths + (s.options.precopy ? " precopy" : "") +
               (s.options.activate ? " activate" : "") + (s.options.nocopy ? " nocopy" : "") +
               (s.options.extents.empty() ? "" : " extents") + " track " +
               std::to_string(s.track_size),
           volume_->engine().create(s.options), allowed);
    if (!allowed || !failure_.empty()) return;
    ModelSession& session = sessions_[s.options.name];
    session = std::move(s);
    if (session.options.activate) activated(session);
  }

  void activate() {
    Names names;
    bool allowed = true;
    for (uint64_t i = 0; i < 1 + random_.below(3); ++i) {
      const std::string name = some_name();
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      const ModelSession* s = find(name);
      const bool fits = s != nullptr && may_activate(s->state);
      if (!fits && random_.chance(85)) continue;
      names.push_back(name);
      allowed = allowed && fits;
    }
    if (names.empty()) return;
    activate(names, allowed);
  }

  void activate(const Names& names, bool allowed) {
    std::string what = "activate";
    for (const std::string& name : names) what += " " + name;
    for (const std::string& name : names) {
      if (allowed) remember(name);
      for (auto& [turned, to] : turns(name)) {
        ModelSession& s = turned == name ? *find(name)->previous : *find(turned);
        if (random_.chance(80)) s.files.clear();
        if (!s.files.empty()) allowed = false;
        if (allowed && turned != name) remember(turned);
        if (allowed && !to.empty()) remember(to);
      }
    }
    if (!allowed) uncertain_.clear();
    expect(what, volume_->engine().activate(names), allowed);
    if (!allowed || !failure_.empty()) return;
    for (const std::string& name : names) {
      take_turns(name);
      activated(*find(name));
    }
  }

  // Which generation gets which name when NAME is activated ("": it is removed), the oldest first.
  std::vector<std::pair<std::string, std::string>> turns(const std::string& name) {
    ModelSession* s = find(name);
    std::vector<std::pair<std::string, std::string>> all;
    if (s == nullptr || s->previous == nullptr) return all;
    if (s->keep == 0) return {{name, ""}};
    const auto kept = [&](unsigned number) { return name + "." + std::to_string(number); };
    unsigned number = 1;
    for (std::string turned = name; !turned.empty(); ++number) {
      all.emplace_back(turned, number > s->keep ? "" : kept(number));
      turned = find(kept(number)) == nullptr ? "" : kept(number);
    }
    for (; number < 6; ++number)
      if (number > s->keep && find(kept(number)) != nullptr) all.emplace_back(kept(number), "");
    std::reverse(all.begin(), all.end());
    return all;
  }

  void take_turns(const std::string& name) {
    for (const auto& [turned, to] : turns(name)) {
      // A copy: what was is needed still if the power fails.
      const ModelSession& old = turned == name ? *find(name)->previous : *find(turned);
      ModelSession s;
      s.options = old.options;
      s.track_size = old.track_size;
      s.tree = old.tree;
      s.state = SessionState::kTerminated;
      s.options.name = to;
      s.kept_of = name;
      if (turned == name)
        find(name)->previous.reset();
      else
        sessions_.erase(turned);
      if (!to.empty()) sessions_[to] = std::move(s);
    }
    find(name)->keep = 0;
  }

  void recreate() {
    RecreateOptions o;
    const std::string name = some_name();
    o.names = {name};
    o.precopy = random_.chance(60);
    o.in_place = random_.chance(35);
    if (!o.in_place && random_.chance(40)) o.keep = 1 + static_cast<unsigned>(random_.below(3));
    ModelSession* s = find(name);
    bool allowed = s != nullptr && s->previous == nullptr &&
                   (s->state == SessionState::kCopied ||
                    (s->state == SessionState::kTerminated && !o.in_place));
    if (allowed) {
      const Names there = listing().all;
      for (const std::string& path : s->options.paths) {
        allowed &= path == "." || std::find(there.begin(), there.end(), path) != there.end();
      }
    }
    if (allowed && o.in_place && random_.chance(80)) s->files.clear();
    if (allowed && o.in_place && !s->files.empty()) allowed = false;
    // Precopy in a session that never copies.
    if (allowed && s->options.nocopy) o.precopy = false;
    if (allowed) remember(name);
    expect("recreate " + name + (o.precopy ? " precopy" : "") + (o.in_place ? " in place" : "") +
               (o.keep > 0 ? " keep " + std::to_string(o.keep) : ""),
           volume_->engine().recreate(o), allowed);
    if (!allowed || !failure_.empty()) return;
    ModelSession next;
    next.options = s->options;
    next.track_size = s->track_size;
    next.keep = o.keep;
    next.state = o.precopy ? SessionState::kPrecopy : SessionState::kCreated;
    if (!o.in_place) next.previous = std::make_shared<ModelSession>(std::move(*s));
    *s = std::move(next);
  }

  void activated(ModelSession& s) {
    s.state = SessionState::kCopyInProgress;
    s.tree = volume_->capture(s.options.paths);
    if (!s.options.extents.empty()) {
      std::vector<PartOfFile> parts;
      for (const ByteRange& range : s.options.extents) {
        parts.push_back({range.offset, range.length});
      }
      keep_extents(s.tree, s.track_size, parts);
    }
  }

  void step() {
    if (sessions_.empty()) return;
    auto& [name, s] =
        *std::next(sessions_.begin(), static_cast<std::ptrdiff_t>(random_.below(sessions_.size())));
    if (s.state == SessionState::kTerminated) return;
    Engine& engine = volume_->engine();
    if (s.half_step) {
      s.half_step = false;
      note("step_finish " + name + (engine.step_finish(name) ? "" : " -> nothing left"));
    } else if (random_.chance(40)) {
      s.half_step = engine.step_read(name);
      note("step_read " + name + (s.half_step ? "" : " -> nothing left"));
    } else {
      const uint64_t steps = random_.chance(15) ? 1000 : 1 + random_.below(4);
      bool more = true;
      for (uint64_t i = 0; i < steps && more; ++i) more = engine.step(name);
      note("step " + name + (more ? "" : " -> nothing left"));
      if (!more && s.state == SessionState::kPrecopy) {
        const SessionStatus status = volume_->status(name);
        if (status.op_status != "precopied" || status.tracks_pending != 0) {
          fail(name + " is precopied, but says " + status.op_status + " with " +
               std::to_string(status.tracks_pending) + " tracks pending");
        }
      }
    }
  }

  // --- clones

  ModelSession* some_clone() {
    std::vector<ModelSession*> clones;
    for (auto& [name, s] : sessions_) {
      if (shown(s).activated()) clones.push_back(&shown(s));
    }
    return clones.empty() ? nullptr : random_.pick(clones);
  }
  bool is_frozen(const ModelSession& s) { return find(s.options.name) != &s; }

  Names files_of(const ModelSession& s) {
    Names files;
    for (const auto& [path, object] : s.tree) {
      if (S_ISREG(object->st.st_mode)) files.push_back(path);
    }
    return files;
  }

  // A file of the clone: one that is open already, or a new one (that may stay open).
  ModelSession::File* some_clone_file(ModelSession& s) {
    if (!s.files.empty() && random_.chance(50)) {
      return &s.files[random_.below(s.files.size())];
    }
    const Names files = files_of(s);
    if (files.empty()) return nullptr;
    const std::string path = random_.pick(files);
    auto open = volume_->open_clone(s.options.name, path);
    if (!open) {
      fail("cannot open " + path + " of clone " + s.options.name);
      return nullptr;
    }
    note("open " + path + " of " + s.options.name);
    if (s.files.size() > 4) s.files.pop_front();
    s.files.push_back({std::move(open), s.tree[path]});
    return &s.files.back();
  }

  void read_clone() {
    ModelSession* s = some_clone();
    ModelSession::File* file = s == nullptr ? nullptr : some_clone_file(*s);
    if (file == nullptr) return;
    const std::string& expected = file->object->data;
    const uint64_t offset = some_offset(expected.size());
    if (random_.chance(20)) return seek(*s, *file, offset);
    std::string data(some_length(), 'x');
    const ssize_t n = file->open.file->read(data.data(), data.size(), offset);
    const std::string what = "read " + s->options.name + " " + std::to_string(offset) + "+" +
                             std::to_string(data.size());
    note(what);
    if (n < 0) return fail(what + ": " + std::strerror(static_cast<int>(-n)));
    const size_t there = offset >= expected.size() ? 0 : expected.size() - offset;
    if (static_cast<size_t>(n) != std::min(data.size(), there)) {
      return fail(what + ": " + std::to_string(n) + " bytes");
    }
    data.resize(static_cast<size_t>(n));
    const std::string report = difference(
        expected.substr(offset > expected.size() ? expected.size() : offset, data.size()), data);
    if (!report.empty()) fail(what + ": " + report);
  }

  // Nothing but zeros may be called a hole, and the end of the file is one.
  void seek(const ModelSession& s, const ModelSession::File& file, uint64_t offset) {
    const std::string& expected = file.object->data;
    const int64_t data = file.open.file->seek(offset, SEEK_DATA);
    const int64_t hole = file.open.file->seek(offset, SEEK_HOLE);
    const std::string what = "seek " + s.options.name + " " + std::to_string(offset) + " -> " +
                             std::to_string(data) + " " + std::to_string(hole);
    note(what);
    if (offset >= expected.size()) {
      if (data != -ENXIO || hole != -ENXIO) fail(what + " beyond the end");
      return;
    }
    if (data < 0 && data != -ENXIO) return fail(what);
    const uint64_t begin = data < 0 ? expected.size() : static_cast<uint64_t>(data);
    for (uint64_t i = offset; i < begin; ++i) {
      if (expected[i] != 0) return fail(what + ": data at " + std::to_string(i) + " is in a hole");
    }
    if (hole < static_cast<int64_t>(offset) || hole > static_cast<int64_t>(expected.size())) {
      fail(what + ": no such hole");
    }
  }

  // After the clone's user changed an object: its new times are the ones to be kept.
  void own_times(ModelSession& s, TreeObject& object, int fd, uint64_t pool_ino,
                 const timespec& before) {
    object.own_ctime = true;
    const auto clone = volume_->engine().clone(s.options.name);
    if (!clone) return fail("no clone " + s.options.name);
    (*clone)->changed(pool_ino);
    struct stat st {};
    fstat(fd, &st);
    (*clone)->present(&st);
    object.own_mtime = false;
    object.st.st_mtim = st.st_mtim;
    if (st.st_ctim.tv_sec < before.tv_sec - 1) fail("an own change shows an old ctime");
  }

  void change_clone() {
    ModelSession* s = some_clone();
    if (s == nullptr || is_frozen(*s)) return;
    if (random_.chance(25)) return change_clone_tree(*s);
    ModelSession::File* file = some_clone_file(*s);
    if (file == nullptr) return;
    std::string& expected = file->object->data;
    CloneFile& clone = *file->open.file;
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t offset = some_offset(expected.size());
    const std::string where = s->options.name + " " + std::to_string(offset);
    remember_data(file->object);
    if (random_.chance(65)) {
      const std::string data = some_data();
      const ssize_t n = clone.write(data.data(), data.size(), offset);
      note("clone write " + where + "+" + std::to_string(data.size()));
      if (n != static_cast<ssize_t>(data.size()) && !off()) return fail("clone write: " + std::to_string(n));
      if (expected.size() < offset + data.size()) expected.resize(offset + data.size());
      expected.replace(offset, data.size(), data);
    } else if (random_.chance(50)) {
      const int r = clone.truncate(offset);
      note("clone truncate " + where);
      if (r != 0 && !off()) return fail("clone truncate: " + std::to_string(r));
      expected.resize(offset);
    } else {
      const uint64_t length = some_length();
      const bool zero = random_.chance(30), keep = random_.chance(50);
      const int mode = zero ? FALLOC_FL_ZERO_RANGE | (keep ? FALLOC_FL_KEEP_SIZE : 0)
                            : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      const int r = clone.allocate(mode, offset, length);
      note("clone allocate " + where + "+" + std::to_string(length) + " -> " + std::to_string(r));
      if (r == -EOPNOTSUPP) return;
      if (r != 0 && !off()) return fail("clone allocate: " + std::to_string(r));
      if (zero && !keep && expected.size() < offset + length) expected.resize(offset + length);
      for (uint64_t i = offset; i < std::min<uint64_t>(expected.size(), offset + length); ++i) {
        expected[i] = '\0';
      }
    }
    own_times(*s, *file->object, file->open.fd, file->open.ino, now);
  }

  // Names and attributes in the clone, as the clones mount changes them: not through the PowerDisk,
  // durable at once.
  void change_clone_tree(ModelSession& s) {
    const auto clone = volume_->engine().clone(s.options.name);
    if (!clone) return fail("no clone " + s.options.name);
    const int root = (*clone)->root();
    Names directories;
    for (const auto& [path, object] : s.tree) {
      if (S_ISDIR(object->st.st_mode)) directories.push_back(path);
    }
    const Names files = files_of(s);
    const uint64_t what = random_.below(4);
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    if (what == 0 && !directories.empty()) {
      const std::string directory = random_.pick(directories);
      const std::string path = join(directory, "own" + std::to_string(next_name_++));
      note("clone create " + s.options.name + " " + path);
      const int fd = openat(root, path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
      if (fd < 0) return fail("clone create " + path + ": " + std::strerror(errno));
      auto object = std::make_shared<TreeObject>();
      object->data = some_data();
      pwrite(fd, object->data.data(), object->data.size(), 0);
      fchmod(fd, 0640);
      fstat(fd, &object->st);
      s.tree[path] = object;
      look_up(**clone, path, &object->st);
      own_times(s, *object, fd, object->st.st_ino, now);
      if (power_) power_->settle(fd);
      close(fd);
      parent_changed(s, directory, now);
    } else if (what == 1 && !files.empty()) {
      const std::string path = random_.pick(files);
      note("clone unlink " + s.options.name + " " + path);
      struct stat st {};
      fstatat(root, path.c_str(), &st, AT_SYMLINK_NOFOLLOW);
      struct stat in {};
      fstatat(root, directory_of(path).c_str(), &in, AT_SYMLINK_NOFOLLOW);
      if ((*clone)->about_to_change(in.st_ino, st.st_ino) != 0) return fail("clone unlink " + path);
      if (unlinkat(root, path.c_str(), 0) != 0) return fail("clone unlink " + path);
      (*clone)->changed(st.st_ino);
      s.tree[path]->own_ctime = true;
      s.tree.erase(path);
      parent_changed(s, directory_of(path), now);
    } else if (what == 2 && !files.empty()) {
      const std::string path = random_.pick(files);
      note("clone chmod " + s.options.name + " " + path);
      const int fd = openat(root, path.c_str(), O_RDWR | O_CLOEXEC);
      TreeObject& object = *s.tree[path];
      fchmod(fd, object.st.st_mode ^ 0011);
      object.st.st_mode ^= 0011;
      struct stat st {};
      fstat(fd, &st);
      const timespec mtime = object.st.st_mtim;
      own_times(s, object, fd, st.st_ino, now);
      object.st.st_mtim = mtime;  // that is not a change of the data
      if (power_) power_->settle(fd);
      close(fd);
    } else if (what == 3 && !files.empty()) {
      const std::string path = random_.pick(files);
      note("clone utimes " + s.options.name + " " + path);
      const int fd = openat(root, path.c_str(), O_RDWR | O_CLOEXEC);
      TreeObject& object = *s.tree[path];
      const timespec times[2] = {{5000, 0}, {static_cast<time_t>(random_.below(2000000000)), 99}};
      futimens(fd, times);
      struct stat st {};
      fstat(fd, &st);
      (*clone)->changed(st.st_ino, times);
      object.own_ctime = true;
      object.st.st_mtim = times[1];
      if (power_) power_->settle(fd);
      close(fd);
    }
  }

  static std::string directory_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
  }

  void parent_changed(ModelSession& s, const std::string& directory, const timespec& now) {
    const auto clone = volume_->engine().clone(s.options.name);
    const int fd = openat((*clone)->root(), directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st {};
    fstat(fd, &st);
    const auto it = s.tree.find(directory);
    TreeObject nobody;  // a directory that only leads to what was selected
    own_times(s, it == s.tree.end() ? nobody : *it->second, fd, st.st_ino, now);
    if (power_) power_->settle(fd);
    close(fd);
  }

  // --- checks

  void check(const std::string& name, ModelSession& session) {
    if (!failure_.empty()) return;
    ModelSession& s = shown(session);
    const auto clones = volume_->engine().clones();
    const bool listed = std::any_of(clones.begin(), clones.end(),
                                    [&](const CloneInfo& c) { return c.name == name; });
    if (listed != s.activated()) fail(name + (listed ? " is listed" : " is not listed"));
    if (!s.activated()) {
      const auto clone = volume_->engine().clone(name);
      if (clone || clone.error().code != ENOENT) fail(name + " is not locked");
      return;
    }
    std::string report = volume_->clone_difference(name, s.tree, s.options.paths);
    if (!report.empty()) {
      return fail("clone " + name + " (" + to_string(s.state) + ") differs:\n" + report);
    }
    if (s.state == SessionState::kCopyInProgress) return;
    report = volume_->plain_difference(name, s.tree, s.options.paths);
    if (!report.empty()) fail("plain tree of " + name + " differs:\n" + report);
  }

  void check_before(const std::string& name) {
    if (ModelSession* s = find(name)) check(name, *s);
  }

  void check_all() {
    note("check");
    for (auto& [name, s] : sessions_) check(name, s);
  }

  // The engine's states are the model's; the one that changes by itself is followed.
  void follow_states() {
    const auto all = volume_->engine().status();
    if (all.size() != sessions_.size()) {
      return fail(std::to_string(all.size()) + " sessions instead of " +
                  std::to_string(sessions_.size()));
    }
    for (const SessionStatus& status : all) {
      ModelSession* s = find(status.name);
      if (s == nullptr) return fail("unknown session " + status.name);
      if (s->state == SessionState::kCopyInProgress && status.state == SessionState::kCopied) {
        s->state = SessionState::kCopied;
        check(status.name, *s);
      }
      if (status.state != s->state) {
        return fail(status.name + " is " + to_string(status.state) + " instead of " +
                    to_string(s->state) + " " + status.error);
      }
      if (status.state == SessionState::kCopied && status.tracks_pending != 0) {
        return fail(status.name + " is Copied with tracks pending");
      }
      if (status.tracks_pending > status.tracks_total) {
        return fail(status.name + ": more tracks pending than there are");
      }
    }
  }

  void restart() {
    forget_descriptors();
    const bool clean = random_.chance(50);
    const bool cut = power_ && clean && random_.chance(50);
    // Times that the clone's user gave last need not survive SIGKILL (they are written down within
    // a second): then others show, and stay.
    for (auto& [name, s] : sessions_) {
      for (auto& [path, object] : shown(s).tree)
        object->own_mtime |= (!clean || cut) && object->own_ctime;
    }
    Status status;
    if (cut) {
      note("close, power off and on");
      status = volume_->close();
      if (!off()) {
        power_->cut();
        ++report_.power_cuts;
        volume_->use_boot(std::to_string(++boot_));
        change_behind_back();
        if (status) status = volume_->open();
      }
    } else {
      note(clean ? "close and open" : "kill and open");
      if (power_ && !clean) power_->stop();
      if (!clean) volume_->kill();
      if (power_ && !clean) power_->resume();
      if (clean) status = volume_->close();
      if (power_ && clean && !off()) change_behind_back();
      if (status) status = volume_->open();
    }
    if (off()) return;
    if (!status) return fail("open again: " + status.error().message);
    forget_spoilt();
    if (off()) return;
    if (cut) settle_data();
    follow_states();
    if (random_.chance(50)) check_all();
    for (auto& [name, s] : sessions_) settle_times(name, s);
  }

  // While clonefs is not mounted somebody changes the volume.
  void change_behind_back() {
    if (!random_.chance(40)) return;
    note("behind the back:");
    changed_behind_back_ = alone_ = power_->distinct_ctimes = true;
    volume_->intercept = false;
    for (uint64_t i = 0; i < 1 + random_.below(3); ++i) change_volume();
    volume_->intercept = true;
    // A ctime that a power cut takes away while the data stays tells nothing.
    power_->settle();
    alone_ = power_->distinct_ctimes = false;
  }

  // Undrained clones of files that were changed so are Failed: there nothing else can be.
  void forget_spoilt() {
    if (!std::exchange(changed_behind_back_, false)) return;
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      const SessionStatus status = volume_->status(it->first);
      if (it->second.state != SessionState::kCopyInProgress || status.state != SessionState::kFailed ||
          status.error.find("while clonefs was not mounted") == std::string::npos) {
        ++it;
        continue;
      }
      ++report_.failed_clones;
      note(it->first + " is Failed: " + status.error);
      remember(it->first);
      uncertain_[it->first].state = SessionState::kFailed;
      const Status removed = volume_->engine().remove({it->first}, true);
      if (!removed) fail("remove " + it->first + ": " + removed.error().message);
      it = sessions_.erase(it);
    }
  }

  void settle_times(const std::string& name, ModelSession& session) {
    ModelSession& s = shown(session);
    const auto clone = volume_->engine().clone(name);
    if (!s.activated() || !clone) return;
    for (auto& [path, object] : s.tree) {
      struct stat st {};
      if (!object->own_mtime || !look_up(**clone, path, &st)) continue;
      (*clone)->present(&st);
      object->own_mtime = false;
      object->st.st_mtim = st.st_mtim;
    }
  }

  // To the end: everything is activated, drained, terminated, and still what it was.
  void finish() {
    check_all();
    for (auto& [name, s] : sessions_) {
      if (!failure_.empty()) return;
      if (!s.activated()) {
        if (s.previous != nullptr) s.previous->files.clear();
        for (auto& [other, kept] : sessions_)
          if (kept.kept_of == name) kept.files.clear();
        activate({name}, true);
        if (!failure_.empty()) return;
      }
      follow_states();
    }
    if (random_.chance(30)) restart();
    for (int i = 0; i < 5 && failure_.empty(); ++i) change_volume();
    for (auto& [name, s] : sessions_) {
      if (!failure_.empty()) return;
      if (s.state == SessionState::kTerminated) continue;
      if (!volume_->drain(name)) return fail(name + " does not drain");
      follow_states();
      if (s.state == SessionState::kCopied) {
        expect("terminate " + name, volume_->engine().terminate({name}, false), true);
        s.state = SessionState::kTerminated;
        s.files.clear();
      } else if (!s.options.nocopy) {
        fail(name + " is drained, but " + to_string(s.state));
      }
    }
    for (int i = 0; i < 5 && failure_.empty(); ++i) change_volume();
    if (random_.chance(20)) restart();
    check_all();
    const auto limbo = volume_->directory() + "/.clonefs/limbo";
    for (auto& [name, s] : sessions_) {
      if (!failure_.empty()) return;
      s.files.clear();
      expect("remove " + name, volume_->engine().remove({name}, true), true);
    }
    if (failure_.empty() && !directory_is_empty(limbo)) fail("limbo is not empty at the end");
  }

  static bool directory_is_empty(const std::string& path) {
    const int dir = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    if (dir < 0) return true;
    Tree tree;
    capture(dir, ".", tree);
    close(dir);
    return tree.size() <= 1;
  }

  // --- report

  void done(const std::string& what, int result) {
    note(what + (result < 0 ? std::string(" -> ") + std::strerror(-result) : ""));
    // What the file system itself refuses (a directory over a file and the like) is no failure.
    if (result == -EIO || result == -ESTALE || result == -ENOSPC || result == -EBADF) {
      fail(what + ": " + std::strerror(-result));
    }
  }

  void note(const std::string& text) {
    if (verbose_) fprintf(stderr, "  %s\n", text.c_str());
    history_.push_back(text);
    if (history_.size() > 60) history_.pop_front();
  }
  void fail(const std::string& text) {
    if (off()) return;  // nobody is there to notice
    if (failure_.empty()) failure_ = text;
  }
  std::string history() const {
    std::string text;
    for (const std::string& line : history_) text += "  " + line + "\n";
    return text;
  }

  Random random_;
  const bool verbose_;
  std::unique_ptr<PowerDisk> power_;
  std::unique_ptr<SharingDisk> sharing_;  // with power cuts
  std::unique_ptr<CatalogVfs> vfs_;
  uint64_t boot_ = 0;
  bool small_journal_ = false;
  bool alone_ = false;  // no step of the copy program within changes
  bool changed_behind_back_ = false;
  std::map<std::string, Outcome> uncertain_;
  std::map<std::shared_ptr<TreeObject>, std::vector<std::string>> unsynced_;  // older data
  ModelReport report_;
  std::unique_ptr<DirectVolume> volume_;
  std::map<std::string, ModelSession> sessions_;
  std::vector<int> handles_;
  uint64_t next_name_ = 0, next_data_ = 1;
  std::deque<std::string> history_;
  std::string failure_;
};

}  // namespace

ModelReport run_model(uint64_t seed, const ModelOptions& options) {
  return ModelRun(seed, options).run();
}

void run_model_seeds(const Seeds& range, const ModelOptions& options) {
  ModelOptions one = options;
  one.verbose = std::getenv("CLONEFS_TEST_SEED") != nullptr && range.count == 1;
  ModelReport all;
  uint64_t runs = 0;
  int failures = 0;
  for (; runs < range.count && failures < 3; ++runs) {
    const uint64_t seed = range.first + runs;
    const ModelReport report = run_model(seed, one);
    all.power_cuts += report.power_cuts;
    all.cuts_in_recovery += report.cuts_in_recovery;
    all.clones_checked += report.clones_checked;
    all.failed_clones += report.failed_clones;
    if (report.failure.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << seed << " (run " << runs + 1 << " of " << range.count
                  << ", CLONEFS_TEST_SEED=" << seed << "): " << report.failure;
  }
  if (!options.power_cuts) return;
  std::printf("%lu seeds, %lu power cuts, %lu of them during a recovery; %lu activated clones "
              "compared after one, %lu Failed where that is allowed\n",
              static_cast<unsigned long>(runs), static_cast<unsigned long>(all.power_cuts),
              static_cast<unsigned long>(all.cuts_in_recovery),
              static_cast<unsigned long>(all.clones_checked),
              static_cast<unsigned long>(all.failed_clones));
}

}  // namespace clonefs::test
