// Byte ranges, tracks and extents: tables at the boundaries, up to the largest file offset.
#include "extents/geometry.h"

#include <gtest/gtest.h>

namespace clonefs {
namespace {

constexpr uint64_t kMax = kMaxFileSize;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

TEST(ByteRange, end_never_passes_the_largest_offset) {
  struct Row {
    ByteRange range;
    uint64_t end;
  };
  const Row rows[] = {
      {{0, 0}, 0},
      {{0, 1}, 1},
      {{7, 0}, 7},
      {{4096, 4096}, 8192},
      {{0, kMax - 1}, kMax - 1},
      {{0, kMax}, kMax},
      {{0, kMax + 1}, kMax},
      {{0, kHuge}, kMax},
      {{1, kMax - 1}, kMax},
      {{1, kMax}, kMax},
      {{kMax - 1, 1}, kMax},
      {{kMax - 1, 2}, kMax},
      {{kMax, 0}, kMax},
      {{kMax, 1}, kMax},
      {{kMax, kHuge}, kMax},
      {{kHuge, 1}, kMax},
      {{kHuge, kHuge}, kMax},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(row.range.end(), row.end) << row.range.offset << ":" << row.range.length;
  }
}

TEST(ByteRange, empty) {
  EXPECT_TRUE((ByteRange{0, 0}.empty()));
  EXPECT_TRUE((ByteRange{100, 0}.empty()));
  EXPECT_FALSE((ByteRange{0, 1}.empty()));
  EXPECT_FALSE((ByteRange{kMax - 1, 1}.empty()));
  EXPECT_TRUE((ByteRange{kMax, 1}.empty()));
  EXPECT_TRUE((ByteRange{kHuge, 1}.empty()));
}

TEST(TrackSize, powers_of_two_from_4_kib_to_16_mib_are_valid) {
  EXPECT_EQ(TrackSize().bytes(), 65536u);
  int valid = 0;
  for (unsigned shift = 0; shift < 64; ++shift) {
    const uint64_t bytes = uint64_t{1} << shift;
    EXPECT_EQ(TrackSize::valid(bytes), shift >= 12 && shift <= 24) << bytes;
    valid += TrackSize::valid(bytes) ? 1 : 0;
    if (TrackSize::valid(bytes)) {
      EXPECT_EQ(TrackSize(bytes).bytes(), bytes);
    }
    if (bytes > 2) {
      EXPECT_FALSE(TrackSize::valid(bytes - 1)) << bytes - 1;
    }
    if (bytes > 1) {
      EXPECT_FALSE(TrackSize::valid(bytes + 1)) << bytes + 1;
    }
  }
  EXPECT_EQ(valid, 13);
  EXPECT_FALSE(TrackSize::valid(0));
  EXPECT_FALSE(TrackSize::valid(kHuge));
}

TEST(TrackSize, tracks_of_sizes_and_offsets) {
  for (unsigned shift = 12; shift <= 24; ++shift) {
    const uint64_t bytes = uint64_t{1} << shift;
    const TrackSize size(bytes);
    EXPECT_EQ(size.tracks_in(0), 0u);
    EXPECT_EQ(size.tracks_in(1), 1u);
    EXPECT_EQ(size.tracks_in(bytes - 1), 1u);
    EXPECT_EQ(size.tracks_in(bytes), 1u);
    EXPECT_EQ(size.tracks_in(bytes + 1), 2u);
    EXPECT_EQ(size.tracks_in(10 * bytes), 10u);
    EXPECT_EQ(size.tracks_in(kMax), (kMax >> shift) + 1);
    EXPECT_EQ(size.tracks_in(kMax - bytes), kMax >> shift);  // kMax is one short of a track's end
    EXPECT_EQ(size.tracks_in(kMax - bytes + 1), kMax >> shift);
    EXPECT_EQ(size.tracks_in(kMax - bytes + 2), (kMax >> shift) + 1);

    EXPECT_EQ(size.track_of(0), 0u);
    EXPECT_EQ(size.track_of(bytes - 1), 0u);
    EXPECT_EQ(size.track_of(bytes), 1u);
    EXPECT_EQ(size.track_of(kMax), kMax >> shift);
    EXPECT_EQ(size.offset_of(0), 0u);
    EXPECT_EQ(size.offset_of(1), bytes);
    EXPECT_EQ(size.offset_of(size.track_of(kMax)), kMax - bytes + 1);
  }
}

TEST(TrackSize, touched_is_every_track_with_a_byte_of_the_range) {
  const TrackSize size(4096);
  struct Row {
    ByteRange range;
    Extent extent;
  };
  const Row rows[] = {
      {{0, 0}, {0, 0}},
      {{4096, 0}, {0, 0}},
      {{0, 1}, {0, 1}},
      {{0, 4096}, {0, 1}},
      {{0, 4097}, {0, 2}},
      {{4095, 1}, {0, 1}},
      {{4095, 2}, {0, 2}},
      {{4096, 1}, {1, 1}},
      {{4096, 4096}, {1, 1}},
      {{4097, 4096}, {1, 2}},
      {{12288, 8192}, {3, 2}},
      {{0, kMax}, {0, (kMax >> 12) + 1}},
      {{0, kHuge}, {0, (kMax >> 12) + 1}},
      {{4096, kHuge}, {1, kMax >> 12}},
      {{kMax - 1, 1}, {kMax >> 12, 1}},
      {{kMax - 1, kHuge}, {kMax >> 12, 1}},
      {{kMax - 4096, 1}, {(kMax >> 12) - 1, 1}},
      {{kMax - 4096, 4096}, {(kMax >> 12) - 1, 2}},
      {{kMax, 1}, {0, 0}},
      {{kHuge, kHuge}, {0, 0}},
  };
  for (const Row& row : rows) {
    const Extent extent = size.touched(row.range);
    EXPECT_EQ(extent.first, row.extent.first) << row.range.offset << ":" << row.range.length;
    EXPECT_EQ(extent.count, row.extent.count) << row.range.offset << ":" << row.range.length;
  }
}

TEST(TrackSize, touched_agrees_with_counting) {
  const TrackSize size(4096);
  for (const uint64_t offset : {0, 1, 4095, 4096, 4097, 8191, 8192, 20000}) {
    for (const uint64_t length : {1, 2, 4095, 4096, 4097, 8192, 8193, 30000}) {
      const Extent extent = size.touched({offset, length});
      for (uint64_t track = 0; track < 20; ++track) {
        const bool touched =
            offset < (track + 1) * 4096 && offset + length > track * 4096;  // intervals meet
        EXPECT_EQ(track >= extent.first && track < extent.end(), touched)
            << offset << ":" << length << " track " << track;
      }
    }
  }
}

TEST(Extent, end_and_empty) {
  EXPECT_EQ((Extent{3, 4}.end()), 7u);
  EXPECT_TRUE((Extent{3, 0}.empty()));
  EXPECT_FALSE((Extent{3, 1}.empty()));
  EXPECT_EQ((Extent{1, 2}), (Extent{1, 2}));
  EXPECT_NE((Extent{1, 2}), (Extent{1, 3}));
}

}  // namespace
}  // namespace clonefs
