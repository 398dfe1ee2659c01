// What happens by the clock, with a clock that is made up: expiry, precopy and activation at a time; holds;
// all of it over restarts, and when the clock is set.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

using std::chrono::seconds;

constexpr int64_t kDay = 86400;

class Timekeeping : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(v.make("file", pattern(1, 4 * 4096)), 0);
    wall_ = ::time(nullptr);
  }
  Engine& engine() { return v.engine(); }

  // So much later by both clocks.
  void pass(int64_t by) {
    wall_ += by;
    boot_ += by;
    look();
  }
  // The clock is set, and looked at.
  void set_clock(int64_t by) {
    wall_ += by;
    look();
  }
  void look() { engine().keep_time({wall_, 0}, seconds(boot_)); }

  int create(CreateOptions o) {
    o.paths = {"."};
    const auto status = engine().create(o);
    return status ? 0 : status.error().code;
  }
  int copy(const std::string& name, uint64_t ttl_s = 0) {
    CreateOptions o;
    o.name = name;
    o.activate = true;
    o.ttl_s = ttl_s;
    return create(o);
  }
  bool there(const std::string& name) { return static_cast<bool>(engine().status(name)); }
  SessionStatus status(const std::string& name) { return *engine().status(name); }
  void drain(const std::string& name) {
    while (engine().step(name)) {
    }
  }
  static int code(const Status& status) { return status ? 0 : status.error().code; }

  DirectVolume v;
  int64_t wall_ = 0;
  int64_t boot_ = 1000;
};

TEST_F(Timekeeping, AClonesTimeEnds) {
  ASSERT_EQ(copy("week", 7 * kDay), 0);
  ASSERT_EQ(copy("ever"), 0);
  drain("week");
  drain("ever");
  EXPECT_EQ(status("week").expires_at.tv_sec, status("week").activated_at.tv_sec + 7 * kDay);
  EXPECT_EQ(status("ever").expires_at.tv_sec, 0);
  pass(7 * kDay - 60);
  EXPECT_TRUE(there("week"));
  pass(120);
  EXPECT_FALSE(there("week"));
  pass(3650 * kDay);
  EXPECT_TRUE(there("ever"));
}

TEST_F(Timekeeping, InEveryState) {
  CreateOptions o;
  o.name = "created";
  o.ttl_s = 60;
  ASSERT_EQ(create(o), 0);
  ASSERT_EQ(copy("draining", 60), 0);
  ASSERT_EQ(copy("terminated", 60), 0);
  drain("terminated");
  ASSERT_EQ(code(engine().terminate({"terminated"}, false)), 0);
  pass(100);
  EXPECT_FALSE(there("draining"));
  EXPECT_FALSE(there("terminated"));
  // Its time begins with its consistency point.
  ASSERT_TRUE(there("created"));
  wall_ = ::time(nullptr);
  look();
  ASSERT_EQ(code(engine().activate({"created"})), 0);
  look();
  EXPECT_TRUE(there("created"));
  pass(100);
  EXPECT_FALSE(there("created"));
}

TEST_F(Timekeeping, OverRestarts) {
  ASSERT_EQ(copy("a", kDay), 0);
  ASSERT_EQ(copy("b", kDay), 0);
  ASSERT_EQ(code(engine().hold("b", "backup")), 0);
  ASSERT_TRUE(v.reopen());
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_EQ(status("a").ttl_s, static_cast<uint64_t>(kDay));
  ASSERT_EQ(status("b").holds.size(), 1u);
  EXPECT_EQ(status("b").holds[0].tag, "backup");
  wall_ += kDay + 60;  // while nothing was mounted
  look();
  EXPECT_FALSE(there("a"));
  EXPECT_TRUE(there("b"));
  // What is gone leaves nothing to who comes after it.
  ASSERT_EQ(code(engine().release("b", "backup")), 0);
  look();
  EXPECT_FALSE(there("b"));
  ASSERT_EQ(copy("b"), 0);
  ASSERT_TRUE(v.kill_reopen());
  pass(10 * kDay);
  EXPECT_TRUE(there("b"));
}

TEST_F(Timekeeping, Holds) {
  ASSERT_EQ(copy("a"), 0);
  EXPECT_EQ(code(engine().hold("a", "restic")), 0);
  EXPECT_EQ(code(engine().hold("a", "restic")), EEXIST);
  EXPECT_EQ(code(engine().hold("a", "two words")), EINVAL);
  EXPECT_EQ(code(engine().hold("a", "borg")), 0);
  EXPECT_EQ(code(engine().hold("nothing", "borg")), ENOENT);
  const auto held = engine().remove({"a"}, true);
  EXPECT_EQ(code(held), EBUSY);
  EXPECT_NE(held.error().message.find("clonefs release a restic"), std::string::npos)
      << held.error().message;
  EXPECT_EQ(code(engine().terminate({"a"}, true)), EBUSY);  // it would remove the clone
  drain("a");
  EXPECT_EQ(code(engine().terminate({"a"}, false)), 0);  // it does not
  EXPECT_EQ(code(engine().remove({"a"}, false)), EBUSY);
  EXPECT_EQ(code(engine().release("a", "rsync")), ENOENT);
  EXPECT_EQ(code(engine().release("a", "restic")), 0);
  EXPECT_EQ(code(engine().remove({"a"}, false)), EBUSY);
  EXPECT_EQ(code(engine().release("a", "borg")), 0);
  EXPECT_EQ(code(engine().remove({"a"}, false)), 0);
}

