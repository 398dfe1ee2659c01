// PowerDisk: a disk whose power can fail. What is written through it is seen at once, as in a page
// cache; durable is what was synced. cut() takes away any part of the rest:
//
//   data        each unsynced sector of 512 bytes is there or not; so is a change of the size
//   attributes  mode, owner, times, xattrs of an object are the synced ones or the last ones
//   names       creations, links, renames and removals: of each directory the first ones, in order;
//               a rename between two directories in both or in neither. What lost its last name is
//               lost with all that is in it
//
// A sync of an object makes its data, its attributes (fdatasync: not these), the entries of a
// directory, its own names and those of the directories above it durable, as on ext4 and XFS; syncfs
// everything. All of it is on real files (tmpfs): what was removed or replaced is kept in a directory
// of its own until that is durable, and hidden from who looks through the disk.
//
// Thread safety: as Disk; cut() and fail_after() are for one thread while nobody else uses it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {

class PowerDisk : public ForwardingDisk {
 public:
  explicit PowerDisk(uint64_t seed);
  ~PowerDisk() override;

  // The power fails at the Nth operation from now that changes something or syncs (1: the next one);
  // 0: it does not.
  void fail_after(uint64_t operations);
  uint64_t operations() const { return operations_; }
  // It failed: every call answers EIO and does nothing.
  bool off() const { return off_; }
  // The program that uses it is killed: it can do nothing any more, but nothing is lost. Until
  // resume().
  void stop() { off_ = true; }
  void resume() { off_ = false; }
  // What is left when the power comes back: by chance, or all or nothing of each kind.
  void cut();
  struct Survives {
    bool data = false, attributes = false, names = false;
  };
  void cut(Survives what) { cut_with(what); }
  // Makes everything, or all of one object, durable.
  void settle();
  void settle(int fd);
  bool verbose = false;  // print them
  // Called before each operation that reads or changes data, changes something else, or syncs.
  std::function<void()> before_operation;
  // The Nth sync from now fails with EIO and makes nothing durable; 0: none.
  std::atomic<unsigned> fail_sync{0};
  // It can transfer() with shared blocks, as XFS and btrfs.
  bool shares = false;
  // No change of the volume has the ctime of another, whatever the clock says.
  bool distinct_ctimes = false;

  // Through this one the volume is changed: the disk gives its objects a ctime of its own, which
  // says of most changes that they are long past, and of all that they happened.
  Disk& volume() { return volume_; }
  // ST as stat() of this disk would show it.
  void present(struct stat* st);

  int open(int dir, const char* path, int flags, mode_t mode) override;
  int open_handle(int mount, const std::string& handle, int flags) override;
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override;
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override;
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override;
  int truncate(int fd, uint64_t size) override;
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override;
  int datasync(int fd) override;
  int sync(int fd) override;
  int syncfs(int fd) override;
  int stat(int dir, const char* path, struct stat* st) override;
  int chmod(int fd, mode_t mode) override;
  int chown(int fd, uid_t uid, gid_t gid) override;
  int utimes(int fd, const struct timespec times[2]) override;
  int set_xattr(int fd, const char* name, const std::string& value) override;
  int remove_xattr(int fd, const char* name) override;
  int list(int dir, const std::function<bool(const Entry&)>& fn) override;
  int mkdir(int dir, const char* name, mode_t mode) override;
  int mknod(int dir, const char* name, mode_t mode, dev_t dev) override;
  int symlink(const char* target, int dir, const char* name) override;
  int link(int fd, int dir, const char* name) override;
  int unlink(int dir, const char* name, int flags) override;
  int rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) override;

 private:
  static constexpr uint64_t kSector = 512;
  using Key = std::pair<dev_t, ino_t>;

  struct Attributes {
    mode_t mode = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    timespec times[2] = {};
    std::map<std::string, std::string> xattrs;
    std::optional<timespec> ctime;
  };
  struct Object {
    Fd path;  // O_PATH, while something of it is not durable
    mode_t type = 0;
    bool data_changed = false;
    uint64_t durable_size = 0;
    std::map<uint64_t, std::string> before;  // durable content of unsynced sectors
    std::optional<Attributes> durable;       // while attributes are not
    std::optional<timespec> ctime;           // of the volume's objects
    unsigned graves = 0;                     // names in the graveyard
  };
  // A change of names that is not durable, and how it is undone.
  struct NameChange {
    enum Kind { kMade, kRemoved, kRenamed, kExchanged } kind;
    Key dirs[2];  // the same twice if it is one
    Key object;   // that got a name
    Key other;    // that got the other one (exchange)
    Fd dir_fds[2];
    std::string names[2];
    std::string grave;  // what was removed or replaced; "": nothing
    Key buried;
  };

  class VolumeDisk;
  friend class VolumeDisk;
  class VolumeDisk : public ForwardingDisk {
   public:
    explicit VolumeDisk(PowerDisk& disk)
        : ForwardingDisk(static_cast<Disk&>(disk)), power_(disk) {}
    int open(int dir, const char* path, int flags, mode_t mode) override;
    ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override;
    int truncate(int fd, uint64_t size) override;
    int allocate(int fd, int mode, uint64_t offset, uint64_t length) override;
    int chmod(int fd, mode_t mode) override;
    int chown(int fd, uid_t uid, gid_t gid) override;
    int utimes(int fd, const struct timespec times[2]) override;
    int set_xattr(int fd, const char* name, const std::string& value) override;
    int remove_xattr(int fd, const char* name) override;
    int mkdir(int dir, const char* name, mode_t mode) override;
    int mknod(int dir, const char* name, mode_t mode, dev_t dev) override;
    int symlink(const char* target, int dir, const char* name) override;
    int link(int fd, int dir, const char* name) override;
    int unlink(int dir, const char* name, int flags) override;
    int rename(int from_dir, const char* from, int to_dir, const char* to,
               unsigned flags) override;

   private:
    int touched(int result, int fd);
    int touched(int result, int dir, const char* name);
    PowerDisk& power_;
  };

  // Begins an operation: false when the power is off. The one at which it fails may still happen,
  // but nobody learns of it.
  bool begin(bool* last, const char* what, int fd, const char* name = "");
  int end(bool last, int result) const { return last ? -EIO : result; }
  bool sync_fails() { return fail_sync != 0 && --fail_sync == 0; }

  void cut_with(std::optional<Survives> what);

  // With the mutex held.
  static Key key_of(const struct stat& st) { return {st.st_dev, st.st_ino}; }
  Object* object(int fd, struct stat* st);
  Attributes attributes(int path, const struct stat& st, const Object& o);
  void save_attributes(int fd);
  void save_data(int fd, uint64_t offset, uint64_t length);
  void save_name(NameChange change, int dir_a, int dir_b);
  void made(int dir, const char* name);
  std::string bury(int dir, const char* name, const struct stat& st);
  void exhume(const NameChange& change, int dir, const std::string& name);
  void burn(const NameChange& change);
  void make_durable(int fd, bool attributes);
  void release(Object& o);
  void touch(int fd);
  void show(struct stat* st) const;
  bool is_buried(const struct stat& st) const;

  std::mutex mutex_;
  Random random_;
  TemporaryDirectory graveyard_;
  int graveyard_fd_ = -1;
  uint64_t next_grave_ = 0;
  std::map<Key, Object> objects_;
  std::vector<NameChange> names_;
  timespec clock_{};
  std::atomic<bool> off_{false};
  std::atomic<uint64_t> operations_{0};
  uint64_t fail_at_ = 0;
  VolumeDisk volume_{*this};
};

}  // namespace clonefs::test
