// Every kind of change of the volume, in every phase of a session: the clone must show the instant
// of its activation. And the proof that each kind is looked at: made without a word to the engine,
// it spoils the clone in at least one phase.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

enum class Phase { kCreated, kPrecopyRunning, kPrecopied, kActive, kDraining };
constexpr Phase kPhases[] = {Phase::kCreated, Phase::kPrecopyRunning, Phase::kPrecopied,
                             Phase::kActive, Phase::kDraining};
const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kCreated:
      return "Created";
    case Phase::kPrecopyRunning:
      return "PrecopyRunning";
    case Phase::kPrecopied:
      return "Precopied";
    case Phase::kActive:
      return "Active";
    case Phase::kDraining:
      return "Draining";
  }
  return "?";
}

// An access ACL: owner rw-, user 1 r--, group r--, mask r--, others nothing.
std::string access_acl() {
  const unsigned char acl[] = {2,    0, 0, 0,                           // version
                               0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,   // owner
                               0x02, 0, 4, 0, 1,    0,    0,    0,      // user 1
                               0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,   // group
                               0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,   // mask
                               0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};  // others
  return {reinterpret_cast<const char*>(acl), sizeof acl};
}

void make_tree(DirectVolume& v) {
  ASSERT_EQ(v.make("file", pattern(1, 5 * 4096 + 100)), 0);
  ASSERT_EQ(v.make("other", pattern(2, 3 * 4096)), 0);
  ASSERT_EQ(v.make("empty", ""), 0);
  ASSERT_EQ(v.make("sparse", pattern(3, 4096)), 0);
  ASSERT_EQ(v.write("sparse", 5 * 4096, pattern(4, 4096)), 0);
  ASSERT_EQ(v.mkdir("dir"), 0);
  ASSERT_EQ(v.mkdir("dir/sub"), 0);
  ASSERT_EQ(v.mkdir("outside"), 0);
  ASSERT_EQ(v.make("dir/a", pattern(5, 2 * 4096)), 0);
  ASSERT_EQ(v.make("dir/sub/b", pattern(6, 4 * 4096)), 0);
  ASSERT_EQ(v.mkdir("dir/void"), 0);
  ASSERT_EQ(v.link("dir/a", "dir/a-link"), 0);
  ASSERT_EQ(v.symlink("../file", "dir/symlink"), 0);
  ASSERT_EQ(v.mknod("dir/fifo", S_IFIFO | 0600), 0);
  ASSERT_EQ(v.set_xattr("file", "user.color", "blue"), 0);
}

struct Operation {
  const char* name;
  std::function<int(DirectVolume&)> run;
  bool changes = true;  // false: it turns out to do nothing
};

void PrintTo(const Operation& operation, std::ostream* out) {
  *out << operation.name;
}

