// Every state of a track times every transition, and which bytes are states at all.
#include "extents/track_bits.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace clonefs {
namespace {

// The three bits as DESIGN.md writes them: clone PB, precopy PB, IND.
std::string columns(TrackBits b) {
  return {(b & kClonePb) != 0 ? '1' : '0', (b & kPrecopyPb) != 0 ? '1' : '0',
          (b & kInd) != 0 ? '1' : '0'};
}

constexpr TrackBits kPendingCopying = kPending | kCopying;
constexpr TrackBits kRecopyCopying = kRecopy | kCopying;
constexpr TrackBits kStates[] = {kDone,      kPending,        kRecopy,
                                 kPrecopied, kPendingCopying, kRecopyCopying};

TEST(TrackBits, states_have_the_columns_of_the_design) {
  EXPECT_EQ(columns(kDone), "000");
  EXPECT_EQ(columns(kPending), "101");
  EXPECT_EQ(columns(kRecopy), "101");
  EXPECT_EQ(columns(kPrecopied), "010");
  EXPECT_NE(kRecopy, kPending);
}

TEST(TrackBits, only_the_four_durable_states_are_possible) {
  const std::set<unsigned> possible = {0, 5, 13, 2};
  for (unsigned byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(is_possible(static_cast<TrackBits>(byte)), possible.count(byte) != 0) << byte;
  }
}

TEST(TrackBits, both_protection_bits_are_impossible_whatever_the_rest) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    if ((byte & 3) == 3) {
      EXPECT_FALSE(is_possible(static_cast<TrackBits>(byte))) << byte;
    }
  }
}

TEST(TrackBits, transitions) {
  struct Row {
    const char* name;
    TrackBits (*transition)(TrackBits);
    TrackBits to[6];  // in the order of kStates
  };
  const Row rows[] = {
      //                                  done      pending          recopy         precopied
      //                                  pending+copying  recopy+copying
      {"create", on_create, {kPending, kPending, kPending, kPending, kPending, kPending}},
      {"copy_begun",
       on_copy_begun,
       {kDone, kPendingCopying, kRecopyCopying, kPrecopied, kPendingCopying, kRecopyCopying}},
      {"precopy_write",
       on_precopy_write,
       {kPending, kPending, kRecopy, kRecopy, kPending, kRecopy}},
      {"precopied",
       on_precopied,
       {kPrecopied, kPrecopied, kPrecopied, kPrecopied, kPrecopied, kPrecopied}},
      {"drained", on_drained, {kDone, kDone, kDone, kDone, kDone, kDone}},
      {"left", on_left, {kDone, kDone, kDone, kDone, kDone, kDone}},
  };
  for (const Row& row : rows) {
    for (size_t i = 0; i < std::size(kStates); ++i) {
      const TrackBits to = row.transition(kStates[i]);
      EXPECT_EQ(int{to}, int{row.to[i]}) << row.name << " from " << int{kStates[i]};
      // No transition leads out of the possible states.
      EXPECT_TRUE(is_possible(durable_form(to))) << row.name << " from " << int{kStates[i]};
    }
  }
}

TEST(TrackBits, questions) {
  struct Row {
    TrackBits bits;
    bool pending, precopied, copying;
    TrackBits durable;
  };
  const Row rows[] = {
      {kDone, false, false, false, kDone},
      {kPending, true, false, false, kPending},
      {kRecopy, true, false, false, kRecopy},
      {kPrecopied, false, true, false, kPrecopied},
      {kPendingCopying, true, false, true, kPending},
      {kRecopyCopying, true, false, true, kRecopy},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(is_pending(row.bits), row.pending) << int{row.bits};
    EXPECT_EQ(is_precopied(row.bits), row.precopied) << int{row.bits};
    EXPECT_EQ(is_copying(row.bits), row.copying) << int{row.bits};
    EXPECT_EQ(int{durable_form(row.bits)}, int{row.durable}) << int{row.bits};
  }
}

// A write between the beginning and the end of a copy must show in the bits, in every state.
TEST(TrackBits, a_write_ends_the_copy_that_had_begun) {
  for (const TrackBits state : kStates) {
    EXPECT_FALSE(is_copying(on_precopy_write(on_copy_begun(state)))) << int{state};
    EXPECT_TRUE(is_pending(on_precopy_write(on_copy_begun(state)))) << int{state};
  }
}

}  // namespace
}  // namespace clonefs
