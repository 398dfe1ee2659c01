// Sessions over a clean end and over SIGKILL: they go on where they were, what cannot be trusted
// any more says so, and a damaged pool is told, never guessed at.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

namespace bfs = boost::filesystem;

enum class End { kClean, kKilled };
constexpr End kEnds[] = {End::kClean, End::kKilled};

void start_again(DirectVolume& v, End end) {
  const Status status = end == End::kClean ? v.reopen() : v.kill_reopen();
  ASSERT_TRUE(status) << status.error().message;
}

void make_tree(DirectVolume& v) {
  ASSERT_EQ(v.make("file", pattern(1, 20 * 4096)), 0);
  ASSERT_EQ(v.mkdir("dir"), 0);
  ASSERT_EQ(v.make("dir/a", pattern(2, 20 * 4096)), 0);
  ASSERT_EQ(v.make("dir/b", pattern(3, 5000), 0600), 0);
  ASSERT_EQ(v.link("dir/b", "dir/b-link"), 0);
  ASSERT_EQ(v.symlink("a", "dir/s"), 0);
  ASSERT_EQ(v.set_xattr("file", "user.x", "y"), 0);
}

// The important part of a session's status.
std::string summary(DirectVolume& v, const std::string& name) {
  const SessionStatus s = v.status(name);
  std::ostringstream text;
  text << s.name << " " << to_string(s.state) << " " << s.created_at.tv_sec << "."
       << s.created_at.tv_nsec << " " << s.activated_at.tv_sec << "." << s.activated_at.tv_nsec
       << " files " << s.files << " objects " << s.objects << " total " << s.tracks_total
       << " pending " << s.tracks_pending << " precopied " << s.tracks_precopied << " nocopy "
       << s.nocopy << " track " << s.track_size << " rate " << s.rate_limit << " column";
  for (const unsigned id : s.sessions) text << " " << id;
  for (const std::string& path : s.paths) text << " " << path;
  return text.str();
}

TEST(Persistence, sessions_in_every_state_are_taken_up_again) {
  for (const Where where : {Where::kDisk, Where::kMemory}) {
    for (const End end : kEnds) {
      DirectVolume v(where);
      make_tree(v);
      struct Kept {
        std::string name, summary;
      };
      for (const char* name : {"created", "precopy", "precopied", "active", "drained", "ended"}) {
        CreateOptions options = v.options(name);
        options.precopy = options.name[0] == 'p';
        options.activate =
            options.name == "active" || options.name == "drained" || options.name == "ended";
        if (options.name == "active") options.track_size = TrackSize(8192);
        ASSERT_TRUE(v.engine().create(options)) << name;
      }
      v.engine().step("precopy");
      v.engine().step("active");
      ASSERT_TRUE(v.drain("precopied"));
      ASSERT_TRUE(v.drain("drained"));
      ASSERT_TRUE(v.drain("ended"));
      ASSERT_TRUE(v.engine().terminate({"ended"}, false));
      const Tree expected = v.capture();
      std::map<std::string, std::string> before;
      for (const SessionStatus& s : v.engine().status()) before[s.name] = summary(v, s.name);
      ASSERT_EQ(before.size(), 6u);

      start_again(v, end);
      EXPECT_EQ(v.engine().status().size(), 6u);
      for (const auto& [name, text] : before) {
        // After SIGKILL what was written just now is compared: its ctime says nothing.
        if (end == End::kKilled && name.starts_with("precop")) continue;
        EXPECT_EQ(summary(v, name), text);
      }
      for (const char* name : {"active", "drained", "ended"}) {
        EXPECT_EQ(v.clone_difference(name, expected), "") << name;
      }
      for (const char* name : {"created", "precopy", "precopied"}) {
        const auto clone = v.engine().clone(name);
        EXPECT_FALSE(clone) << name;
      }
      // And they go on: changes are seen, commands work.
      ASSERT_EQ(v.write("file", 4096, pattern(9, 8192)), 0);
      ASSERT_EQ(v.write("dir/a", 0, pattern(8, 5000)), 0);
      ASSERT_EQ(v.unlink("dir/b"), 0);
      ASSERT_EQ(v.rename("dir/a", "dir/renamed"), 0);
      ASSERT_TRUE(v.engine().activate({"created", "precopy", "precopied"}));
      const Tree later = v.capture();
      for (const char* name : {"active", "drained", "ended"}) {
        EXPECT_EQ(v.clone_difference(name, expected), "") << name;
      }
      for (const char* name : {"created", "precopy", "precopied"}) {
        EXPECT_EQ(v.clone_difference(name, later), "") << name;
        ASSERT_TRUE(v.drain(name));
        EXPECT_EQ(v.plain_difference(name, later), "") << name;
      }
      ASSERT_TRUE(v.drain("active"));
      EXPECT_EQ(v.plain_difference("active", expected), "");
    }
  }
}

