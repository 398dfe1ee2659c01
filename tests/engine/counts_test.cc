// What the engine counts of itself: latencies of COFW and of fences, failures, refusals.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "engine/fence.h"
#include "engine/latency.h"
#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(Latency, bounds_are_1_2_5_from_a_microsecond_to_50_seconds) {
  constexpr auto& bounds = LatencyCounts::kBoundsNs;
  EXPECT_EQ(bounds.front(), 1000u);
  EXPECT_EQ(bounds[1], 2000u);
  EXPECT_EQ(bounds[2], 5000u);
  EXPECT_EQ(bounds[3], 10000u);
  EXPECT_EQ(bounds.back(), 50'000'000'000u);
  EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
}

TEST(Latency, each_note_is_in_the_bucket_whose_bound_it_does_not_exceed) {
  LatencyHistogram h;
  for (const uint64_t bound : LatencyCounts::kBoundsNs) {
    h.note_ns(bound);
    h.note_ns(bound + 1);
  }
  h.note_ns(0);
  const LatencyCounts c = h.counts();
  EXPECT_EQ(c.counts.front(), 2u);  // 0 and the bound
  for (size_t i = 1; i < LatencyCounts::kBounds; ++i) EXPECT_EQ(c.counts[i], 2u) << i;
  EXPECT_EQ(c.counts.back(), 1u);
  EXPECT_EQ(c.count(), 2 * LatencyCounts::kBounds + 1);
  EXPECT_EQ(c.max_ns, LatencyCounts::kBoundsNs.back() + 1);
  EXPECT_EQ(c.last_ns, 0u);
}

TEST(Latency, threads_lose_nothing) {
  LatencyHistogram h;
  std::vector<std::thread> threads;
  for (uint64_t i = 1; i <= 4; ++i)
    threads.emplace_back([&h, i] {
      for (int n = 0; n < 10000; ++n) h.note(microseconds(i));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(h.counts().count(), 40000u);
  EXPECT_EQ(h.counts().sum_ns, 10000u * (1 + 2 + 3 + 4) * 1000);
  EXPECT_EQ(h.counts().max_ns, 4000u);
}

TEST(Counts, only_changes_that_wait_for_a_copy_are_counted) {
  DirectVolume v;
  ASSERT_EQ(v.make("f", pattern(1, 8 * 4096)), 0);
  ASSERT_EQ(v.write("f", 0, "before"), 0);
  for (const char* name : {"a", "b"}) ASSERT_TRUE(v.engine().create(v.options(name, {"f"})));
  ASSERT_TRUE(v.engine().activate({"a", "b"}));
  EXPECT_EQ(v.engine().counts().cofw.count(), 0u);
  ASSERT_EQ(v.write("f", 0, "x"), 0);
  ASSERT_EQ(v.write("f", 1, "y"), 0);                     // the track is there already
  ASSERT_EQ(v.write("f", 4096, pattern(2, 2 * 4096)), 0);  // two tracks, one change
  const EngineCounts counts = v.engine().counts();
  EXPECT_EQ(counts.cofw.count(), 2u);
  EXPECT_GT(counts.cofw.sum_ns, 0u);
  EXPECT_EQ(counts.cofw_tracks, 6u);  // three, for each of two clones
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(v.status(name).cofw_latency.count(), 2u);
    EXPECT_EQ(v.status(name).cofw_tracks, 3u);
  }
  // They outlive their clones.
  ASSERT_TRUE(v.engine().terminate({"a", "b"}, true));
  EXPECT_EQ(v.engine().counts().cofw.count(), 2u);
}

TEST(Counts, each_activation_is_one_fence) {
  DirectVolume v;
  ASSERT_EQ(v.make("f", "x"), 0);
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(v.engine().create(v.options(name, {"f"})));
  ASSERT_TRUE(v.engine().activate({"a", "b"}));
  EXPECT_EQ(v.engine().counts().fence.count(), 1u);
  EXPECT_EQ(v.engine().counts().fence.last_ns, v.status("a").fence_ns);
  ASSERT_TRUE(v.engine().activate({"c"}));
  EXPECT_EQ(v.engine().counts().fence.count(), 2u);
  EXPECT_FALSE(v.engine().activate({"c"}));
  EXPECT_EQ(v.engine().counts().fence.count(), 2u);
}

TEST(Counts, a_change_that_waits_at_the_fence_is_counted) {
  detail::Fence fence(milliseconds(1000));
  fence.leave(fence.enter());
  EXPECT_EQ(fence.waits().count(), 0u);
  fence.close();
  fence.leave(fence.enter());  // it waits for the limit, and opens the fence then
  EXPECT_EQ(fence.waits().count(), 1u);
  EXPECT_GE(fence.waits().max_ns, 500u * 1000 * 1000);
  EXPECT_EQ(fence.longest_wait_ns(), fence.waits().max_ns);
  fence.close();
  EXPECT_EQ(fence.longest_wait_ns(), 0u);  // at this one
  fence.open([] {});
}

}  // namespace
}  // namespace clonefs::test
