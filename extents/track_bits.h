// The bits of one track in one session: clone PB, precopy PB, IND, and the only transitions that
// change them (engine/STATES.md explains them). A track's bits are one byte, on disk as in memory.
#pragma once

#include <cstdint>

namespace clonefs {

using TrackBits = uint8_t;

inline constexpr TrackBits kClonePb = 1;    // not (or no longer) on the clone side
inline constexpr TrackBits kPrecopyPb = 2;  // copied during precopy and not written since
inline constexpr TrackBits kInd = 4;        // an access to the clone's track must be intercepted
inline constexpr TrackBits kRewritten = 8;  // was precopied once and written since (for counting)
inline constexpr TrackBits kCopying = 16;   // a copy of it began and it was not written since then;
                                            // in memory only, never on disk

inline constexpr TrackBits kExtent = 32;    // the track is in an extent
inline constexpr TrackBits kDurable = 64;   // what the clone shows of it survives a power cut; in
                                            // memory only

inline constexpr TrackBits kChanged = 128;  // the source's track was written since the consistency point;
                                            // on disk only between a clean end and the next start

inline constexpr TrackBits kOutside = 0;                          // 000, a hole or not selected
inline constexpr TrackBits kDone = kExtent;                       // 000
inline constexpr TrackBits kPending = kExtent | kClonePb | kInd;  // 101
inline constexpr TrackBits kRecopy = kPending | kRewritten;       // 101, to be copied again
inline constexpr TrackBits kPrecopied = kExtent | kPrecopyPb;     // 010

// On the clone side nothing is missing when neither PB is set; a pending track is only on the
// source side.
constexpr bool is_pending(TrackBits b) { return (b & kClonePb) != 0; }
constexpr bool is_precopied(TrackBits b) { return (b & (kClonePb | kPrecopyPb)) == kPrecopyPb; }
constexpr bool is_done(TrackBits b) { return (b & (kClonePb | kPrecopyPb)) == 0; }
constexpr bool is_drained(TrackBits b) { return is_done(b) && (b & kExtent) != 0; }
constexpr bool is_changed(TrackBits b) { return (b & kChanged) != 0; }
constexpr bool in_extent(TrackBits b) { return (b & kExtent) != 0; }
constexpr bool is_copying(TrackBits b) { return (b & kCopying) != 0; }

// Whether a byte read from disk is a state that can be. Anything else fails the session.
constexpr bool is_possible(TrackBits b) {
  return b == kOutside || b == kDone || b == kPending || b == kRecopy || b == kPrecopied;
}

// COFW goes by this one: until then the source's track is not to be overwritten unsaved.
constexpr bool is_unsaved(TrackBits b) { return (b & (kExtent | kDurable)) == kExtent; }

// What goes to disk.
constexpr TrackBits durable_form(TrackBits b) {
  return b & static_cast<TrackBits>(~(kCopying | kDurable | kChanged));
}

// --- transitions ---

// CREATE: the track is in an extent.
constexpr TrackBits on_create(TrackBits) { return kPending; }
// A copy of a pending track begins.
constexpr TrackBits on_copy_begun(TrackBits b) { return is_pending(b) ? b | kCopying : b; }
// Source write before activation: 010 -> 101; a hole (000) joins the extents; 101 stays. A copy that
// had begun may have put older data on the clone side.
constexpr TrackBits on_precopy_write(TrackBits b) {
  if (is_precopied(b) || is_copying(b)) return kRecopy;
  if (is_done(b)) return kPending;
  return b & static_cast<TrackBits>(~kCopying);
}
// After a restart: the table says less than the files, copy it again.
constexpr TrackBits on_recheck(TrackBits) { return kRecopy; }
// Precopy copied the track: 101 -> 010.
constexpr TrackBits on_precopied(TrackBits) { return kPrecopied; }
// After activation: copied by the copy program, COFW or clone access, or overwritten on the clone
// side: 101 or 010 -> 000.
constexpr TrackBits on_drained(TrackBits b) { return kDone | (b & (kDurable | kChanged)); }
// Source write after activation: RECREATE copies the track.
constexpr TrackBits on_changed(TrackBits b) { return b | kChanged; }
// A checkpoint or the journal made what the clone shows of it durable.
constexpr TrackBits on_durable(TrackBits b) { return b | kDurable; }
// The track left the member (cut off, or found to be a hole) before activation.
constexpr TrackBits on_left(TrackBits) { return kOutside; }

}  // namespace clonefs
