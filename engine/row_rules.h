// What a row of the catalog may say. The pool may have been written by anything: no row is used for
// anything before it is held to these rules. One place for recovery and for fsck.
// Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/catalog.h"
#include "extents/geometry.h"
#include "extents/result.h"

namespace clonefs::detail {

// Of one member: 2 GiB of bits.
inline constexpr uint64_t kMaxTracks = uint64_t{1} << 31;
// The upper 16 bits of inode numbers.
inline constexpr unsigned kMaxSlot = 65535;
// Generations of a name, besides the one that is shown.
inline constexpr unsigned kMaxKept = 1000;
// Of a schedule, in seconds; of holds of one clone.
inline constexpr uint64_t kMaxTtl = uint64_t{100} * 366 * 86400;
inline constexpr size_t kMaxHolds = 64;
// In the catalog only: the session and its clone are being taken away.
inline constexpr int kRemovingState = 100;

// The names along a selected PATH, none for the volume itself. EINVAL: it is not relative, is too
// long, has "..", a zero byte, or leads to clonefs's own directory.
Result<std::vector<std::string>> names_along(const std::string& path);
// EINVAL: an extent that selects nothing or ends beyond the largest file.
Status check_selection(const std::vector<ByteRange>& selection);

// What cannot be tied to a session at all: whose name and number are to be trusted before anything is
// removed or opened by them.
Status check_identity(const SessionRow& row);

struct SessionText {
  std::vector<std::string> paths;
  std::vector<ByteRange> selection;
};
// The rest of the row; EUCLEAN says what is wrong with it.
Result<SessionText> check_session(const SessionRow& row);

// COLUMN_BASE and so on included, but for what the table has there. EUCLEAN.
Status check_object(const ObjectRow& row);

// Regions of a track table as rows claim them: [first, first + second). EUCLEAN when two overlap.
Status check_regions(std::vector<std::pair<uint64_t, uint64_t>> regions);

}  // namespace clonefs::detail
