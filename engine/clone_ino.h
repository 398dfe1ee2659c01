// Inode numbers of the clones mount: the slot of the clone's name above, below it the number that the
// object has in the volume, or, for what the clone's user made, the pool's with a bit of its own.
// So the same object has the same number in each generation of a clone, and it can be told which
// object of the volume it was. Thread safety: no state.
#pragma once

#include <cstdint>
#include <optional>

namespace clonefs {

inline constexpr unsigned kSlotShift = 48;
inline constexpr uint64_t kMadeInClone = uint64_t{1} << 47;
inline constexpr uint64_t kNumberMask = kMadeInClone - 1;

// The number in the volume (its low bits) of what has INO in a clone; nothing: made by the clone's user.
inline std::optional<uint64_t> number_in_volume(uint64_t ino) {
  if ((ino & kMadeInClone) != 0) return std::nullopt;
  return ino & kNumberMask;
}

}  // namespace clonefs
