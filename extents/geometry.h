// Byte ranges, tracks and extents of tracks. Pure values; all arithmetic is safe up to 2^63 - 1,
// the largest file offset.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

namespace clonefs {

inline constexpr uint64_t kMaxFileSize = std::numeric_limits<int64_t>::max();

// A range of bytes of a file: [offset, offset + length).
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;

  uint64_t end() const {
    return length > kMaxFileSize - std::min(offset, kMaxFileSize) ? kMaxFileSize : offset + length;
  }
  bool empty() const { return length == 0 || offset >= kMaxFileSize; }
  bool operator==(const ByteRange&) const = default;
};

// An extent: a run of tracks.
struct Extent {
  uint64_t first = 0;
  uint64_t count = 0;

  uint64_t end() const { return first + count; }
  bool empty() const { return count == 0; }
  bool operator==(const Extent&) const = default;
};

// The size of a track in bytes: a power of two, 4 KiB to 16 MiB.
class TrackSize {
 public:
  static constexpr uint64_t kMin = 4096;
  static constexpr uint64_t kMax = 16 << 20;
  static constexpr uint64_t kDefault = 64 << 10;

  static constexpr bool valid(uint64_t bytes) {
    return bytes >= kMin && bytes <= kMax && std::has_single_bit(bytes);
  }

  constexpr TrackSize() = default;
  // BYTES must be valid().
  constexpr explicit TrackSize(uint64_t bytes)
      : shift_(static_cast<unsigned>(std::countr_zero(bytes))) {}

  constexpr uint64_t bytes() const { return uint64_t{1} << shift_; }
  constexpr uint64_t track_of(uint64_t offset) const { return offset >> shift_; }
  constexpr uint64_t offset_of(uint64_t track) const { return track << shift_; }
  // Tracks that a file of SIZE bytes has; the last one may be partial.
  constexpr uint64_t tracks_in(uint64_t size) const {
    return (size >> shift_) + ((size & (bytes() - 1)) != 0 ? 1 : 0);
  }
  // The tracks that RANGE touches.
  Extent touched(ByteRange range) const {
    if (range.empty()) return {};
    const uint64_t first = track_of(range.offset);
    return {first, track_of(range.end() - 1) - first + 1};
  }
  bool operator==(const TrackSize&) const = default;

 private:
  unsigned shift_ = 16;
};

}  // namespace clonefs
