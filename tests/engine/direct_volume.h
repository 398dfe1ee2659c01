// A volume in a temporary directory with an engine on it, and the part of fs/ played by plain
// calls: each function tells the engine of the change, makes it, and lets the Change go. The copy
// program runs only by steps unless asked otherwise.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "tests/engine/tree.h"

namespace clonefs::test {

// Deterministic choices from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t n) { return n == 0 ? 0 : engine_() % n; }
  bool chance(unsigned percent) { return below(100) < percent; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

 private:
  std::mt19937_64 engine_;
};

// SIZE bytes that depend on SEED, none of them zero.
std::string pattern(uint64_t seed, size_t size);

// A directory of its own, removed at the end.
class TemporaryDirectory {
 public:
  // kDisk: TMPDIR or /var/tmp, inode numbers are used again at once on most file systems.
  // kMemory: /dev/shm, where they never are.
  enum class Where { kDisk, kMemory };
  explicit TemporaryDirectory(Where where);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

using Where = TemporaryDirectory::Where;

class DirectVolume {
 public:
  struct Options {
    Where where = Where::kMemory;
    std::optional<Where> pool;  // a pool outside of the volume
    uint64_t track_size = 4096;
    unsigned max_columns = 64;
    bool copy_threads = false;
    unsigned copy_workers = 0;  // 0: one piece a step without threads, else as suits the machine
    Disk* disk = nullptr;  // the engine's; posix_disk()
    Disk* volume_disk = nullptr;  // changes of the volume go through it; posix_disk()
    std::function<void(struct stat*)> present;  // what VOLUME_DISK shows of an object
    Durability durability = Durability::kPower;
    OnError on_error = OnError::kFailClone;
    uint64_t journal_limit = 128 << 20;
    // 0: all that a change of the volume asks for is done on its thread.
    std::chrono::milliseconds stall_limit{0};
    std::string boot;  // id of the boot; empty: the machine's
    bool no_clones = false;
    std::chrono::nanoseconds ctime_tick{20'000'000};  // as in EngineOptions
    uint64_t tracked_at_least = 16;
    std::chrono::milliseconds quiet{0};
  };
  DirectVolume() : DirectVolume(Options{}) {}
  explicit DirectVolume(Where where) : DirectVolume(options_at(where)) {}
  explicit DirectVolume(const Options& options);
  ~DirectVolume();

  // --- the engine's life: open at first
  Engine& engine() { return *engine_; }
  Status open();         // again
  Status close();        // a clean end
  void kill();           // SIGKILL
  Status reopen();       // close and open
  Status kill_reopen();  // kill and open
  EngineOptions engine_options() const;
  void use_disk(Disk& disk) { options_.disk = &disk; }  // from the next open on
  void use_boot(const std::string& boot) { options_.boot = boot; }
  void use_no_clones(bool without) { options_.no_clones = without; }

  // False: changes are made without a word to the engine, as if the interception were taken out.
  bool intercept = true;
  // Called in each change: when the engine has been told that it begins, and when it has been made
  // but not ended.
  std::function<void()> after_begin, before_end;

  // --- changes; 0 or -errno (descriptors: -errno or the descriptor)
  int write(const std::string& path, uint64_t offset, std::string_view data);
  int write_fd(int fd, uint64_t offset, std::string_view data);
  int truncate(const std::string& path, uint64_t size);
  int truncate_fd(int fd, uint64_t size, bool readable = true);
  int allocate(const std::string& path, int mode, uint64_t offset, uint64_t length);
  int copy_range(const std::string& from, uint64_t from_offset, const std::string& to,
                 uint64_t to_offset, uint64_t length);
  int create(const std::string& path, mode_t mode = 0644);  // must not exist
  int make(const std::string& path, std::string_view data, mode_t mode = 0644);
  int mkdir(const std::string& path, mode_t mode = 0755);
  int mknod(const std::string& path, mode_t mode, dev_t device = 0);
  int symlink(const std::string& target, const std::string& path);
  int link(const std::string& from, const std::string& to);
  int tmpfile(const std::string& directory);   // O_TMPFILE
  int link_fd(int fd, const std::string& to);  // gives it a name
  int unlink(const std::string& path);         // rmdir for a directory
  int rename(const std::string& from, const std::string& to, unsigned flags = 0);
  int chmod(const std::string& path, mode_t mode);
  int chown(const std::string& path, uid_t uid, gid_t gid);
  int utimes(const std::string& path, const timespec times[2]);
  int set_xattr(const std::string& path, const std::string& name, const std::string& value);
  int remove_xattr(const std::string& path, const std::string& name);

