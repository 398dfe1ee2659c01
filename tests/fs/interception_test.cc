// Every kind of change that the mount can make passes the engine: a clone that is not drained yet
// must show what was there before the change, and one that is not activated yet what is there after
// it. The copy program does not run until the change has happened, so a change that passes the
// engine by shows up as a difference.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>

#include "tests/fs/live_mount.h"

namespace clonefs::testing {
namespace {

constexpr size_t kTrack = 64 << 10;

struct Kind {
  const char* name;
  // Makes the change in DIR; false: errno says why not.
  std::function<bool(const std::string& dir)> change;
};

class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0644)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

bool put(int fd, const std::string& data, off_t offset) {
  return pwrite(fd, data.data(), data.size(), offset) == static_cast<ssize_t>(data.size());
}

// An ACL with one named user, as the kernel wants it in the xattr.
std::string acl_bytes() {
  struct Entry {
    uint16_t tag, perm;
    uint32_t id;
  };
  const Entry entries[] = {{1, 6, 0xffffffff},
                           {2, 4, 12345},
                           {4, 4, 0xffffffff},
                           {16, 4, 0xffffffff},
                           {32, 4, 0xffffffff}};
  const uint32_t version = 2;
  return std::string(reinterpret_cast<const char*>(&version), sizeof version) +
         std::string(reinterpret_cast<const char*>(entries), sizeof entries);
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> table = {
      {"Write",
       [](const std::string& d) {
         const File f(d + "/file", O_WRONLY);
         return put(f.get(), "new data", kTrack + 100);
       }},
      {"Append",
       [](const std::string& d) {
         const File f(d + "/file", O_WRONLY | O_APPEND);
         return write(f.get(), "tail", 4) == 4;
       }},
      {"WriteMapped",
       [](const std::string& d) {
         const File f(d + "/file", O_RDWR);
         void* map = mmap(nullptr, 4 * kTrack, PROT_READ | PROT_WRITE, MAP_SHARED, f.get(), 0);
         if (map == MAP_FAILED) return false;
         memcpy(static_cast<char*>(map) + 2 * kTrack, "mapped", 6);
         return munmap(map, 4 * kTrack) == 0;
       }},
      {"WriteDirect",
       [](const std::string& d) {
         const File f(d + "/file", O_WRONLY | O_DIRECT);
         void* block = aligned_alloc(4096, 4096);
         memset(block, 'Z', 4096);
         const bool done = pwrite(f.get(), block, 4096, 3 * kTrack) == 4096;
         free(block);
         return done;
       }},
      {"TruncateDown",
       [](const std::string& d) { return truncate((d + "/file").c_str(), kTrack + 5) == 0; }},
      {"TruncateUp",
       [](const std::string& d) { return truncate((d + "/file").c_str(), 9 * kTrack) == 0; }},
      {"TruncateOpenFile",
       [](const std::string& d) {
         const File f(d + "/file", O_RDWR);
         return ftruncate(f.get(), 10) == 0;
       }},
      {"OpenTruncates",
       [](const std::string& d) { return File(d + "/file", O_WRONLY | O_TRUNC).get() >= 0; }},
      {"PunchHole",
       [](const std::string& d) {
         const File f(d + "/file", O_RDWR);
         return fallocate(f.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kTrack, kTrack) == 0;
       }},
      {"ZeroRange",
       [](const std::string& d) {
         const File f(d + "/file", O_RDWR);
         return fallocate(f.get(), FALLOC_FL_ZERO_RANGE, 5000, 2 * kTrack) == 0;
       }},
      {"Fallocate",
       [](const std::string& d) {
         const File f(d + "/file", O_RDWR);
         return fallocate(f.get(), 0, 0, 6 * kTrack) == 0;
       }},
      {"CopyFileRange",
       [](const std::string& d) {
         const File from(d + "/other", O_RDONLY), to(d + "/file", O_RDWR);
         off_t in = 0, out = kTrack;
         return copy_file_range(from.get(), &in, to.get(), &out, 4096, 0) == 4096;
       }},
      {"Unlink", [](const std::string& d) { return unlink((d + "/file").c_str()) == 0; }},
      {"RenameOver",
       [](const std::string& d) {
         return rename((d + "/other").c_str(), (d + "/file").c_str()) == 0;
       }},
      {"RenameWithin",
       [](const std::string& d) {
         return rename((d + "/file").c_str(), (d + "/sub/moved").c_str()) == 0;
       }},
      {"RenameOut",
       [](const std::string& d) {
         return rename((d + "/file").c_str(), (d + "/../gone").c_str()) == 0;
       }},
      {"RenameIn",
       [](const std::string& d) {
         return rename((d + "/../outside").c_str(), (d + "/come").c_str()) == 0;
       }},
      {"RenameExchange",
       [](const std::string& d) {
         return renameat2(AT_FDCWD, (d + "/file").c_str(), AT_FDCWD, (d + "/other").c_str(),
                          RENAME_EXCHANGE) == 0;
       }},
      {"RenameDirectory",
       [](const std::string& d) {
         return rename((d + "/sub").c_str(), (d + "/renamed").c_str()) == 0;
       }},
      {"Link",
       [](const std::string& d) {
         return link((d + "/file").c_str(), (d + "/sub/second").c_str()) == 0;
       }},
      {"UnlinkOneOfTwo", [](const std::string& d) { return unlink((d + "/linked").c_str()) == 0; }},
      {"Chmod", [](const std::string& d) { return chmod((d + "/file").c_str(), 0600) == 0; }},
      {"Chown",
       [](const std::string& d) {
         // Without root only a change to what it is already: then it shows in nothing.
         return geteuid() != 0 || chown((d + "/file").c_str(), 12, 34) == 0;
       }},
      {"Utimens",
       [](const std::string& d) {
         const timespec times[2] = {{1000, 1}, {2000, 2}};
         return utimensat(AT_FDCWD, (d + "/file").c_str(), times, 0) == 0;
       }},
      {"Setxattr",
       [](const std::string& d) {
         return setxattr((d + "/file").c_str(), "user.k", "new", 3, 0) == 0;
       }},
      {"Removexattr",
       [](const std::string& d) { return removexattr((d + "/file").c_str(), "user.old") == 0; }},
      {"Acl",
       [](const std::string& d) {
         const std::string acl = acl_bytes();
         return setxattr((d + "/file").c_str(), "system.posix_acl_access", acl.data(), acl.size(),
                         0) == 0;
       }},
      {"ChmodDirectory",
       [](const std::string& d) { return chmod((d + "/sub").c_str(), 0700) == 0; }},
      {"Create",
       [](const std::string& d) {
         const File f(d + "/sub/created", O_WRONLY | O_CREAT | O_EXCL);
         return put(f.get(), std::string(kTrack + 1, 'c'), 0);
       }},
      {"LinkTmpfile",
       [](const std::string& d) {
         const File f(d, O_TMPFILE | O_RDWR);
         if (!put(f.get(), "from nowhere", 0)) return false;
         return linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(f.get())).c_str(), AT_FDCWD,
                       (d + "/named").c_str(), AT_SYMLINK_FOLLOW) == 0;
       }},
      {"Mkdir", [](const std::string& d) { return mkdir((d + "/sub/new").c_str(), 0711) == 0; }},
      {"Rmdir", [](const std::string& d) { return rmdir((d + "/empty").c_str()) == 0; }},
      {"Symlink",
       [](const std::string& d) { return symlink("target", (d + "/link2").c_str()) == 0; }},
      {"Mkfifo", [](const std::string& d) { return mkfifo((d + "/fifo").c_str(), 0640) == 0; }},
      {"RemoveTree",
       [](const std::string& d) {
         return unlink((d + "/sub/inner").c_str()) == 0 && rmdir((d + "/sub").c_str()) == 0;
       }},
  };
  return table;
}

