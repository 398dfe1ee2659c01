// RECREATE: what is copied again and what is not, who may touch the generation before, and what
// becomes of it. Exactness, power cuts and SIGKILL are the model's, the simulator's and kill_test's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"
#include "tests/engine/sharing_disk.h"

namespace clonefs::test {
namespace {

int code(const Status& status) {
  return status ? 0 : status.error().code;
}

// What is read of the volume's files.
template <class Base>
class Counting : public Base {
 public:
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    const ssize_t n = Base::pread(fd, data, size, offset);
    if (size >= 4096 && n > 0) read += static_cast<uint64_t>(n);
    return n;
  }
  std::atomic<uint64_t> read{0};
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

// Who used it a second ago is in it still.
DirectVolume::Options quiet_after_a_second() {
  DirectVolume::Options options = fine();
  options.quiet = std::chrono::milliseconds(1000);
  return options;
}

enum class End { kNone, kClean, kKilled };

class Tracking : public testing::TestWithParam<End> {};

// A large file of which two tracks change, one of them cut off and written again.
TEST_P(Tracking, in_place_only_the_tracks_that_were_written_are_copied) {
  Counting<ForwardingDisk> disk;
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

// Who goes through it by paths has nothing open between two files.
TEST(Refresh, what_was_used_a_moment_ago_is_in_use) {
  DirectVolume v(quiet_after_a_second());
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  ASSERT_EQ(code(v.engine().recreate(recreate_of("c"))), 0);
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  (*clone)->use().reset();
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      (*clone)->use().reset();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  EXPECT_EQ(code(v.engine().activate({"c"})), EBUSY);
  stop = true;
  reader.join();
  // Once: activate waits for the rest of it.
  const auto begin = std::chrono::steady_clock::now();
  (*clone)->use().reset();
  EXPECT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, quiet_after_a_second().quiet);
}

// close() returns before the engine hears of it.
TEST(Refresh, who_closes_at_this_moment_is_waited_for) {
  DirectVolume v(quiet_after_a_second());
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  const auto with_open = [&](bool write, const std::function<Status()>& command) {
    auto use = (*clone)->use(write);
    std::thread closer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      use.reset();
    });
    const int result = code(command());
    closer.join();
    return result;
  };
  EXPECT_EQ(with_open(true, [&] { return v.engine().recreate(recreate_of("c")); }), 0);
  EXPECT_EQ(with_open(false, [&] { return v.engine().activate({"c"}); }), 0);
  ASSERT_TRUE(v.drain("c"));
  clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  EXPECT_EQ(with_open(false, [&] { return v.engine().recreate(recreate_of("c", true)); }), 0);
}