const std::vector<Operation>& operations() {
  static const timespec times[2] = {{1000000000, 1}, {1000000001, 234567890}};
  static const std::vector<Operation> all = {
      {"write", [](auto& v) { return v.write("file", 5000, pattern(90, 6000)); }},
      {"write_whole_track", [](auto& v) { return v.write("file", 4096, pattern(90, 4096)); }},
      {"append", [](auto& v) { return v.write("file", 5 * 4096 + 100, pattern(91, 9000)); }},
      {"write_far", [](auto& v) { return v.write("other", 40 * 4096, pattern(91, 100)); }},
      {"write_into_hole", [](auto& v) { return v.write("sparse", 2 * 4096 + 7, pattern(92, 50)); }},
      {"write_to_empty", [](auto& v) { return v.write("empty", 0, pattern(92, 5000)); }},
      {"write_hard_link", [](auto& v) { return v.write("dir/a-link", 0, pattern(92, 5000)); }},
      {"write_by_descriptor_of_unlinked_file",
       [](auto& v) {
         const int fd = v.open_file("dir/sub/b", O_RDWR);
         int r = v.unlink("dir/sub/b");
         if (r == 0) r = v.write_fd(fd, 100, pattern(95, 9000));
         close(fd);
         return r;
       }},
      {"truncate_down", [](auto& v) { return v.truncate("file", 6000); }},
      {"truncate_to_nothing", [](auto& v) { return v.truncate("file", 0); }},
      {"truncate_up", [](auto& v) { return v.truncate("file", 100000); }},
      {"truncate_down_and_up",
       [](auto& v) {
         const int r = v.truncate("file", 4097);
         return r != 0 ? r : v.truncate("file", 5 * 4096 + 100);
       }},
      {"truncate_by_write_only_descriptor",
       [](auto& v) {
         const int fd = v.open_file("file", O_WRONLY);
         const int r = v.truncate_fd(fd, 5000, false);
         close(fd);
         return r;
       }},
      {"punch_hole",
       [](auto& v) {
         return v.allocate("file", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192);
       }},
      {"zero_range",
       [](auto& v) {
         const int r = v.allocate("file", FALLOC_FL_ZERO_RANGE, 4000, 5000);
         return r == -EOPNOTSUPP ? v.write("file", 4000, std::string(5000, '\0')) : r;  // tmpfs
       }},
      {"allocate_up", [](auto& v) { return v.allocate("file", 0, 6 * 4096, 4096); }},
      {"allocate_hole", [](auto& v) { return v.allocate("sparse", 0, 4096, 8192); }},
      {"copy_file_range", [](auto& v) { return v.copy_range("other", 0, "file", 4096, 8192); }},
      {"create", [](auto& v) { return v.make("dir/new", pattern(93, 5000)); }},
      {"create_and_unlink",
       [](auto& v) {
         const int r = v.make("dir/new", pattern(93, 5000));
         return r != 0 ? r : v.unlink("dir/new");
       }},
      {"mkdir",
       [](auto& v) {
         const int r = v.mkdir("dir/newdir");
         return r != 0 ? r : v.make("dir/newdir/x", pattern(94, 5000));
       }},
      {"symlink", [](auto& v) { return v.symlink("nowhere", "dir/newlink"); }},
      {"mknod", [](auto& v) { return v.mknod("dir/newfifo", S_IFIFO | 0600); }},
      {"link", [](auto& v) { return v.link("file", "dir/file-link"); }},
      {"link_within_directory", [](auto& v) { return v.link("dir/a", "dir/a-third"); }},
      {"unlink", [](auto& v) { return v.unlink("file"); }},
      {"unlink_one_of_two_names", [](auto& v) { return v.unlink("dir/a"); }},
      {"unlink_both_names",
       [](auto& v) {
         const int r = v.unlink("dir/a");
         return r != 0 ? r : v.unlink("dir/a-link");
       }},
      {"unlink_and_create_again",
       [](auto& v) {
         const int r = v.unlink("file");
         return r != 0 ? r : v.make("file", pattern(96, 7000));
       }},
      {"unlink_symlink", [](auto& v) { return v.unlink("dir/symlink"); }},
      {"rmdir", [](auto& v) { return v.unlink("dir/void"); }},
      {"rename", [](auto& v) { return v.rename("file", "dir/renamed"); }},
      {"rename_over", [](auto& v) { return v.rename("other", "file"); }},
      {"replace_as_editors_do",
       [](auto& v) {
         const int r = v.make("file.tmp", pattern(97, 9999));
         return r != 0 ? r : v.rename("file.tmp", "file");
       }},
      {"rename_exchange", [](auto& v) { return v.rename("file", "dir/sub/b", RENAME_EXCHANGE); }},
      {"rename_over_own_hard_link", [](auto& v) { return v.rename("dir/a", "dir/a-link"); }, false},
      {"rename_directory", [](auto& v) { return v.rename("dir/sub", "moved"); }},
      {"rename_out_and_write",
       [](auto& v) {
         const int r = v.rename("dir/a", "outside/a");
         return r != 0 ? r : v.write("outside/a", 0, pattern(98, 4096));
       }},
      {"rename_tree_out_and_write",
       [](auto& v) {
         const int r = v.rename("dir/sub", "outside/sub");
         return r != 0 ? r : v.write("outside/sub/b", 4096, pattern(98, 4096));
       }},
      {"rename_tree_in_and_write",
       [](auto& v) {
         int r = v.mkdir("outside/tree");
         if (r == 0) r = v.make("outside/tree/x", pattern(99, 6000));
         if (r == 0) r = v.rename("outside/tree", "dir/tree");
         return r != 0 ? r : v.write("dir/tree/x", 10, pattern(98, 4096));
       }},
      {"exchange_directories", [](auto& v) { return v.rename("dir", "outside", RENAME_EXCHANGE); }},
      {"tmpfile_and_link",
       [](auto& v) {
         const int fd = v.tmpfile("dir");
         if (fd < 0) return fd;
         int r = v.write_fd(fd, 0, pattern(90, 10000));
         if (r == 0) r = v.link_fd(fd, "dir/linked");
         if (r == 0) r = v.write_fd(fd, 100, pattern(91, 10));
         close(fd);
         return r;
       }},
      {"chmod", [](auto& v) { return v.chmod("file", 04711); }},
      {"chmod_directory", [](auto& v) { return v.chmod("dir", 01777); }},
      {"utimes", [](auto& v) { return v.utimes("file", times); }},
      {"utimes_symlink", [](auto& v) { return v.utimes("dir/symlink", times); }},
      {"set_xattr", [](auto& v) { return v.set_xattr("dir/a", "user.x", "1"); }},
      {"change_xattr", [](auto& v) { return v.set_xattr("file", "user.color", "red"); }},
      {"remove_xattr", [](auto& v) { return v.remove_xattr("file", "user.color"); }},
      {"set_acl",
       [](auto& v) { return v.set_xattr("file", "system.posix_acl_access", access_acl()); }},
  };
  return all;
}

