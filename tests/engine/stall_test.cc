// A pool that does not answer: a program that writes to the volume waits for it no longer than the
// stall limit, and what happens then goes by the policy.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "engine/fence.h"
#include "engine/pool_guard.h"
#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"
#include "tests/engine/gate.h"

namespace clonefs::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
constexpr milliseconds kLimit{1000};

// Calls on the pool's files pass a gate.
class HangingDisk : public ForwardingDisk {
 public:
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    pass(fd);
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  int datasync(int fd) override {
    pass(fd);
    return ForwardingDisk::datasync(fd);
  }
  int statvfs(int fd, struct statvfs* st) override {
    pass(fd);
    return ForwardingDisk::statvfs(fd, st);
  }
  int utimes(int fd, const timespec times[2]) override {
    pass(fd);
    return ForwardingDisk::utimes(fd, times);
  }
  Gate gate;
  std::atomic<dev_t> pool{0};

 private:
  void pass(int fd) {
    struct stat st{};
    if (pool != 0 && ForwardingDisk::stat(fd, "", &st) == 0 && st.st_dev == pool) gate.pass();
  }
};

class Stall : public testing::TestWithParam<Durability> {
 protected:
  void start(OnError policy, milliseconds limit = kLimit) {
    DirectVolume::Options o;
    o.disk = &disk_;
    o.where = Where::kMemory;
    o.pool = Where::kDisk;
    o.durability = GetParam();
    o.on_error = policy;
    o.stall_limit = limit;
    volume_ = std::make_unique<DirectVolume>(o);
    struct stat st{};
    ASSERT_EQ(::stat(volume_->engine().pool_path().c_str(), &st), 0);
    disk_.pool = st.st_dev;
    ASSERT_EQ(::stat(volume_->directory().c_str(), &st), 0);
    if (disk_.pool == st.st_dev) GTEST_SKIP() << "/dev/shm and TMPDIR are one file system";
    ASSERT_EQ(volume_->make("file", before_), 0);
    CreateOptions options = volume_->options("clone");
    options.activate = true;
    ASSERT_TRUE(volume_->engine().create(options));
    options = volume_->options("precopied");
    options.precopy = true;
    ASSERT_TRUE(volume_->engine().create(options));
    ASSERT_TRUE(volume_->drain("precopied"));
  }
  void TearDown() override { disk_.gate.open(); }

  const std::string before_ = pattern(1, 40960);
  HangingDisk disk_;
  std::unique_ptr<DirectVolume> volume_;
};

TEST_P(Stall, a_pool_that_nobody_asked_yet_is_asked_whether_it_answers) {
  ASSERT_NO_FATAL_FAILURE(start(OnError::kFailClone));
  if (IsSkipped()) return;
  DirectVolume& v = *volume_;
  EXPECT_TRUE(v.engine().pool_answers());
  disk_.gate.close();
  EXPECT_FALSE(v.engine().pool_answers());
  disk_.gate.open();
  const auto end = std::chrono::steady_clock::now() + kForever;
  while (!v.engine().pool_answers()) ASSERT_LT(std::chrono::steady_clock::now(), end);
}

TEST_P(Stall, with_fail_clone_the_write_goes_on_and_the_clone_is_failed) {
  ASSERT_NO_FATAL_FAILURE(start(OnError::kFailClone));
  if (IsSkipped()) return;
  DirectVolume& v = *volume_;
  disk_.gate.close();
  auto written = std::async(std::launch::async, [&] { return v.write("file", 4096, "new"); });
  ASSERT_TRUE(disk_.gate.wait_for_somebody());
  ASSERT_EQ(written.wait_for(kForever), std::future_status::ready);
  EXPECT_EQ(written.get(), 0);
  EXPECT_EQ(v.content("file").substr(4096, 3), "new");
  SessionStatus s = v.status("clone");
  EXPECT_EQ(s.state, SessionState::kFailed);
  EXPECT_NE(s.error.find("did not answer for 1 s"), std::string::npos) << s.error;
  EXPECT_FALSE(v.engine().pool_answers());
  // The pool could not take it: the volume says so.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(v.directory() + "/.clonefs/lost"),
                          std::filesystem::directory_iterator()),
            1);
  // Who does not depend on the pool notices nothing.
  EXPECT_EQ(v.write("file", 8192, "more"), 0);
  EXPECT_EQ(v.make("other", "x"), 0);
  EXPECT_EQ(v.status("precopied").state, SessionState::kPrecopy);

  disk_.gate.open();
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_EQ(v.status("clone").state, SessionState::kFailed);
  EXPECT_TRUE(std::filesystem::is_empty(v.directory() + "/.clonefs/lost"));
  ASSERT_TRUE(v.engine().activate({"precopied"}));
  const Tree expected = v.capture();
  ASSERT_TRUE(v.drain("precopied"));
  EXPECT_EQ(v.plain_difference("precopied", expected), "");
}

TEST_P(Stall, with_fail_write_the_write_is_refused_and_the_clone_stays_whole) {
  ASSERT_NO_FATAL_FAILURE(start(OnError::kFailWrite));
  if (IsSkipped()) return;
  DirectVolume& v = *volume_;
  const Tree expected = v.capture();
  disk_.gate.close();
  auto written = std::async(std::launch::async, [&] { return v.write("file", 4096, "new"); });
  ASSERT_TRUE(disk_.gate.wait_for_somebody());
  ASSERT_EQ(written.wait_for(kForever), std::future_status::ready);
  EXPECT_EQ(written.get(), -EIO);
  EXPECT_EQ(v.content("file"), before_);
  EXPECT_EQ(v.status("clone").state, SessionState::kCopyInProgress);
  // Once is enough: the next does not wait.
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(v.write("file", 8192, "new"), -EIO);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kLimit);

  disk_.gate.open();
  int r = -EIO;
  for (const auto end = begin + kForever; r == -EIO && std::chrono::steady_clock::now() < end;)
    r = v.write("file", 4096, "new");
  EXPECT_EQ(r, 0);
  EXPECT_EQ(v.clone_difference("clone", expected), "");
  ASSERT_TRUE(v.drain("clone"));
  EXPECT_EQ(v.plain_difference("clone", expected), "");
}

