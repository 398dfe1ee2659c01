// The picture of a session's tracks, and the samples of its progress.
#include <gtest/gtest.h>

#include "engine/progress.h"
#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

constexpr uint64_t kTrack = 4096;

std::string counts(const TrackMap::Cell& c) {
  return std::to_string(c.waiting) + " " + std::to_string(c.precopied) + " " +
         std::to_string(c.rewritten) + " " + std::to_string(c.drained) + " " + std::to_string(c.outside);
}

// All of the map, however many cells.
std::string totals(DirectVolume& v, size_t cells) {
  const auto map = v.engine().track_map("c", cells);
  if (!map) return map.error().message;
  EXPECT_LE(map->cells.size(), cells);
  TrackMap::Cell sum;
  for (const auto& c : map->cells) {
    EXPECT_LE(c.waiting + c.precopied + c.rewritten + c.drained + c.outside, map->tracks_per_cell);
    sum.waiting += c.waiting;
    sum.precopied += c.precopied;
    sum.rewritten += c.rewritten;
    sum.drained += c.drained;
    sum.outside += c.outside;
  }
  return counts(sum);
}

TEST(TrackMap, ShowsEachState) {
  DirectVolume v;
  ASSERT_EQ(v.make("a", pattern(1, 10 * kTrack)), 0);
  ASSERT_EQ(v.make("b", ""), 0);
  ASSERT_EQ(v.truncate("b", 5 * kTrack), 0);
  ASSERT_TRUE(v.engine().create(v.options("c")));
  for (const size_t cells : {1u, 2u, 3u, 7u, 15u, 1000u}) EXPECT_EQ(totals(v, cells), "10 0 0 0 5");
  ASSERT_TRUE(v.engine().precopy({"c"}));
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(totals(v, 4), "0 10 0 0 5");
  ASSERT_EQ(v.write("a", 3 * kTrack, "new"), 0);
  ASSERT_EQ(v.write("b", 4 * kTrack, "joins"), 0);
  EXPECT_EQ(totals(v, 4), "1 9 1 0 4");
  ASSERT_TRUE(v.engine().activate({"c"}));
  ASSERT_EQ(v.write("b", 4 * kTrack, "again"), 0);
  EXPECT_EQ(totals(v, 4), "0 9 1 1 4") << "copied on first write";
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(totals(v, 4), "0 0 0 11 4");

  const auto map = v.engine().track_map("c", 15);
  ASSERT_TRUE(map);
  EXPECT_EQ(map->tracks, 15u);
  EXPECT_EQ(map->tracks_per_cell, 1u);
  EXPECT_EQ(map->state, SessionState::kCopied);
  ASSERT_GE(map->samples.size(), 3u);
  EXPECT_EQ(map->samples.back().state, SessionState::kCopied);
  EXPECT_EQ(map->samples.back().tracks_pending, 0u);

  ASSERT_TRUE(v.engine().terminate({"c"}, false));
  EXPECT_EQ(v.engine().track_map("c", 4).error().code, EINVAL);
  EXPECT_EQ(v.engine().track_map("none", 4).error().code, ENOENT);
}

TEST(TrackMap, OfNothing) {
  DirectVolume v;
  ASSERT_EQ(v.mkdir("d"), 0);
  ASSERT_TRUE(v.engine().create(v.options("c")));
  const auto map = v.engine().track_map("c", 10);
  ASSERT_TRUE(map);
  EXPECT_EQ(map->tracks, 0u);
  EXPECT_TRUE(map->cells.empty());
}

TEST(Progress, IsBounded) {
  detail::Progress progress{std::chrono::nanoseconds(0)};
  ProgressSample sample;
  for (unsigned i = 0; i < 100'000; ++i) {
    sample.tracks_pending = 100'000 - i;
    sample.state = i < 60'000 ? SessionState::kPrecopy : SessionState::kCopyInProgress;
    progress.note(sample);
  }
  const auto samples = progress.samples();
  EXPECT_LT(samples.size(), detail::Progress::kMost);
  EXPECT_EQ(samples.front().tracks_pending, 100'000u);
  unsigned turns = 0;
  for (size_t i = 1; i < samples.size(); ++i) {
    turns += samples[i].state != samples[i - 1].state;
    EXPECT_LT(samples[i].tracks_pending, samples[i - 1].tracks_pending);
  }
  EXPECT_EQ(turns, 1u);
}

TEST(Progress, WhileNothingHappensTwoAreEnough) {
  detail::Progress progress{std::chrono::nanoseconds(0)};
  for (unsigned i = 0; i < 1000; ++i) progress.note({});
  EXPECT_EQ(progress.samples().size(), 2u);
}

TEST(Progress, ChangesOfStateAreKeptAtOnce) {
  detail::Progress progress{std::chrono::hours(1)};
  ProgressSample sample;
  progress.note(sample);
  sample.tracks_pending = 1;
  progress.note(sample);
  EXPECT_EQ(progress.samples().size(), 1u) << "too soon";
  sample.state = SessionState::kPrecopy;
  progress.note(sample);
  EXPECT_EQ(progress.samples().size(), 2u);
}

}  // namespace
}  // namespace clonefs::test