bool before_activation(Phase phase) {
  return phase == Phase::kCreated || phase == Phase::kPrecopyRunning || phase == Phase::kPrecopied;
}

// Runs one operation in one phase; returns what is wrong with the clone, "" if nothing.
std::string run(Where where, const Operation& operation, Phase phase,
                const std::vector<std::string>& selected, bool intercept, bool drain) {
  DirectVolume v(where);
  make_tree(v);
  CreateOptions options = v.options("c", selected);
  options.precopy = phase == Phase::kPrecopyRunning || phase == Phase::kPrecopied;
  options.activate = !before_activation(phase);
  const Status created = v.engine().create(options);
  if (!created) return "create: " + created.error().message;
  if (phase == Phase::kPrecopyRunning || phase == Phase::kDraining) v.engine().step("c");
  if (phase == Phase::kPrecopied) v.drain("c");

  Tree expected = v.capture(selected);
  v.intercept = intercept;
  const int r = operation.run(v);
  v.intercept = true;
  if (r != 0) return std::string("the operation itself: ") + std::strerror(-r);
  if (before_activation(phase)) {
    if (phase == Phase::kPrecopied) v.drain("c");
    const Status activated = v.engine().activate({"c"});
    if (!activated) return "activate: " + activated.error().message;
    expected = v.capture(selected);
  }
  std::string report = v.clone_difference("c", expected, selected);
  if (!report.empty()) return "at once:\n" + report;
  if (!drain) return "";

  if (!v.drain("c")) return "it does not drain";
  if (v.status("c").state != SessionState::kCopied) {
    return std::string("drained, it is ") + to_string(v.status("c").state) + " " +
           v.status("c").error;
  }
  report = v.clone_difference("c", expected, selected);
  if (!report.empty()) return "drained:\n" + report;
  report = v.plain_difference("c", expected, selected);
  if (!report.empty()) return "drained, in the pool:\n" + report;
  const Status terminated = v.engine().terminate({"c"}, false);
  if (!terminated) return "terminate: " + terminated.error().message;
  report = v.plain_difference("c", expected, selected);
  return report.empty() ? "" : "terminated, in the pool:\n" + report;
}

class Interception : public testing::TestWithParam<Operation> {};

TEST_P(Interception, clone_is_exact_in_every_phase) {
  for (const Where where : {Where::kMemory, Where::kDisk}) {
    for (const Phase phase : kPhases) {
      for (const std::vector<std::string>& selected :
           {std::vector<std::string>{"."}, {"dir"}, {"file", "dir/sub/b", "dir/a"}}) {
        if (where == Where::kDisk && selected.size() == 1 && selected[0] != ".") continue;  // syncs
        const std::string report = run(where, GetParam(), phase, selected, true, true);
        EXPECT_EQ(report, "") << name_of(phase) << ", " << selected[0]
                              << (where == Where::kDisk ? ", on disk" : ", in memory");
      }
    }
  }
}

TEST_P(Interception, is_needed) {
  if (!GetParam().changes) return;
  std::string report;
  for (const Phase phase : kPhases) {
    if (report.empty()) report = run(Where::kMemory, GetParam(), phase, {"."}, false, false);
  }
  EXPECT_NE(report, "") << "nothing looks whether the engine hears of this operation";
}

INSTANTIATE_TEST_SUITE_P(Operations, Interception, testing::ValuesIn(operations()),
                         [](const auto& param) { return std::string(param.param.name); });

