// fsck: a good pool has no problem, in any state and after any end, and is not touched; damage is found,
// repaired as was said, and then there is none; whatever bytes a pool has, it is looked through.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <fstream>
#include <sstream>

#include "engine/pool_check.h"
#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

namespace bfs = boost::filesystem;

std::string load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
void store(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

class Fsck : public testing::Test {
 protected:
  void SetUp() override {
    v.make("file", pattern(1, 40000));
    v.mkdir("dir");
    v.make("dir/a", pattern(2, 10000));
    v.make("dir/b", pattern(3, 10));
    pool = v.engine().pool_path();
    begin("created", false);
    begin("draining", true, true);
    ASSERT_EQ(v.write("file", 20000, "saved in the journal"), 0);
    ASSERT_TRUE(v.engine().checkpoint());
    begin("copied", true);
    ASSERT_TRUE(v.drain("copied"));
    begin("over", true);
    ASSERT_TRUE(v.drain("over"));
    ASSERT_TRUE(v.engine().terminate({"over"}, false));
    CreateOptions options = v.options("precopied");
    options.precopy = true;
    ASSERT_TRUE(v.engine().create(options));
    ASSERT_TRUE(v.drain("precopied"));
  }

  void begin(const std::string& name, bool activate, bool nocopy = false) {
    CreateOptions options = v.options(name);
    options.activate = activate;
    options.nocopy = nocopy;
    ASSERT_TRUE(v.engine().create(options));
  }

  PoolReport check(bool repair = false, bool data = true) {
    PoolCheckOptions options;
    options.pool = pool;
    options.repair = repair;
    options.data = data;
    auto report = check_pool(options);
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : PoolReport{};
  }
  static std::string problems(const PoolReport& report) {
    std::string text;
    for (const auto& f : report.findings)
      if (f.problem) text += f.what + " | " + f.repair + (f.done ? " | done\n" : "\n");
    return text;
  }

  // Every name, size, time of change and byte of the pool.
  std::string image() {
    std::map<std::string, std::string> all;
    for (const auto& entry : bfs::recursive_directory_iterator(pool)) {
      struct stat st{};
      ::lstat(entry.path().c_str(), &st);
      std::string& text = all[entry.path().string()];
      text = std::to_string(st.st_mode) + " " + std::to_string(st.st_ctim.tv_sec) + "." +
             std::to_string(st.st_ctim.tv_nsec) + " ";
      if (S_ISREG(st.st_mode)) text += load(entry.path().string());
    }
    std::string text;
    for (const auto& [path, content] : all) text += path + " " + content + "\n";
    return text;
  }

  // DAMAGE is found, told with WHAT, and gone after a repair; then the volume opens.
  void damaged(const std::string& what) {
    const std::string before = image();
    const auto found = check();
    ASSERT_NE(found.problems, 0u) << what;
    EXPECT_NE(problems(found).find(what), std::string::npos) << problems(found);
    EXPECT_EQ(image(), before) << "looking changes nothing";
    const auto repaired = check(true);
    for (const auto& f : repaired.findings) {
      if (f.problem && !f.repair.empty() && f.repair.starts_with("set ")) {
        EXPECT_TRUE(f.done) << f.what;
      }
    }
    EXPECT_EQ(problems(check()), "") << what;
    const Status opened = v.open();
    ASSERT_TRUE(opened) << opened.error().message;
  }

  DirectVolume v;
  std::string pool;
};

TEST_F(Fsck, a_good_pool_has_no_problem_after_any_end) {
  EXPECT_EQ(check_pool({pool, false, false}).error().code, EBUSY);
  for (const bool clean : {true, false}) {
    if (clean) {
      ASSERT_TRUE(v.close());
    }
    v.kill();
    const std::string before = image();
    const auto report = check();
    EXPECT_EQ(problems(report), "") << clean;
    EXPECT_EQ(report.sessions, 5u);
    EXPECT_GT(report.tracks, 10u);
    EXPECT_EQ(image(), before);
    ASSERT_TRUE(v.open());
    EXPECT_EQ(v.status("draining").state, SessionState::kCopyInProgress);
  }
  EXPECT_EQ(check_pool({v.directory() + "/dir", false, false}).error().code, ENOENT);
  EXPECT_EQ(check_pool({v.directory() + "/none", false, false}).error().code, ENOENT);
}

TEST_F(Fsck, what_users_changed_is_no_problem) {
  {
    auto file = v.open_clone("copied", "dir/a");
    ASSERT_EQ(file.file->truncate(3), 0);
  }
  auto clone = v.engine().clone("copied");
  struct stat in{}, st{};
  ASSERT_EQ(::stat((pool + "/clones/copied/dir").c_str(), &in), 0);
  ASSERT_EQ(::stat((pool + "/clones/copied/dir/b").c_str(), &st), 0);
  ASSERT_EQ((*clone)->about_to_change(in.st_ino, st.st_ino), 0);
  ASSERT_EQ(::unlink((pool + "/clones/copied/dir/b").c_str()), 0);
  store(pool + "/clones/copied/dir/new", "new");
  clone = Error{};
  v.kill();
  const auto report = check();
  EXPECT_EQ(problems(report), "");
  EXPECT_EQ(report.findings.size(), 0u);
}

// Each has its own tree under the one name.
TEST_F(Fsck, the_next_generation_beside_the_one_that_is_shown) {
  RecreateOptions recreate;
  recreate.names = {"copied"};
  recreate.precopy = true;
  for (const unsigned keep : {0u, 1u}) {
    recreate.keep = keep;
    ASSERT_TRUE(v.engine().recreate(recreate));
    ASSERT_TRUE(v.drain("copied"));
    ASSERT_TRUE(v.close());
    v.kill();
    EXPECT_EQ(problems(check()), "") << keep;
    ASSERT_TRUE(v.open());
    ASSERT_TRUE(v.engine().terminate({"copied"}, true));
  }
}

TEST_F(Fsck, a_missing_member) {
  ASSERT_TRUE(v.close());
  v.kill();
  ASSERT_EQ(::unlink((pool + "/clones/copied/dir/b").c_str()), 0);
  damaged("copied: a member is missing from its tree, in dir");
  EXPECT_EQ(v.status("copied").state, SessionState::kFailed);
  EXPECT_EQ(v.status("over").state, SessionState::kTerminated);
}

TEST_F(Fsck, damaged_data) {
  ASSERT_TRUE(v.close());
  v.kill();
  const std::string path = pool + "/clones/over/file";
  std::string data = load(path);
  data[9000] = static_cast<char>(data[9000] ^ 1);
  store(path, data);
  EXPECT_EQ(check(false, false).problems, 0u);
  damaged("over: file: bytes 8192 to 12287 are not what was copied");
  EXPECT_EQ(v.status("over").state, SessionState::kFailed);
  EXPECT_TRUE(bfs::exists(path)) << "the tree stays";
}

TEST_F(Fsck, a_damaged_track_table) {
  const std::string table = pool + "/tracks/2";
  ASSERT_TRUE(v.close());
  v.kill();
  std::string bits = load(table);
  bits[20] = '\x7f';
  store(table, bits);
  damaged("draining: its track table tracks/2 is damaged: impossible bits");
  EXPECT_EQ(v.status("draining").state, SessionState::kFailed);
  EXPECT_EQ(v.status("copied").state, SessionState::kCopied);
}

TEST_F(Fsck, a_catalog_that_is_none) {
  ASSERT_TRUE(v.close());
  v.kill();
  store(pool + "/catalog.db", "garbage");
  damaged("the catalog cannot be used");
  EXPECT_EQ(load(pool + "/catalog.db.damaged-1"), "garbage");
  EXPECT_TRUE(v.engine().status().empty());
  EXPECT_TRUE(bfs::exists(pool + "/clones/copied/file"));
  EXPECT_TRUE(bfs::exists(pool + "/clones/over/file"));
}

TEST_F(Fsck, a_journal_that_is_none) {
  ASSERT_TRUE(v.close());
  v.kill();
  store(pool + "/journal/0", std::string(5000, 'x'));
  damaged("journal/0: its header is damaged");
  EXPECT_EQ(v.status("draining").state, SessionState::kCopyInProgress);  // it was a clean end
  v.kill();
  store(pool + "/journal/1", std::string(5000, 'x'));
  damaged("journal/1: its header is damaged");
  EXPECT_EQ(v.status("draining").state, SessionState::kFailed);
}

TEST_F(Fsck, what_nobody_owns) {
  ASSERT_TRUE(v.close());
  v.kill();
  bfs::create_directories(pool + "/incomplete/nobody/x");
  store(pool + "/tracks/77", "?");
  store(pool + "/stage/8", "?");
  bfs::create_directories(pool + "/clones/kept");
  EXPECT_EQ(check().findings.size(), 4u);
  EXPECT_TRUE(bfs::exists(pool + "/incomplete/nobody/x"));
  EXPECT_EQ(problems(check(true)), "");
  EXPECT_FALSE(bfs::exists(pool + "/incomplete/nobody"));
  EXPECT_FALSE(bfs::exists(pool + "/tracks/77"));
  EXPECT_FALSE(bfs::exists(pool + "/stage/8"));
  EXPECT_TRUE(bfs::exists(pool + "/clones/kept"));
  EXPECT_TRUE(bfs::exists(pool + "/incomplete/draining"));
}

// Any byte flipped, any file cut: no crash, and after a repair the volume opens or says why not.
TEST_F(Fsck, flipped_and_cut_files) {
  ASSERT_TRUE(v.close());
  v.kill();
  const bool thorough = std::getenv("CLONEFS_LONG") != nullptr;
  std::vector<std::string> files;
  for (const auto& entry : bfs::recursive_directory_iterator(pool)) {
    const std::string path = entry.path().string();
    if (path.find("/clones/") != std::string::npos || path.find("/incomplete/") != std::string::npos)
      continue;
    if (bfs::is_regular_file(entry.path()) && bfs::file_size(entry.path()) > 0) files.push_back(path);
  }
  ASSERT_GE(files.size(), 8u);
  uint64_t found = 0, runs = 0;
  for (const auto& path : files) {
    const std::string good = load(path);
    Random random(good.size());
    for (int i = 0; i < (thorough ? 2000 : 60); ++i, ++runs) {
      std::string bad = good;
      if (i % 10 == 9)
        bad.resize(random.below(bad.size()));
      else
        bad[random.below(bad.size())] ^= static_cast<char>(1 + random.below(255));
      store(path, bad);
      PoolCheckOptions options;
      options.pool = pool;
      options.data = true;
      if (const auto report = check_pool(options)) found += report->problems != 0;
      store(path, good);
    }
  }
  EXPECT_GT(found, runs / 20);
  EXPECT_EQ(problems(check()), "");
}

}  // namespace
}  // namespace clonefs::test
