// RECREATE: what is copied again and what is not, who may touch the generation before, and what
// becomes of it. Exactness, power cuts and SIGKILL are the model's, the simulator's and kill_test's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

int code(const Status& status) {
  return status ? 0 : status.error().code;
}

// What is read of the volume's files.
class CountingDisk : public ForwardingDisk {
 public:
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    const ssize_t n = ForwardingDisk::pread(fd, data, size, offset);
    if (size >= 4096 && n > 0) read += static_cast<uint64_t>(n);
    return n;
  }
  uint64_t read = 0;
};

DirectVolume::Options fine(Disk* disk = nullptr) {
  DirectVolume::Options options;
  options.disk = disk;
  options.ctime_tick = std::chrono::nanoseconds(1);
  return options;
}

RecreateOptions recreate_of(const std::string& name, bool in_place = false, unsigned keep = 0) {
  RecreateOptions options;
  options.names = {name};
  options.in_place = in_place;
  options.keep = keep;
  return options;
}

void copy_and_drain(DirectVolume& v, const std::string& name) {
  CreateOptions options = v.options(name);
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_TRUE(v.drain(name));
}

enum class End { kNone, kClean, kKilled };

class Tracking : public testing::TestWithParam<End> {};

// A large file of which two tracks change, one of them cut off and written again.
TEST_P(Tracking, in_place_only_the_tracks_that_were_written_are_copied) {
  CountingDisk disk;
  DirectVolume v(fine(&disk));
  ASSERT_EQ(v.make("big", pattern(1, 64 * 4096)), 0);
  ASSERT_EQ(v.make("hole", ""), 0);
  ASSERT_EQ(v.write("hole", 63 * 4096, pattern(2, 4096)), 0);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_EQ(v.write("big", 5 * 4096, pattern(3, 100)), 0);  // before it is drained
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.write("big", 9 * 4096 + 7, pattern(4, 50)), 0);
  ASSERT_EQ(v.write("hole", 4096, pattern(5, 50)), 0);
  if (GetParam() == End::kClean) {
    ASSERT_EQ(code(v.reopen()), 0);
  }
  if (GetParam() == End::kKilled) {
    ASSERT_EQ(code(v.kill_reopen()), 0);
  }
  ASSERT_EQ(v.write("big", 11 * 4096, pattern(6, 50)), 0);
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c", true))), 0);
  disk.read = 0;
  // After an unclean end nothing is known: all is compared.
  const bool known = GetParam() != End::kKilled;
  if (known) {
    EXPECT_EQ(v.status("c").tracks_pending, 4u);
  } else {
    EXPECT_GE(v.status("c").tracks_pending, 65u);
  }
  ASSERT_EQ(code(v.engine().precopy({"c"})), 0);
  ASSERT_TRUE(v.drain("c"));
  if (known) {
    EXPECT_LE(disk.read, 4u * 4096);
  } else {
    EXPECT_GT(disk.read, 66u * 4096);
  }
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  const Tree expected = v.capture();
  EXPECT_EQ(v.clone_difference("c", expected), "");
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.plain_difference("c", expected), "");
  EXPECT_EQ(v.damage("c"), "");
}

INSTANTIATE_TEST_SUITE_P(Ends, Tracking, testing::Values(End::kNone, End::kClean, End::kKilled));

// Noting takes nobody's time once all is drained, and ends with the session.
TEST(Refresh, changes_that_are_only_noted_do_not_wait) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("big", pattern(1, 64 * 4096)), 0);
  copy_and_drain(v, "c");
  EXPECT_FALSE(v.engine().changes_may_wait());
  ASSERT_EQ(code(v.engine().create(v.options("d"))), 0);
  EXPECT_TRUE(v.engine().changes_may_wait());
}