class CountingDisk : public ForwardingDisk {
 public:
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    if (size >= 4096) written += size;  // tracks, not bits
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  uint64_t written = 0;
};

TEST(Persistence, precopy_goes_on_without_copying_all_again) {
  for (const End end : kEnds) {
    CountingDisk disk;
    DirectVolume::Options o;
    o.disk = &disk;
    DirectVolume v(o);
    for (int i = 0; i < 10; ++i) {
      ASSERT_EQ(v.make("f" + std::to_string(i), pattern(static_cast<uint64_t>(i), 1 << 20)), 0);
    }
    CreateOptions options = v.options("c");
    options.precopy = true;
    ASSERT_TRUE(v.engine().create(options));
    while (v.status("c").tracks_precopied < 5 * 256) ASSERT_TRUE(v.engine().step("c"));
    const uint64_t precopied = v.status("c").tracks_precopied;
    start_again(v, end);
    // After SIGKILL what was written just now is compared: its ctime says nothing.
    if (end == End::kClean) {
      EXPECT_EQ(v.status("c").tracks_precopied, precopied);
    }
    EXPECT_EQ(v.status("c").state, SessionState::kPrecopy);
    disk.written = 0;
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(v.status("c").op_status, "precopied");
    EXPECT_LE(disk.written, (10 * 256 - precopied) * 4096);
    EXPECT_GE(disk.written, (10 * 256 - precopied) * 4096);

    // Precopied, ended, changed a little, activated: only that little is copied.
    start_again(v, end);
    disk.written = 0;
    ASSERT_EQ(v.write("f3", 10000, pattern(50, 10)), 0);
    ASSERT_TRUE(v.engine().activate({"c"}));
    const Tree expected = v.capture();
    ASSERT_TRUE(v.drain("c"));
    EXPECT_LE(disk.written, 4096u);
    EXPECT_EQ(v.plain_difference("c", expected), "");
  }
}

// Nothing is too fresh for its ctime to tell a change.
class AgedDisk : public ForwardingDisk {
 public:
  int stat(int dir, const char* path, struct stat* st) override {
    const int r = ForwardingDisk::stat(dir, path, st);
    st->st_ctim.tv_sec -= 10;
    return r;
  }
};

TEST(Persistence, after_sigkill_the_precopy_of_unchanged_files_counts) {
  AgedDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  for (const char* name : {"a", "b", "c"}) ASSERT_EQ(v.make(name, pattern(1, 40960)), 0);
  CreateOptions options = v.options("clone");
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.drain("clone"));
  ASSERT_EQ(v.status("clone").tracks_precopied, 30u);
  // One track is written, and one member gets another region: of both the table says nothing.
  ASSERT_EQ(v.write("b", 4096, pattern(2, 10)), 0);
  ASSERT_EQ(v.write("c", 40960, pattern(3, 40960)), 0);
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_EQ(v.status("clone").tracks_precopied, 10u);
  ASSERT_TRUE(v.engine().activate({"clone"}));
  const Tree expected = v.capture();
  ASSERT_TRUE(v.drain("clone"));
  EXPECT_EQ(v.plain_difference("clone", expected), "");
}

