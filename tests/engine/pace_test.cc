// The automatic pace, with a clock and a foreground that are made up.
#include "engine/pace.h"

#include <gtest/gtest.h>

#include <functional>

namespace clonefs::detail {
namespace {

using std::chrono::milliseconds;
using std::chrono::microseconds;

// A copy program whose turns take 5 ms, and a foreground.
class Simulation {
 public:
  // Microseconds that a request takes while nothing is copied, and beside copying.
  std::function<double()> alone = [] { return 100.0; };
  std::function<double()> beside = [] { return 100.0; };
  unsigned every_us = 1000;  // 0: no foreground

  // The share of SECONDS in which was copied.
  double run(double seconds) {
    const auto begin = now_;
    const auto end = begin + microseconds(static_cast<int64_t>(seconds * 1e6));
    Pace::Clock::duration copied{};
    while (now_ < end) {
      pass(milliseconds(5), true);
      copied += milliseconds(5);
      pass(pace_.rest(now_, milliseconds(5)), false);
    }
    return std::chrono::duration<double>(copied) / std::chrono::duration<double>(now_ - begin);
  }

 private:
  void pass(Pace::Clock::duration time, bool copying) {
    const auto end = now_ + time;
    for (; every_us != 0 && due_ < end; due_ += microseconds(every_us)) {
      const double us = copying ? beside() : alone();
      pace_.note(turn_++ % kThreadSlots, copying, microseconds(static_cast<int64_t>(us)));
    }
    now_ = end;
    due_ = std::max(due_, now_);
  }

  Pace pace_;
  Pace::Clock::time_point now_{std::chrono::hours(1)}, due_{now_};
  unsigned turn_ = 0;
};

TEST(Pace, alone_it_copies_all_the_time) {
  Simulation s;
  s.every_us = 0;
  EXPECT_EQ(s.run(10), 1);
}

TEST(Pace, somebody_is_there_until_it_was_looked_for_a_while) {
  Pace pace;
  Pace::Clock::time_point now{std::chrono::hours(1)};
  const auto look = [&](unsigned times) {
    for (unsigned i = 0; i < times; ++i) pace.rest(now += Pace::kLook, milliseconds(50));
    return pace.alone();
  };
  pace.begin_use(now);
  pace.rest(now, milliseconds(50));
  EXPECT_FALSE(look(Pace::kAloneAfter - 1));
  EXPECT_TRUE(look(1));
  pace.note(0, true, milliseconds(1));
  EXPECT_FALSE(look(1));
  // A slow one: it ends in every fourth look only.
  for (int i = 0; i < 5; ++i) {
    pace.note(0, true, milliseconds(800));
    EXPECT_FALSE(look(4));
  }
  EXPECT_TRUE(look(2));
  // A second program that begins knows what the first one knows, who begins later does not.
  pace.begin_use(now);
  EXPECT_TRUE(pace.alone());
  pace.end_use();
  pace.end_use();
  pace.begin_use(now);
  EXPECT_FALSE(pace.alone());
}

TEST(Pace, a_foreground_that_feels_nothing_leaves_it_most_of_the_time) {
  Simulation s;
  s.beside = [] { return 130.0; };
  s.run(5);
  EXPECT_NEAR(s.run(10), Pace::kMost, 0.01);
}

TEST(Pace, a_foreground_that_suffers_drives_it_to_the_floor_and_no_further) {
  Simulation s;
  s.beside = [] { return 5000.0; };
  s.run(5);
  const double share = s.run(60);
  EXPECT_GE(share, Pace::kFloor * 0.99) << "a drain must end";
  EXPECT_LE(share, Pace::kFloor * 1.01);
}

TEST(Pace, it_comes_back_when_the_foreground_is_over) {
  Simulation s;
  s.beside = [] { return 5000.0; };
  s.run(10);
  s.every_us = 0;
  s.run(0.5);
  EXPECT_EQ(s.run(5), 1);
}

TEST(Pace, a_foreground_that_gets_slow_by_itself_is_no_reason) {
  Simulation s;
  s.run(5);
  s.alone = s.beside = [] { return 20000.0; };
  s.run(2);
  EXPECT_NEAR(s.run(10), Pace::kMost, 0.05);
}

TEST(Pace, it_finds_the_share_that_is_tolerated) {
  Simulation s;
  double share = 1;
  // The more is copied, the longer is the queue: 1.5 times as long at a share of 0.5.
  s.beside = [&] { return 100.0 + 100.0 * share; };
  for (int i = 0; i < 50; ++i) share = s.run(0.2);
  double sum = 0;
  for (int i = 0; i < 100; ++i) sum += share = s.run(0.2);
  EXPECT_GT(sum / 100, 0.3);
  EXPECT_LT(sum / 100, 0.6);
}

}  // namespace
}  // namespace clonefs::detail