// The hidden name of a removed file goes when nobody needs it, though its changes were noted.
TEST(Refresh, what_is_only_noted_keeps_no_removed_file) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("big", pattern(1, 64 * 4096)), 0);
  copy_and_drain(v, "noting");
  copy_and_drain(v, "c");
  CreateOptions options = v.options("d");
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_EQ(v.unlink("big"), 0);
  Tree limbo;
  const auto look = [&] {
    limbo.clear();
    const int dir = ::open((v.directory() + "/.clonefs/limbo").c_str(), O_PATH | O_CLOEXEC);
    capture(dir, ".", limbo);
    ::close(dir);
    return limbo.size() - 1;
  };
  EXPECT_EQ(look(), 1u);
  ASSERT_TRUE(v.drain("d"));
  EXPECT_EQ(look(), 0u);
}

TEST(Refresh, the_generation_before_is_frozen_and_shows_its_own_names) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  ASSERT_EQ(v.make("b", pattern(2, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  const Tree before = v.capture();
  {
    const auto own = v.open_clone("c", "b");
    ASSERT_EQ(own.file->write("x", 1, 0), 1);
  }
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c"))), 0);
  EXPECT_EQ(v.status("c").tracks_inherited, 5u) << "a; b is the clone user's";
  const auto open = v.open_clone("c", "a");
  EXPECT_EQ(open.file->write("x", 1, 0), -EROFS);
  EXPECT_EQ(open.clone->refuses_change(), EROFS);
  struct stat st {};
  ASSERT_EQ(fstat(open.fd, &st), 0);
  EXPECT_EQ(st.st_nlink, 2u);
  open.clone->present(&st);
  EXPECT_EQ(st.st_nlink, 1u);
  // And taken back.
  ASSERT_EQ(code(v.engine().terminate({"c"}, true)), 0);
  EXPECT_EQ(v.status("c").state, SessionState::kCopied);
  EXPECT_EQ(open.file->write("x", 1, 0), 1);
}

TEST(Refresh, the_next_generation_waits_until_nobody_uses_the_one_before) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  const Tree before = v.capture();
  ASSERT_EQ(v.write("a", 0, pattern(3, 4096)), 0);
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c"))), 0);
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  {
    const auto use = (*clone)->use();
    ASSERT_NE(use, nullptr);
    EXPECT_EQ(code(v.engine().activate({"c"})), EBUSY);
    EXPECT_EQ(v.clone_difference("c", before), "");
  }
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_EQ((*clone)->error(), ESTALE);
  EXPECT_EQ((*clone)->use(), nullptr);
  EXPECT_EQ(v.clone_difference("c", v.capture()), "");
}

TEST(Refresh, generations_turn) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("a", "0"), 0);
  copy_and_drain(v, "c");
  const auto content = [&](const std::string& name) {
    const auto open = v.open_clone(name, "a", O_RDONLY);
    return open ? read_clone_file(*open.file, 1) : std::string("none");
  };
  for (int i = 1; i <= 4; ++i) {
    ASSERT_EQ(v.write("a", 0, std::to_string(i)), 0);
    ASSERT_EQ(code(v.engine().recreate(recreate_of("c", false, 2))), 0);
    ASSERT_EQ(code(v.engine().activate({"c"})), 0);
    ASSERT_TRUE(v.drain("c"));
  }
  EXPECT_EQ(content("c") + content("c.1") + content("c.2") + content("c.3"), "432none");
  EXPECT_EQ(v.status("c.1").state, SessionState::kTerminated);
  EXPECT_EQ(code(v.engine().recreate(recreate_of("c.1"))), EINVAL) << "is an older generation";
  ASSERT_EQ(code(v.kill_reopen()), 0);
  EXPECT_EQ(content("c") + content("c.1") + content("c.2") + content("c.3"), "432none");
  // Fewer from now on.
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c", false, 1))), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_EQ(content("c") + content("c.1") + content("c.2"), "44none");
}

// What changed within the clock's grain of the consistency point may have changed after it unseen.
TEST(Refresh, what_may_have_changed_unseen_is_copied) {
  DirectVolume::Options options;
  options.ctime_tick = std::chrono::hours(1);
  DirectVolume v(options);
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c"))), 0);
  EXPECT_EQ(v.status("c").tracks_inherited, 0u);
  EXPECT_EQ(v.status("c").tracks_pending, 5u);
}

}  // namespace
}  // namespace clonefs::test
