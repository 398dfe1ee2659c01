// Who serves a request: workers, and which kinds are theirs.
#include "fs/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <thread>

#include "fs/slow_kinds.h"

namespace clonefs {
namespace {

TEST(SlowKinds, AKindThatWasSlowIsExpectedToBeForAWhile) {
  SlowKinds kinds;
  EXPECT_FALSE(kinds.expect(7));
  kinds.was(7, false);
  EXPECT_FALSE(kinds.expect(7));
  kinds.was(7, true);
  for (unsigned i = 0; i < SlowKinds::kFirst; ++i) EXPECT_TRUE(kinds.expect(7)) << i;
  EXPECT_FALSE(kinds.expect(7));
  EXPECT_FALSE(kinds.expect(8)) << "another kind";
}

TEST(SlowKinds, WhoSleepsOrTakesLongIsSlow) {
  bool quick = false;  // a busy machine may take any of them away from the processor
  for (int i = 0; i < 1000 && !quick; ++i) quick = !SlowKinds::Watch().slow();
  EXPECT_TRUE(quick);
  const SlowKinds::Watch sleeper;
  std::this_thread::sleep_for(std::chrono::microseconds(1));
  EXPECT_TRUE(sleeper.slow());
  const auto begin = std::chrono::steady_clock::now();
  const SlowKinds::Watch busy;
  while (std::chrono::steady_clock::now() - begin <= SlowKinds::kSlow) {
  }
  EXPECT_TRUE(busy.slow());
}

TEST(SlowKinds, TheWhileGrowsAndShrinks) {
  SlowKinds kinds;
  const auto expected = [&kinds] {
    unsigned count = 0;
    while (kinds.expect(1)) ++count;
    return count;
  };
  unsigned longest = 0;
  for (int i = 0; i < 20; ++i) {
    kinds.was(1, true);
    const unsigned now = expected();
    EXPECT_GE(now, longest);
    longest = now;
  }
  EXPECT_EQ(longest, SlowKinds::kLongest);
  for (int i = 0; i < 20; ++i) kinds.was(1, false);
  kinds.was(1, true);
  EXPECT_EQ(expected(), SlowKinds::kFirst);
}

TEST(SlowKinds, KindsOfTomorrowShareAPlace) {
  SlowKinds kinds;
  kinds.was(5000, true);
  EXPECT_TRUE(kinds.expect(4096));
}

TEST(WorkerPool, RunsAsManyAtATimeAsItMay) {
  std::atomic<int> begun{0};
  WorkerPool pool(3, [&begun] { ++begun; });
  std::latch together(3);
  std::promise<void> all;
  std::atomic<int> left{3};
  for (int i = 0; i < 3; ++i) {
    pool.post([&] {
      together.arrive_and_wait();  // no end unless three run at the same time
      if (--left == 0) all.set_value();
    });
  }
  ASSERT_EQ(all.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_EQ(begun, 3);
}

TEST(WorkerPool, StopRunsWhatWasPosted) {
  std::atomic<int> done{0};
  WorkerPool pool(2, [] {});
  std::promise<void> go;
  const std::shared_future<void> gate = go.get_future().share();
  for (int i = 0; i < 4; ++i) {  // two run, two wait
    pool.post([&, gate] {
      gate.wait();
      ++done;
    });
  }
  // One more finds no room until a job has ended.
  auto fifth = std::async(std::launch::async, [&] { pool.post([&done] { ++done; }); });
  EXPECT_EQ(fifth.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  go.set_value();
  fifth.get();
  pool.stop();
  EXPECT_EQ(done, 5);
}

}  // namespace
}  // namespace clonefs