// The directories that lead to selected paths show these only, whatever changes places above them.
TEST(InterceptionOfPaths, directories_above_change_places) {
  const std::vector<std::string> selected = {"dir/a", "outside/b"};
  struct Rename {
    const char *from, *to;
    unsigned flags = 0;
  };
  const std::vector<std::vector<Rename>> rows = {
      {{"dir", "outside", RENAME_EXCHANGE}},
      {{"dir", "outside", RENAME_EXCHANGE}, {"outside/a", "dir/a"}},
      {{"dir/a", "outside/a"}, {"outside/b", "dir/b"}, {"dir", "outside", RENAME_EXCHANGE}},
      {{"dir", "outside", RENAME_EXCHANGE}, {"dir", "outside", RENAME_EXCHANGE}},
      {{"dir", "gone"}, {"outside", "dir"}},
      {{"outside", "dir/a-dir"}, {"dir/a", "x"}, {"dir/a-dir", "dir/a"}},
  };
  for (const bool precopy : {false, true}) {
    for (size_t row = 0; row < rows.size(); ++row) {
      DirectVolume v;
      make_tree(v);
      ASSERT_EQ(v.make("outside/b", pattern(20, 5000)), 0);
      CreateOptions options = v.options("c", selected);
      options.precopy = precopy;
      ASSERT_TRUE(v.engine().create(options));
      for (const auto& [from, to, flags] : rows[row]) {
        ASSERT_EQ(v.rename(from, to, flags), 0) << from;
        v.engine().step("c");
      }
      ASSERT_TRUE(v.engine().activate({"c"}));
      EXPECT_EQ(v.clone_difference("c", v.capture(selected), selected), "") << row;
    }
  }
}

TEST(InterceptionAsRoot, chown_and_setuid) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const Operation chown = {"chown", [](auto& v) {
                             int r = v.chown("file", 1, 2);
                             if (r == 0) r = v.chown("dir/symlink", 3, 4);
                             return r != 0 ? r : v.chown("dir", 5, 6);
                           }};
  const Operation setuid = {"setuid", [](auto& v) {
                              const int r = v.chown("file", 1, 2);
                              return r != 0 ? r : v.chmod("file", 06755);
                            }};
  for (const Operation& operation : {chown, setuid}) {
    for (const Phase phase : kPhases) {
      EXPECT_EQ(run(Where::kDisk, operation, phase, {"."}, true, true), "")
          << operation.name << " " << name_of(phase);
    }
  }
}

// What COFW asks of the disk, and a hook in the checkpoint that follows a fence.
class CofwDisk : public ForwardingDisk {
 public:
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    ++calls;
    return ForwardingDisk::pread(fd, data, size, offset);
  }
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    ++calls;
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  int open_handle(int mount, const std::string& handle, int flags) override {
    ++calls;
    return ForwardingDisk::open_handle(mount, handle, flags);
  }
  int datasync(int fd) override {
    ++calls;
    if (in_checkpoint) in_checkpoint();
    return ForwardingDisk::datasync(fd);
  }
  unsigned calls = 0;
  std::function<void()> in_checkpoint;
};

TEST(InterceptionOfData, the_second_touch_of_a_track_asks_nothing_of_the_disk) {
  CofwDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  make_tree(v);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_TRUE(v.engine().create(options));
  disk.calls = 0;
  ASSERT_EQ(v.write("file", 100, "first"), 0);
  EXPECT_GT(disk.calls, 0u);
  disk.calls = 0;
  ASSERT_EQ(v.write("file", 200, "second"), 0);
  EXPECT_EQ(disk.calls, 0u);
}

// The time between the fence and the acknowledgement is a checkpoint and a commit: nobody who writes
// to what was durable before waits in it.
TEST(InterceptionOfData, what_was_precopied_is_overwritten_at_once_after_the_fence) {
  CofwDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  make_tree(v);
  CreateOptions options = v.options("c");
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.status("c").op_status, "precopied");
  const Tree expected = v.capture();
  bool written = false;
  disk.in_checkpoint = [&] {
    if (written || v.status("c").state != SessionState::kCopyInProgress) return;
    written = true;
    disk.calls = 0;
    EXPECT_EQ(v.write("file", 100, "after the fence"), 0);
    EXPECT_EQ(disk.calls, 0u);
  };
  ASSERT_TRUE(v.engine().activate({"c"}));
  EXPECT_TRUE(written);
  EXPECT_EQ(v.clone_difference("c", expected), "");
}

}  // namespace
}  // namespace clonefs::test