// What the journal alone knows of is lost with it: never the source's newer data instead.
TEST(Persistence, after_a_power_cut_a_damaged_journal_makes_the_clone_failed) {
  for (const bool damaged : {false, true}) {
    DirectVolume v;
    ASSERT_EQ(v.make("file", pattern(1, 40960)), 0);
    CreateOptions options = v.options("clone");
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    const Tree expected = v.capture();
    for (const uint64_t at : {uint64_t{0}, uint64_t{8192}, uint64_t{20480}}) ASSERT_EQ(v.write("file", at, "new"), 0);
    const std::string journal = v.engine().pool_path() + "/journal/";
    v.kill();
    bool hit = false;
    for (const char* name : {"0", "1"}) {
      const int fd = ::open((journal + name).c_str(), O_RDWR | O_CLOEXEC);
      char byte = 0;
      if (::pread(fd, &byte, 1, 4096 + 200) == 1 && damaged) {  // in the first record's data
        byte = static_cast<char>(byte ^ 1);
        hit = ::pwrite(fd, &byte, 1, 4096 + 200) == 1;
      }
      ::close(fd);
    }
    EXPECT_EQ(hit, damaged);
    v.use_boot("another");
    ASSERT_TRUE(v.open());
    if (damaged) {
      EXPECT_EQ(v.status("clone").state, SessionState::kFailed);
      EXPECT_NE(v.status("clone").error.find("journal"), std::string::npos);
    } else {
      EXPECT_EQ(v.clone_difference("clone", expected), "");
    }
  }
}

TEST(Persistence, the_drain_goes_on_where_it_was) {
  for (const End end : kEnds) {
    CountingDisk disk;
    DirectVolume::Options o;
    o.disk = &disk;
    DirectVolume v(o);
    ASSERT_EQ(v.make("file", pattern(1, 8 << 20)), 0);
    CreateOptions options = v.options("c");
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    const Tree expected = v.capture();
    while (v.status("c").tracks_pending > 1000) ASSERT_TRUE(v.engine().step("c"));
    const uint64_t pending = v.status("c").tracks_pending;
    start_again(v, end);
    EXPECT_EQ(v.status("c").tracks_pending, pending);
    disk.written = 0;
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(disk.written, pending * 4096);
    EXPECT_EQ(v.plain_difference("c", expected), "");
  }
}

// What the clone's user wrote is kept, over SIGKILL too.
TEST(Persistence, clone_writes_are_kept) {
  for (const End end : kEnds) {
    DirectVolume v;
    make_tree(v);
    CreateOptions options = v.options("c");
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    Tree expected = v.capture();
    {
      auto open = v.open_clone("c", "file");
      ASSERT_TRUE(open);
      const std::string data = pattern(77, 6000);
      ASSERT_EQ(open.file->write(data.data(), data.size(), 3000), 6000);
      open.clone->changed(open.ino);
      TreeObject& object = *expected["file"];
      object.data.replace(3000, 6000, data);
      object.own_ctime = object.own_mtime = true;
    }
    start_again(v, end);
    EXPECT_EQ(v.clone_difference("c", expected), "");
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(v.plain_difference("c", expected), "");
  }
}

TEST(Persistence, an_unlinked_file_that_is_needed_survives) {
  for (const Where where : {Where::kDisk, Where::kMemory}) {
    for (const End end : kEnds) {
      DirectVolume v(where);
      make_tree(v);
      CreateOptions options = v.options("c");
      options.activate = true;
      ASSERT_TRUE(v.engine().create(options));
      const Tree expected = v.capture();
      ASSERT_EQ(v.unlink("dir/a"), 0);
      ASSERT_EQ(v.make("dir/a", pattern(60, 9000)), 0);
      ASSERT_EQ(v.rename("dir/a", "file"), 0);
      start_again(v, end);
      EXPECT_EQ(v.clone_difference("c", expected), "");
      ASSERT_TRUE(v.drain("c"));
      EXPECT_EQ(v.status("c").state, SessionState::kCopied) << v.status("c").error;
      EXPECT_EQ(v.plain_difference("c", expected), "");
      // Nothing stays behind.
      const bfs::path limbo = v.directory() + "/.clonefs/limbo";
      EXPECT_TRUE(!bfs::exists(limbo) || bfs::is_empty(limbo));
    }
  }
}

