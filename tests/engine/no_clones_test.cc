// A volume that is opened without its pool: changes go through, commands are refused, and the next
// ordinary open knows what it may still believe.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <fstream>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

namespace bfs = boost::filesystem;

class NoClones : public testing::Test {
 protected:
  void SetUp() override {
    v.make("file", pattern(1, 40000));
    v.make("other", pattern(2, 10000));
    CreateOptions options = v.options("undrained");
    options.activate = true;
    options.nocopy = true;
    ASSERT_TRUE(v.engine().create(options));
    options = v.options("copied");
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    ASSERT_TRUE(v.drain("copied"));
    options = v.options("precopied");
    options.precopy = true;
    ASSERT_TRUE(v.engine().create(options));
    ASSERT_TRUE(v.drain("precopied"));
    expected = v.capture();
  }

  void open_without() {
    v.use_no_clones(true);
    const Status status = v.open();
    ASSERT_TRUE(status) << status.error().message;
  }
  void open_with() {
    v.use_no_clones(false);
    const Status status = v.open();
    ASSERT_TRUE(status) << status.error().message;
  }

  DirectVolume v;
  Tree expected;
};

TEST_F(NoClones, commands_say_why_they_are_refused) {
  ASSERT_TRUE(v.close());
  open_without();
  Engine& e = v.engine();
  CreateOptions options = v.options("new");
  std::vector<Status> refused = {e.available(),        e.create(options),
                                 e.precopy({"copied"}), e.activate({"precopied"}),
                                 e.terminate({"copied"}, true), e.remove({"copied"}, true),
                                 e.resume({"undrained"}), e.set_rate("undrained", 5),
                                 e.wait("copied", Engine::Goal::kCopied, {})};
  for (size_t i = 0; i < refused.size(); ++i) {
    ASSERT_FALSE(refused[i]) << i;
    EXPECT_EQ(refused[i].error().code, EOPNOTSUPP) << i;
    EXPECT_NE(refused[i].error().message.find("--no-clones"), std::string::npos) << i;
  }
  EXPECT_EQ(e.verify("copied").error().code, EOPNOTSUPP);
  EXPECT_EQ(e.extents("copied").error().code, EOPNOTSUPP);
  EXPECT_EQ(e.status("copied").error().code, EOPNOTSUPP);
  EXPECT_TRUE(e.status().empty());
  EXPECT_TRUE(e.clones().empty());
  EXPECT_TRUE(e.checkpoint());
  // Changes of every kind go through.
  EXPECT_EQ(v.write("file", 5, "x"), 0);
  EXPECT_EQ(v.truncate("file", 7), 0);
  EXPECT_EQ(v.make("made", "y"), 0);
  EXPECT_EQ(v.rename("made", "other"), 0);
  EXPECT_EQ(v.unlink("other"), 0);
  EXPECT_EQ(v.chmod("file", 0600), 0);
  EXPECT_TRUE(v.close());
}

TEST_F(NoClones, a_pool_that_is_no_pool) {
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  bfs::remove_all(pool);
  std::ofstream(pool) << "not a directory";
  EXPECT_FALSE(v.open());
  open_without();
  EXPECT_EQ(v.write("file", 5, "x"), 0);
  ASSERT_TRUE(v.close());
  EXPECT_EQ(bfs::file_size(pool), 15u);
}

TEST_F(NoClones, a_damaged_pool_is_not_touched_and_the_refusal_names_the_ways_out) {
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  std::ofstream(pool + "/catalog.db") << "garbage garbage";
  const Status status = v.open();
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("clonefs fsck " + v.directory()), std::string::npos)
      << status.error().message;
  EXPECT_NE(status.error().message.find("--no-clones"), std::string::npos);
  const auto before = bfs::last_write_time(pool);
  open_without();
  EXPECT_EQ(v.write("file", 5, "x"), 0);
  ASSERT_TRUE(v.close());
  EXPECT_EQ(bfs::file_size(pool + "/catalog.db"), 15u);
  EXPECT_EQ(bfs::last_write_time(pool), before);
}

// After a clean end it is known whether the sources were changed.
TEST_F(NoClones, after_a_clean_end_what_was_not_changed_goes_on) {
  ASSERT_TRUE(v.close());
  open_without();
  ASSERT_EQ(v.make("unrelated", "x"), 0);
  ASSERT_EQ(v.unlink("unrelated"), 0);
  ASSERT_TRUE(v.close());
  open_with();
  EXPECT_EQ(v.status("undrained").state, SessionState::kCopyInProgress);
  ASSERT_TRUE(v.close());
  open_without();
  ASSERT_EQ(v.write("file", 30000, "changed"), 0);
  ASSERT_TRUE(v.close());
  open_with();
  EXPECT_EQ(v.status("undrained").state, SessionState::kFailed);
  EXPECT_NE(v.status("undrained").error.find("file"), std::string::npos);
  EXPECT_EQ(v.clone_difference("copied", expected), "");
  ASSERT_TRUE(v.engine().activate({"precopied"}));
  EXPECT_EQ(v.clone_difference("precopied", v.capture()), "");
}

// After SIGKILL nothing tells, but that it was mounted so.
TEST_F(NoClones, after_an_unclean_end_what_was_not_drained_is_failed) {
  v.kill();
  open_without();
  ASSERT_EQ(v.write("file", 30000, "changed"), 0);
  v.kill();
  for (int turn = 0; turn < 2; ++turn) {
    open_with();
    EXPECT_EQ(v.status("undrained").state, SessionState::kFailed);
    EXPECT_NE(v.status("undrained").error.find("--no-clones"), std::string::npos)
        << v.status("undrained").error;
    EXPECT_EQ(v.status("copied").state, SessionState::kCopied);
    EXPECT_EQ(v.clone_difference("copied", expected), "");
    v.kill();
  }
  open_with();
  ASSERT_TRUE(v.engine().activate({"precopied"}));
  EXPECT_EQ(v.clone_difference("precopied", v.capture()), "");
  // It is about the mounts that were, not about those to come.
  CreateOptions options = v.options("later");
  options.activate = true;
  options.nocopy = true;
  ASSERT_TRUE(v.engine().create(options));
  v.kill();
  open_with();
  EXPECT_EQ(v.status("later").state, SessionState::kCopyInProgress);
}

}  // namespace
}  // namespace clonefs::test