  int sync(const std::string& path);  // what an application's fsync does on the backing file system

  // --- looking
  int root() const { return root_; }
  int open_file(const std::string& path, int flags) const;
  SourceId id(const std::string& path) const;  // 0: none
  SourceId id_of(const struct stat& st) const;
  bool exists(const std::string& path) const;
  Tree capture(const std::vector<std::string>& paths = {"."}) const;
  std::string content(const std::string& path) const;
  const std::string& directory() const { return directory_.path(); }

  // --- sessions
  CreateOptions options(const std::string& name, std::vector<std::string> paths = {"."}) const;
  // Steps until nothing is left to do; false when that takes unreasonably many.
  bool drain(const std::string& name);
  SessionStatus status(const std::string& name) const;  // name "" when there is none
  // "" or what is different in the clone: through the clone (or what verify finds in it), or in the
  // pool as a plain tree.
  std::string clone_difference(const std::string& name, const Tree& expected,
                               const std::vector<std::string>& selected = {"."});
  std::string plain_difference(const std::string& name, const Tree& expected,
                               const std::vector<std::string>& selected = {"."});
  // "" or what verify finds in the clone.
  std::string damage(const std::string& name);
  // A file of the clone, open with its CloneFile.
  struct OpenClone {
    std::shared_ptr<Clone> clone;
    std::shared_ptr<void> use;
    int fd = -1;
    uint64_t ino = 0;  // in the pool
    std::unique_ptr<CloneFile> file;
    OpenClone() = default;
    OpenClone(OpenClone&& other) noexcept;
    OpenClone& operator=(OpenClone&&) = delete;
    ~OpenClone();
    explicit operator bool() const { return file != nullptr; }
  };
  OpenClone open_clone(const std::string& name, const std::string& path, int flags = O_RDWR);

 private:
  static Options options_at(Where where) {
    Options options;
    options.where = where;
    return options;
  }
  struct Parent {
    int fd;
    std::string name;
  };
  Disk& changes() const { return options_.volume_disk ? *options_.volume_disk : posix_disk(); }
  // Opens the directory of PATH; fd < 0: -errno.
  Parent parent(const std::string& path) const;
  template <class Call>
  int change_attributes(const std::string& path, Call call);
  // The Change of one function of this class.
  struct Told {
    Told(const DirectVolume& volume, const std::function<Change()>& about);
    ~Told();
    Told(const Told&) = delete;
    Told& operator=(const Told&) = delete;
    int error() const { return change ? change->error() : 0; }
    std::optional<Change> change;
    const std::function<void()>& before_end;
  };

  Options options_;
  TemporaryDirectory directory_;
  std::unique_ptr<TemporaryDirectory> pool_;
  int root_ = -1;
  std::unique_ptr<Engine> engine_;
};

// Looks PATH up as the clones mount does: its number may have been a removed member's. What it shows goes
// through Clone::present() still. False: there is none.
bool look_up(Clone& clone, const std::string& path, struct stat* st);

// Whole content of a clone's file, or "error N".
std::string read_clone_file(CloneFile& file, uint64_t size);

// Number of runs of a randomized test and their first seed: CLONEFS_TEST_SEED runs that one alone,
// or as many from it as CLONEFS_TEST_SEEDS says; else from 1 on CLONEFS_TEST_SEEDS, or LONG_RUNS
// with CLONEFS_LONG, or RUNS.
struct Seeds {
  uint64_t first, count;
};
Seeds seeds(uint64_t runs, uint64_t long_runs);

}  // namespace clonefs::test