// --- changes behind clonefs's back

struct Behind {
  const char* name;
  std::function<void(const std::string& directory)> change;
};

void PrintTo(const Behind& behind, std::ostream* out) {
  *out << behind.name;
}

const std::vector<Behind>& behinds() {
  static const std::vector<Behind> all = {
      {"write",
       [](const std::string& d) {
         std::fstream(d + "/dir/a", std::ios::in | std::ios::out | std::ios::binary) << "changed";
       }},
      {"append",
       [](const std::string& d) {
         std::ofstream(d + "/dir/a", std::ios::app | std::ios::binary) << "changed";
       }},
      {"truncate", [](const std::string& d) { bfs::resize_file(d + "/dir/a", 100); }},
      {"unlink", [](const std::string& d) { bfs::remove(d + "/dir/a"); }},
      {"replace",
       [](const std::string& d) {
         std::ofstream(d + "/new") << "another file";
         bfs::rename(d + "/new", d + "/dir/a");
       }},
  };
  return all;
}

class BehindOurBack : public testing::TestWithParam<Behind> {};

TEST_P(BehindOurBack, an_undrained_clone_fails_and_names_the_file) {
  for (const Where where : {Where::kDisk, Where::kMemory}) {
    DirectVolume v(where);
    make_tree(v);
    for (const char* name : {"all", "other", "drained"}) {
      CreateOptions options = v.options(name, {name == std::string("other") ? "file" : "."});
      options.activate = true;
      ASSERT_TRUE(v.engine().create(options));
    }
    ASSERT_TRUE(v.drain("drained"));
    const Tree expected = v.capture();
    ASSERT_TRUE(v.close());
    GetParam().change(v.directory());
    ASSERT_TRUE(v.open());
    const SessionStatus failed = v.status("all");
    EXPECT_EQ(failed.state, SessionState::kFailed);
    EXPECT_NE(failed.error.find("dir/a"), std::string::npos) << failed.error;
    auto clone = v.engine().clone("all");
    ASSERT_TRUE(clone);
    EXPECT_EQ((*clone)->error(), EIO);
    // Who does not depend on that file goes on.
    EXPECT_EQ(v.status("drained").state, SessionState::kCopied);
    EXPECT_EQ(v.clone_difference("drained", expected), "");
    Tree only;
    only["file"] = expected.at("file");
    EXPECT_EQ(v.clone_difference("other", only, {"file"}), "");
    ASSERT_TRUE(v.drain("other"));
    EXPECT_EQ(v.status("other").state, SessionState::kCopied);
    // The source works, and the failed session can be removed.
    EXPECT_EQ(v.write("file", 0, "x"), 0);
    EXPECT_TRUE(v.engine().remove({"all"}, true));
  }
}

TEST_P(BehindOurBack, before_activation_the_clone_is_brought_up_to_date) {
  for (const bool precopy : {false, true}) {
    DirectVolume v(Where::kDisk);
    make_tree(v);
    CreateOptions options = v.options("c");
    options.precopy = precopy;
    ASSERT_TRUE(v.engine().create(options));
    if (precopy) {
      ASSERT_TRUE(v.drain("c"));
    }
    ASSERT_TRUE(v.close());
    GetParam().change(v.directory());
    ASSERT_TRUE(v.open());
    const Status activated = v.engine().activate({"c"});
    ASSERT_TRUE(activated) << activated.error().message;
    const Tree expected = v.capture();
    EXPECT_EQ(v.clone_difference("c", expected), "") << precopy;
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(v.plain_difference("c", expected), "") << precopy;
  }
}

INSTANTIATE_TEST_SUITE_P(Changes, BehindOurBack, testing::ValuesIn(behinds()),
                         [](const auto& param) { return std::string(param.param.name); });

// --- the pool

TEST(Pool, is_for_one_engine_at_a_time) {
  DirectVolume v;
  make_tree(v);
  auto second = Engine::open(v.engine_options());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EBUSY) << second.error().message;
  ASSERT_TRUE(v.close());
  auto third = Engine::open(v.engine_options());
  EXPECT_TRUE(third) << third.error().message;
  third = Error{};
  EXPECT_TRUE(v.open());
}