TEST(Refresh, writers_are_not_cut_off) {
  DirectVolume v(fine());
  ASSERT_EQ(v.make("a", pattern(1, 5 * 4096)), 0);
  copy_and_drain(v, "c");
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  {
    const auto reads = (*clone)->use();
    const auto writes = (*clone)->use(true);
    EXPECT_EQ(code(v.engine().recreate(recreate_of("c"))), EBUSY);
    EXPECT_EQ((*clone)->refuses_change(), 0);
  }
  const auto reads = (*clone)->use();
  EXPECT_EQ(code(v.engine().recreate(recreate_of("c"))), 0);
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

// --- blocks that are shared with the generation before

class Sharing : public testing::Test {
 protected:
  static constexpr uint64_t kTracks = 64;

  class Disk : public Counting<SharingDisk> {
   public:
    int statvfs(int fd, struct statvfs* fs) override {
      const int e = SharingDisk::statvfs(fd, fs);
      if (full) fs->f_bavail = 8;
      return e;
    }
    bool full = false;
  };

  void SetUp() override {
    v_ = std::make_unique<DirectVolume>(fine(&disk_));
    ASSERT_EQ(v_->make("big", pattern(1, kTracks * 4096)), 0);
    ASSERT_EQ(v_->make("small", pattern(2, 100)), 0);
    ASSERT_EQ(v_->link("small", "again"), 0);
    copy_and_drain(*v_, "c");
  }
  // A generation more, all of it precopied: c is then what the volume is.
  void recreate(unsigned keep) {
    ASSERT_EQ(code(v_->engine().recreate(recreate_of("c", false, keep))), 0);
    disk_.read = 0;
    ASSERT_EQ(code(v_->engine().precopy({"c"})), 0);
    ASSERT_TRUE(v_->drain("c"));
  }
  void activate_and_compare() {
    ASSERT_EQ(code(v_->engine().activate({"c"})), 0);
    const Tree expected = v_->capture();
    EXPECT_EQ(v_->clone_difference("c", expected), "");
    ASSERT_TRUE(v_->drain("c"));
    EXPECT_EQ(v_->plain_difference("c", expected), "");
    EXPECT_EQ(v_->damage("c"), "");
  }

  Disk disk_;
  std::unique_ptr<DirectVolume> v_;
};

TEST_F(Sharing, of_a_file_that_changed_what_did_not_is_shared) {
  ASSERT_EQ(v_->write("big", 9 * 4096 + 7, pattern(4, 50)), 0);
  recreate(0);
  EXPECT_EQ(v_->status("c").tracks_inherited, kTracks);  // and the small file with two names
  EXPECT_EQ(disk_.read, 4096u);
  activate_and_compare();
}

// After an unclean end it is not known any more.
TEST_F(Sharing, what_is_not_known_is_not_shared) {
  ASSERT_EQ(v_->write("big", 9 * 4096 + 7, pattern(4, 50)), 0);
  ASSERT_EQ(code(v_->kill_reopen()), 0);
  recreate(0);
  EXPECT_EQ(v_->status("c").tracks_inherited, 1u) << "the small file";
  EXPECT_GE(disk_.read, kTracks * 4096);
  activate_and_compare();
}

TEST_F(Sharing, generations_that_are_kept_have_files_of_their_own) {
  const Tree before = v_->capture();
  recreate(1);
  EXPECT_EQ(v_->status("c").tracks_inherited, kTracks + 1);
  EXPECT_EQ(disk_.read, 0u);
  activate_and_compare();
  for (const char* file : {"big", "small"}) {
    const auto open = v_->open_clone("c", file);
    ASSERT_EQ(open.file->write("mine", 4, 10), 4);
  }
  EXPECT_EQ(v_->clone_difference("c.1", before), "");
}

TEST_F(Sharing, not_what_the_clones_user_changed) {
  {
    const auto open = v_->open_clone("c", "big");
    struct stat st {};
    ASSERT_EQ(fstat(open.fd, &st), 0);
    ASSERT_EQ(open.file->write("mine", 4, 10), 4);
    const timespec times[2] = {st.st_atim, st.st_mtim};  // and nothing shows it
    ASSERT_EQ(futimens(open.fd, times), 0);
  }
  recreate(0);
  EXPECT_EQ(v_->status("c").tracks_inherited, 1u);
  activate_and_compare();
}

TEST_F(Sharing, what_grew_or_was_cut_off) {
  ASSERT_EQ(v_->truncate("big", kTracks * 4096 - 100), 0);
  ASSERT_EQ(v_->write("big", kTracks * 4096 + 50, "end"), 0);
  ASSERT_EQ(v_->truncate("small", 90), 0);
  recreate(1);
  EXPECT_EQ(v_->status("c").tracks_inherited, kTracks - 1);
  activate_and_compare();
}

TEST_F(Sharing, what_is_written_meanwhile_is_copied_again) {
  ASSERT_EQ(v_->write("big", 0, "x"), 0);
  ASSERT_EQ(code(v_->engine().recreate(recreate_of("c"))), 0);
  ASSERT_EQ(code(v_->engine().precopy({"c"})), 0);
  ASSERT_TRUE(v_->engine().step_read("c"));
  ASSERT_EQ(v_->write("big", 20 * 4096, "before it is put"), 0);
  unsigned shared = 0;
  disk_.before_sharing = [&] {
    if (++shared == 2) {  // after 1 to 19
      ASSERT_EQ(v_->write("big", 21 * 4096, "while it is put"), 0);
    }
  };
  v_->engine().step_finish("c");
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_GE(shared, 2u);
  EXPECT_LT(v_->status("c").tracks_inherited, kTracks);
  activate_and_compare();
}

TEST_F(Sharing, what_cannot_be_shared_after_all_is_copied) {
  ASSERT_EQ(v_->write("big", 0, "x"), 0);
  ASSERT_EQ(code(v_->engine().recreate(recreate_of("c"))), 0);
  unsigned asked = 0;
  disk_.before_sharing = [&] {
    if (++asked == 2) disk_.error = -EIO;  // not the probe
  };
  disk_.read = 0;
  ASSERT_EQ(code(v_->engine().precopy({"c"})), 0);
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(v_->status("c").tracks_inherited, 0u);
  EXPECT_EQ(asked, 2u + 1) << "big, small";
  EXPECT_GE(disk_.read, (kTracks - 1) * 4096);
  activate_and_compare();
}

// What was to be shared when the activation came: the generation before is another's then.
TEST_F(Sharing, ends_with_the_activation) {
  const Tree before = v_->capture();
  ASSERT_EQ(v_->write("big", 0, "x"), 0);
  ASSERT_EQ(code(v_->engine().recreate(recreate_of("c", false, 1))), 0);
  ASSERT_EQ(code(v_->engine().precopy({"c"})), 0);
  ASSERT_TRUE(v_->engine().step_read("c"));
  ASSERT_EQ(code(v_->engine().activate({"c"})), 0);
  const Tree expected = v_->capture();
  {
    const auto open = v_->open_clone("c.1", "big");
    const std::string mine(kTracks * 4096, '!');
    ASSERT_EQ(open.file->write(mine.data(), mine.size(), 0), static_cast<ssize_t>(mine.size()));
  }
  v_->engine().step_finish("c");
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(v_->plain_difference("c", expected), "");
}

TEST_F(Sharing, needs_no_room) {
  ASSERT_EQ(v_->write("big", 9 * 4096 + 7, pattern(4, 50)), 0);
  disk_.full = true;
  ASSERT_EQ(code(v_->engine().recreate(recreate_of("c", false, 1))), 0);
  EXPECT_EQ(code(v_->engine().activate({"c"})), ENOSPC) << "what is not shared by then is copied";
  ASSERT_EQ(code(v_->engine().precopy({"c"})), 0);
  ASSERT_TRUE(v_->drain("c"));
  activate_and_compare();
  ASSERT_EQ(v_->write("big", 10 * 4096, pattern(5, 10 * 4096)), 0);
  EXPECT_EQ(code(v_->engine().recreate(recreate_of("c", false, 1))), ENOSPC);
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