class Interception : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (const std::string why = LiveMount::unavailable(); !why.empty()) GTEST_SKIP() << why;
    mount_ = std::make_unique<LiveMount>();
    const std::string d = mount_->at("tree");
    ASSERT_EQ(mkdir(d.c_str(), 0755), 0);
    ASSERT_EQ(mkdir((d + "/sub").c_str(), 0755), 0);
    ASSERT_EQ(mkdir((d + "/empty").c_str(), 0755), 0);
    std::string data;
    for (size_t i = 0; i < 4; ++i) data += std::string(kTrack, static_cast<char>('a' + i));
    write_file(d + "/file", data);
    write_file(d + "/other", std::string(kTrack, 'o'));
    write_file(d + "/sub/inner", std::string(kTrack, 'i'));
    write_file(d + "/linked", "two names");
    ASSERT_EQ(link((d + "/linked").c_str(), (d + "/sub/../linked2").c_str()), 0);
    write_file(mount_->at("outside"), std::string(kTrack, 'x'));
    ASSERT_EQ(setxattr((d + "/file").c_str(), "user.old", "old", 3, 0), 0) << strerror(errno);
  }

  void change() {
    const Kind& kind = kinds()[GetParam()];
    const bool done = kind.change(mount_->at("tree"));
    if (!done && errno == EOPNOTSUPP) GTEST_SKIP() << "the source's file system cannot do it";
    ASSERT_TRUE(done) << kind.name << ": " << strerror(errno);
  }
  // A copy of the tree as applications see it now.
  std::string copy_now() {
    const std::string copy = mount_->scratch("expected");
    const std::string line = "cp -a " + mount_->at("tree") + " " + copy;
    EXPECT_EQ(std::system(line.c_str()), 0);
    return copy;
  }
  void expect_clone_equals(const std::string& expected) {
    EXPECT_EQ(mount_->command("drain c"), "");
    EXPECT_EQ(tree_difference(expected, mount_->clone_in_pool("c") + "/tree"), "");
  }

  std::unique_ptr<LiveMount> mount_;
};

TEST_P(Interception, AfterActivationTheCloneShowsWhatWasThereBefore) {
  const std::string expected = copy_now();
  ASSERT_EQ(mount_->command("copy c tree"), "");
  change();
  if (HasFatalFailure() || IsSkipped()) return;
  ASSERT_EQ(mount_->command("flush"), "");
  expect_clone_equals(expected);
}

TEST_P(Interception, BeforeActivationTheCloneFollows) {
  ASSERT_EQ(mount_->command("create c tree"), "");
  change();
  if (HasFatalFailure() || IsSkipped()) return;
  const std::string expected = copy_now();
  ASSERT_EQ(mount_->command("activate c"), "");
  expect_clone_equals(expected);
}

INSTANTIATE_TEST_SUITE_P(Changes, Interception, ::testing::Range<size_t>(0, kinds().size()),
                         [](const auto& parameter) {
                           return std::string(kinds()[parameter.param].name);
                         });

}  // namespace
}  // namespace clonefs::testing