TEST(Pool, a_volume_and_a_pool_are_locked_each) {
  DirectVolume::Options o;
  o.pool = Where::kMemory;
  DirectVolume v(o), other(o);
  EngineOptions options = v.engine_options();
  options.pool = other.engine_options().pool + "-too";  // the same volume with another pool
  auto engine = Engine::open(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, EBUSY) << engine.error().message;
  ASSERT_TRUE(other.close());
  options = other.engine_options();
  options.pool = v.engine_options().pool;  // another volume with the same pool
  engine = Engine::open(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, EBUSY) << engine.error().message;
  EXPECT_NE(engine.error().message.find("in use by another clonefs"), std::string::npos)
      << engine.error().message;  // not the catalog's own lock, which comes later
}

TEST(Pool, belongs_to_one_volume) {
  DirectVolume::Options o;
  o.pool = Where::kMemory;
  DirectVolume v(o), other;
  make_tree(v);
  ASSERT_TRUE(v.engine().create(v.options("c")));
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  EngineOptions options = other.engine_options();
  ASSERT_TRUE(other.close());
  options.pool = pool;
  auto engine = Engine::open(options);
  ASSERT_FALSE(engine);
  EXPECT_NE(engine.error().message.find(pool), std::string::npos) << engine.error().message;
  EXPECT_TRUE(v.open());
  EXPECT_EQ(v.status("c").state, SessionState::kCreated);
}

TEST(Pool, is_private) {
  DirectVolume v;
  struct stat st {};
  ASSERT_EQ(stat(v.engine().pool_path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
  EXPECT_EQ(v.engine().pool_path().find(v.directory()), 0u) << v.engine().pool_path();
}

TEST(Pool, is_made_private_again) {
  DirectVolume v;
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  ASSERT_EQ(chmod(pool.c_str(), 0777), 0);
  ASSERT_EQ(chmod((v.directory() + "/.clonefs").c_str(), 0755), 0);
  ASSERT_TRUE(v.open());
  for (const std::string& path : {pool, v.directory() + "/.clonefs"}) {
    struct stat st {};
    ASSERT_EQ(stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777, 0700u) << path;
  }
}

// Its owner could have written a catalog by which another's daemon writes to any file.
TEST(Pool, of_another_user_is_refused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  DirectVolume v;
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  for (const std::string& path : {pool, v.directory() + "/.clonefs"}) {
    ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
    const Status status = v.open();
    ASSERT_FALSE(status) << path;
    EXPECT_EQ(status.error().code, EPERM) << status.error().message;
    EXPECT_NE(status.error().message.find("65534"), std::string::npos) << status.error().message;
    ASSERT_EQ(chown(path.c_str(), 0, 0), 0);
  }
  ASSERT_TRUE(v.open());
}

TEST(Pool, cannot_be_anything) {
  DirectVolume v;
  make_tree(v);
  ASSERT_TRUE(v.close());
  for (const std::string& pool :
       {v.directory() + "/file", v.directory() + "/file/pool", v.directory() + "/no/such/place"}) {
    EngineOptions options = v.engine_options();
    options.pool = pool;
    auto engine = Engine::open(options);
    ASSERT_FALSE(engine) << pool;
    EXPECT_NE(engine.error().message.find(pool), std::string::npos) << engine.error().message;
  }
  ASSERT_TRUE(v.open());
}

std::string load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}
void store(const std::string& path, const std::string& data) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << data;
}

// Every file directly in the pool whose name tells of the catalog.
std::vector<std::string> catalog_files(const std::string& pool) {
  std::vector<std::string> files;
  for (const auto& entry : bfs::directory_iterator(pool)) {
    if (bfs::is_regular_file(entry.path()) &&
        entry.path().filename().string().find("catalog") == 0) {
      files.push_back(entry.path().string());
    }
  }
  return files;
}