TEST_F(Timekeeping, OneThatIsHeldKeepsAllNamesOfTheCommand) {
  ASSERT_EQ(copy("a"), 0);
  ASSERT_EQ(copy("b"), 0);
  ASSERT_EQ(code(engine().hold("b", "x")), 0);
  EXPECT_EQ(code(engine().remove({"a", "b"}, true)), EBUSY);
  EXPECT_TRUE(there("a"));
}

TEST_F(Timekeeping, TheClockIsSetForward) {
  ASSERT_EQ(copy("a", kDay), 0);
  look();
  set_clock(30 * kDay);
  EXPECT_TRUE(there("a"));
  pass(1800);
  EXPECT_TRUE(there("a"));
  set_clock(-30 * kDay);  // it was a mistake
  pass(3600);
  EXPECT_TRUE(there("a"));
  set_clock(30 * kDay);  // it is so
  pass(3700);
  EXPECT_FALSE(there("a"));
}

TEST_F(Timekeeping, AtATime) {
  CreateOptions o;
  o.precopy_at = wall_ + 100;
  o.activate_at = wall_ + 200;
  for (const char* name : {"a", "b"}) {
    o.name = name;
    ASSERT_EQ(create(o), 0);
  }
  o.name = "later";
  o.precopy_at = 0;
  o.activate_at = wall_ + 500;
  ASSERT_EQ(create(o), 0);
  EXPECT_EQ(status("a").precopy_at.tv_sec, wall_ + 100);
  pass(99);
  EXPECT_EQ(status("a").state, SessionState::kCreated);
  ASSERT_TRUE(v.kill_reopen());
  pass(2);
  EXPECT_EQ(status("a").state, SessionState::kPrecopy);
  EXPECT_EQ(status("a").precopy_at.tv_sec, 0);
  drain("a");
  ASSERT_TRUE(v.reopen());
  pass(98);
  EXPECT_EQ(status("a").state, SessionState::kPrecopy);
  pass(1);
  EXPECT_EQ(status("a").state, SessionState::kCopyInProgress);
  // Both have one consistency point.
  EXPECT_EQ(status("a").activated_at.tv_sec, status("b").activated_at.tv_sec);
  EXPECT_EQ(status("a").activated_at.tv_nsec, status("b").activated_at.tv_nsec);
  EXPECT_EQ(status("a").activate_at.tv_sec, 0);
  EXPECT_EQ(status("a").missed, "");
  EXPECT_EQ(status("later").state, SessionState::kCreated);
  pass(300);
  EXPECT_EQ(status("later").state, SessionState::kCopyInProgress);
}

TEST_F(Timekeeping, TooLateIsSaidAndNotDone) {
  CreateOptions o;
  o.name = "a";
  o.activate_at = wall_ + 100;
  ASSERT_EQ(create(o), 0);
  pass(3600);  // not mounted meanwhile
  EXPECT_EQ(status("a").state, SessionState::kCreated);
  EXPECT_NE(status("a").missed, "");
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_NE(status("a").missed, "");
  EXPECT_EQ(code(engine().activate({"a"})), 0);
}

TEST_F(Timekeeping, DoneByHandBefore) {
  CreateOptions o;
  o.name = "a";
  o.precopy_at = wall_ + 100;
  o.activate_at = wall_ + 200;
  ASSERT_EQ(create(o), 0);
  ASSERT_EQ(code(engine().activate({"a"})), 0);
  pass(50);
  EXPECT_EQ(status("a").precopy_at.tv_sec, 0);
  EXPECT_EQ(status("a").activate_at.tv_sec, 0);
  pass(1000);
  EXPECT_EQ(status("a").missed, "");
}

TEST_F(Timekeeping, Refused) {
  CreateOptions o;
  o.name = "a";
  o.precopy_at = wall_ + 200;
  o.activate_at = wall_ + 100;
  EXPECT_EQ(create(o), EINVAL);
  o.precopy_at = 0;
  o.activate = true;
  EXPECT_EQ(create(o), EINVAL);
  o = {};
  o.name = "a";
  o.nocopy = true;
  o.precopy_at = wall_ + 100;
  EXPECT_EQ(create(o), EINVAL);
  o = {};
  o.name = "a";
  o.ttl_s = UINT64_MAX;
  EXPECT_EQ(create(o), EINVAL);
  EXPECT_FALSE(there("a"));
}

}  // namespace
}  // namespace clonefs::test