TEST_P(Stall, before_activation_nothing_waits_for_the_pool) {
  ASSERT_NO_FATAL_FAILURE(start(OnError::kFailClone));
  if (IsSkipped()) return;
  DirectVolume& v = *volume_;
  ASSERT_TRUE(v.engine().terminate({"clone"}, true));
  disk_.gate.close();
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(v.write("file", static_cast<uint64_t>(i) * 4096, "new"), 0);
  EXPECT_EQ(v.truncate("file", 100), 0);
  EXPECT_EQ(v.make("file2", "x"), 0);
  EXPECT_EQ(v.rename("file2", "file"), 0);
  disk_.gate.open();
  EXPECT_TRUE(v.engine().pool_answers());
  ASSERT_TRUE(v.engine().activate({"precopied"}));
  const Tree expected = v.capture();
  ASSERT_TRUE(v.drain("precopied"));
  EXPECT_EQ(v.plain_difference("precopied", expected), "");
}

// The pool stops answering while ACTIVATE keeps changes out.
TEST_P(Stall, an_activation_keeps_changes_out_no_longer_than_the_limit) {
  ASSERT_NO_FATAL_FAILURE(start(OnError::kFailClone, seconds(2)));
  if (IsSkipped()) return;
  DirectVolume& v = *volume_;
  std::atomic<uint64_t> changes{0};
  std::atomic<bool> stop{false};
  std::thread program([&] {
    for (; !stop; ++changes) (void)v.engine().change_attributes(0);
  });
  std::future<Status> activated;
  // A change is under way when the fence is closed; what it did is brought up to date within.
  v.before_end = [&] {
    activated = std::async(std::launch::async, [&] { return v.engine().activate({"precopied"}); });
    // Closed: the program has not come through for a while.
    auto since = std::chrono::steady_clock::now();
    for (uint64_t seen = 0; std::chrono::steady_clock::now() - since < milliseconds(500);) {
      if (const uint64_t all = changes; all != seen) {
        seen = all;
        since = std::chrono::steady_clock::now();
      }
    }
    disk_.gate.close();
  };
  ASSERT_EQ(v.chmod("file", 0640), 0);
  v.before_end = nullptr;
  ASSERT_TRUE(disk_.gate.wait_for_somebody());
  // The program goes on, although the pool does not.
  const uint64_t before = changes;
  const auto end = std::chrono::steady_clock::now() + kForever;
  while (changes < before + 1000 && std::chrono::steady_clock::now() < end) {
  }
  EXPECT_GE(changes, before + 1000);
  disk_.gate.open();
  const Status status = activated.get();
  stop = true;
  program.join();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ETIMEDOUT) << status.error().message;
  EXPECT_EQ(v.status("precopied").state, SessionState::kPrecopy);
  ASSERT_TRUE(v.engine().activate({"precopied"}));
  const Tree expected = v.capture();
  ASSERT_TRUE(v.drain("precopied"));
  EXPECT_EQ(v.plain_difference("precopied", expected), "");
}

INSTANTIATE_TEST_SUITE_P(Durability, Stall,
                         testing::Values(Durability::kPower, Durability::kRelaxed),
                         [](const auto& p) { return std::string(to_string(p.param)); });

TEST(PoolGuard, results_nested_jobs_and_more_jobs_than_threads) {
  detail::PoolGuard guard(kForever);
  EXPECT_EQ(guard.run([](const auto&) { return 7; }), 7);
  EXPECT_EQ(guard.run([&](const auto&) { return guard.run([](const auto&) { return 8; }).value(); }),
            8);
  Gate gate;
  gate.close();
  std::vector<std::future<std::optional<int>>> results;
  for (int i = 0; i < 100; ++i) {
    results.push_back(std::async(std::launch::async, [&guard, &gate, i] {
      return guard.run([&gate, i](const auto&) {
        gate.pass();
        return i;
      });
    }));
  }
  ASSERT_TRUE(gate.wait_for_somebody());
  gate.open();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].get(), i);
}

TEST(PoolGuard, what_gets_on_may_take_its_time) {
  detail::PoolGuard guard(kLimit);
  const auto begin = std::chrono::steady_clock::now();
  const auto result = guard.run([&](const detail::PoolGuard::Progress& progress) {
    while (std::chrono::steady_clock::now() - begin < 3 * kLimit) progress();
    return 1;
  });
  EXPECT_EQ(result, 1);
}

TEST(Fence, that_is_closed_for_longer_than_its_limit_is_opened_by_who_waits) {
  detail::Fence fence(kLimit);
  fence.close();
  const unsigned slot = fence.enter();  // after the limit
  bool committed = false;
  EXPECT_FALSE(fence.open([&] { committed = true; }));
  EXPECT_FALSE(committed);
  fence.leave(slot);
  fence.close();
  EXPECT_TRUE(fence.open([&] { committed = true; }));
  EXPECT_TRUE(committed);
}

}  // namespace
}  // namespace clonefs::test
