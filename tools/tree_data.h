// The data of two versions of a file: where they differ, and bringing one over into the other.
// Offsets and lengths are bytes. Errors: -errno or an Error without a path. Thread safety: no state.
#pragma once

#include <cstdint>
#include <vector>

#include "extents/geometry.h"
#include "extents/result.h"

namespace clonefs {

struct DataRange {
  ByteRange range;
  bool hole = false;  // in the version that is wanted
};

enum class HowMuch { kFirst, kAll };

// Where NOW has other bytes than THEN, which has SIZE bytes: in pieces of 64 KiB, neighbours in one.
// Holes are zeros. WITHIN: only there; empty: everywhere. NOW = -1: an empty file. kFirst: one range is
// enough. What NOW has beyond SIZE does not count.
Result<std::vector<DataRange>> differing_ranges(int then, int now, uint64_t size,
                                                const std::vector<ByteRange>& within, HowMuch how_much);

// Makes RANGES of NOW what they are in THEN: writes data, punches holes (or writes zeros where that is
// not possible). Bytes written; an error also when a cache took them and has no place for them.
Result<uint64_t> bring_over(int then, int now, const std::vector<DataRange>& ranges);

}  // namespace clonefs