TEST(Pool, a_damaged_catalog_is_told_and_nothing_is_touched) {
  DirectVolume v;
  make_tree(v);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_TRUE(v.engine().create(options));
  const Tree expected = v.capture();
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  const auto files = catalog_files(pool);
  ASSERT_FALSE(files.empty());
  const std::string catalog = files[0];
  const std::string good = load(catalog);
  ASSERT_GT(good.size(), 4096u);

  std::vector<std::pair<std::string, std::string>> bad = {
      {"garbage", pattern(1, good.size())},
      {"short garbage", "hello"},
      {"a text of some length", std::string(10000, 'x')},
      {"zeros", std::string(good.size(), '\0')},
      {"half", good.substr(0, good.size() / 2)},
      {"first page", good.substr(0, 4096)},
      {"first bytes", good.substr(0, 100)},
      {"no first page", std::string(4096, '\0') + good.substr(4096)},
      {"garbage behind the first page", good.substr(0, 4096) + pattern(2, good.size() - 4096)},
  };
  for (const auto& [what, data] : bad) {
    store(catalog, data);
    const Status status = v.open();
    EXPECT_FALSE(status) << what << " was taken for a catalog";
    if (status) {
      v.kill();
    } else {
      EXPECT_NE(status.error().message.find(pool), std::string::npos)
          << what << ": " << status.error().message;
    }
    store(catalog, good);
  }
  ASSERT_TRUE(v.open());
  EXPECT_EQ(v.clone_difference("c", expected), "");
}

// Any single damaged byte: the engine opens or refuses, and never crashes.
TEST(Pool, damaged_bytes_of_the_catalog_do_not_crash) {
  DirectVolume v;
  make_tree(v);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_TRUE(v.engine().create(options));
  const std::string pool = v.engine().pool_path();
  ASSERT_TRUE(v.close());
  const auto files = catalog_files(pool);
  ASSERT_FALSE(files.empty());
  const std::string good = load(files[0]);
  const Seeds range = seeds(60, 2000);
  int refused = 0;
  for (uint64_t seed = range.first; seed < range.first + range.count; ++seed) {
    Random random(seed);
    std::string bad = good;
    for (uint64_t i = 0; i < 1 + random.below(20); ++i) {
      bad[random.below(bad.size())] = static_cast<char>(random.below(256));
    }
    store(files[0], bad);
    const Status status = v.open();
    if (status) {
      v.engine().status();
      v.engine().step("c");
      v.kill();
    } else {
      ++refused;
      EXPECT_FALSE(status.error().message.empty());
    }
    for (const std::string& file : catalog_files(pool)) {
      if (file != files[0]) bfs::remove(file);  // what the open left
    }
  }
  store(files[0], good);
  EXPECT_GT(refused, 0);
}

TEST(Pool, impossible_bits_fail_the_session) {
  struct Row {
    const char* what;
    std::function<std::string(const std::string&)> damage;
  };
  const Row rows[] = {
      {"both protection bits", [](const std::string& t) { return std::string(t.size(), '\3'); }},
      {"unknown bits", [](const std::string& t) { return std::string(t.size(), '\x80'); }},
      {"nothing", [](const std::string&) { return std::string(); }},
      {"cut", [](const std::string& t) { return t.substr(0, t.size() / 2); }},
  };
  for (const Row& row : rows) {
    DirectVolume v;
    make_tree(v);
    CreateOptions options = v.options("c");
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    const std::string pool = v.engine().pool_path();
    ASSERT_TRUE(v.close());
    int files = 0;
    for (const auto& entry : bfs::directory_iterator(pool + "/tracks")) {
      if (entry.path().has_extension()) continue;  // not read at a mount
      const std::string good = load(entry.path().string());
      if (good.empty()) continue;
      store(entry.path().string(), row.damage(good));
      ++files;
    }
    ASSERT_EQ(files, 1);
    const Status status = v.open();
    ASSERT_TRUE(status) << row.what << ": " << status.error().message;
    EXPECT_EQ(v.status("c").state, SessionState::kFailed) << row.what;
    EXPECT_FALSE(v.status("c").error.empty()) << row.what;
    EXPECT_EQ(v.write("file", 0, "goes on"), 0);
    EXPECT_TRUE(v.engine().remove({"c"}, true));
  }
}

}  // namespace
}  // namespace clonefs::test
