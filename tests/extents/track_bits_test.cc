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
constexpr TrackBits kStates[] = {kOutside,   kDone,           kPending,      kRecopy,
                                 kPrecopied, kPendingCopying, kRecopyCopying};

TEST(TrackBits, states_have_the_columns_of_the_design) {
  EXPECT_EQ(columns(kOutside), "000");
  EXPECT_EQ(columns(kDone), "000");
  EXPECT_EQ(columns(kPending), "101");
  EXPECT_EQ(columns(kRecopy), "101");
  EXPECT_EQ(columns(kPrecopied), "010");
  EXPECT_EQ(std::set<unsigned>(std::begin(kStates), std::end(kStates)).size(), 7u);
}

TEST(TrackBits, only_the_five_durable_states_are_possible) {
  std::set<unsigned> possible;
  for (const TrackBits state : {kOutside, kDone, kPending, kRecopy, kPrecopied}) {
    possible.insert(state);
  }
  ASSERT_EQ(possible.size(), 5u);
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

// Zeros, which a file that was cut or never written shows, say that nothing is to be done.
TEST(TrackBits, zero_is_outside) {
  EXPECT_EQ(kOutside, 0);
}

// clang-format off
TEST(TrackBits, transitions) {
  struct Row {
    const char* name;
    TrackBits (*transition)(TrackBits);
    TrackBits to[7];  // in the order of kStates
  };
  constexpr TrackBits kPC = kPendingCopying, kRC = kRecopyCopying;
  const Row rows[] = {
      //                                 outside     done        pending     recopy      precopied   pending+c.  recopy+c.
      {"create", on_create,             {kPending,   kPending,   kPending,   kPending,   kPending,   kPending,   kPending}},
      {"copy_begun", on_copy_begun,     {kOutside,   kDone,      kPC,        kRC,        kPrecopied, kPC,        kRC}},
      {"precopy_write", on_precopy_write, {kPending, kPending,   kPending,   kRecopy,    kRecopy,    kRecopy,    kRecopy}},
      {"recheck", on_recheck,           {kRecopy,    kRecopy,    kRecopy,    kRecopy,    kRecopy,    kRecopy,    kRecopy}},
      {"precopied", on_precopied,       {kPrecopied, kPrecopied, kPrecopied, kPrecopied, kPrecopied, kPrecopied, kPrecopied}},
      {"drained", on_drained,           {kDone,      kDone,      kDone,      kDone,      kDone,      kDone,      kDone}},
      {"left", on_left,                 {kOutside,   kOutside,   kOutside,   kOutside,   kOutside,   kOutside,   kOutside}},
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
// clang-format on

TEST(TrackBits, questions) {
  struct Row {
    TrackBits bits;
    bool pending, precopied, done, in_extent, copying;
    TrackBits durable;
  };
  const Row rows[] = {
      {kOutside, false, false, true, false, false, kOutside},
      {kDone, false, false, true, true, false, kDone},
      {kPending, true, false, false, true, false, kPending},
      {kRecopy, true, false, false, true, false, kRecopy},
      {kPrecopied, false, true, false, true, false, kPrecopied},
      {kPendingCopying, true, false, false, true, true, kPending},
      {kRecopyCopying, true, false, false, true, true, kRecopy},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(is_pending(row.bits), row.pending) << int{row.bits};
    EXPECT_EQ(is_precopied(row.bits), row.precopied) << int{row.bits};
    EXPECT_EQ(is_done(row.bits), row.done) << int{row.bits};
    EXPECT_EQ(in_extent(row.bits), row.in_extent) << int{row.bits};
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
