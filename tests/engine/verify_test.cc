// verify: damage anywhere in a clone's files is found, and named by file and range; what users did to
// their clones, and what the engine does meanwhile, is never taken for damage.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

namespace bfs = boost::filesystem;

constexpr uint64_t kTrack = 4096;

class Verify : public testing::Test {
 protected:
  void SetUp() override {
    v.make("file", pattern(1, 6 * kTrack + 10));
    v.make("small", "x");
    v.make("empty", "");
    v.mkdir("dir");
    v.make("dir/a", pattern(2, 3 * kTrack));
    v.make("dir/b", pattern(3, 100));
    v.symlink("a", "dir/link");
    v.make("holes", "");
    v.write("holes", 2 * kTrack, pattern(4, 100));
    v.write("holes", 9 * kTrack, pattern(5, kTrack));
    v.truncate("holes", 30 * kTrack);
  }

  void copy(const std::string& name, bool nocopy = false) {
    CreateOptions options = v.options(name);
    options.activate = true;
    options.nocopy = nocopy;
    ASSERT_TRUE(v.engine().create(options));
    if (!nocopy) {
      ASSERT_TRUE(v.drain(name));
    }
  }

  VerifyReport verify(const std::string& name = "c") {
    auto report = v.engine().verify(name);
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : VerifyReport{};
  }

  std::string in_pool(const std::string& path, const std::string& name = "c") {
    return v.status(name).destination + "/" + path;
  }

  // Behind the engine's back.
  void flip(const std::string& path, uint64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_TRUE(file) << path;
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  }

  DirectVolume v;
};

TEST_F(Verify, a_whole_clone) {
  copy("c");
  const auto report = verify();
  EXPECT_EQ(report.damaged, 0u);
  EXPECT_EQ(report.files, 6u);
  EXPECT_EQ(report.altered, 0u);
  EXPECT_EQ(report.source_tracks, 0u);
  EXPECT_NE(v.status("c").verified_at.tv_sec, 0);
  EXPECT_EQ(v.status("c").damaged, 0u);
}

TEST_F(Verify, each_flipped_byte_is_found_where_it_is) {
  copy("c");
  struct Place {
    const char* path;
    uint64_t size;
  };
  for (const auto& [path, size] : {Place{"file", 6 * kTrack + 10}, Place{"dir/a", 3 * kTrack},
                                   Place{"dir/b", 100}, Place{"small", 1},
                                   Place{"holes", 30 * kTrack}}) {
    Random random(size);
    for (int i = 0; i < 20; ++i) {
      const uint64_t at = i == 0 ? size - 1 : random.below(size);
      flip(in_pool(path), at);
      const auto report = verify();
      ASSERT_EQ(report.damaged, 1u) << path << " " << at;
      const auto& f = report.findings.front();
      EXPECT_EQ(f.path, path);
      EXPECT_EQ(f.range.offset, at / kTrack * kTrack);
      EXPECT_EQ(f.range.end(), std::min(size, (at / kTrack + 1) * kTrack));
      flip(in_pool(path), at);
    }
  }
  EXPECT_EQ(verify().damaged, 0u);
}

TEST_F(Verify, damaged_tracks_that_follow_each_other_are_one_range) {
  copy("c");
  for (const uint64_t track : {1, 2, 3, 5}) flip(in_pool("file"), track * kTrack + 7);
  const auto report = verify();
  ASSERT_EQ(report.damaged, 2u);
  EXPECT_EQ(report.findings[0].range, (ByteRange{kTrack, 3 * kTrack}));
  EXPECT_EQ(report.findings[1].range, (ByteRange{5 * kTrack, kTrack}));
  EXPECT_EQ(v.status("c").damaged, 2u);
}

TEST_F(Verify, members_that_are_missing_cut_or_of_another_type) {
  copy("c");
  ASSERT_EQ(::unlink(in_pool("dir/b").c_str()), 0);
  ASSERT_EQ(::unlink(in_pool("dir/link").c_str()), 0);
  ASSERT_EQ(::truncate(in_pool("file").c_str(), 100), 0);
  const auto report = verify();
  ASSERT_EQ(report.damaged, 3u) << v.damage("c");
  const std::string damage = v.damage("c");
  EXPECT_NE(damage.find("dir 0+0 a file of it is missing"), std::string::npos) << damage;
  EXPECT_NE(damage.find("dir 0+0 a symbolic link of it is missing"), std::string::npos) << damage;
  EXPECT_NE(damage.find("file 0+0 has 100 bytes, had " + std::to_string(6 * kTrack + 10)),
            std::string::npos)
      << damage;
}

TEST_F(Verify, over_every_way_to_the_clone_and_over_restarts) {
  CreateOptions options = v.options("c");
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.write("file", 100, pattern(6, 5000)), 0);
  ASSERT_TRUE(v.engine().step("c"));
  ASSERT_EQ(v.write("file", 6 * kTrack, pattern(7, 20 * kTrack)), 0);  // a region of its own
  ASSERT_EQ(v.truncate("dir/a", kTrack + 5), 0);
  ASSERT_EQ(v.truncate("dir/a", 3 * kTrack), 0);
  EXPECT_FALSE(v.engine().verify("c"));  // there is no clone yet
  ASSERT_TRUE(v.kill_reopen());
  ASSERT_TRUE(v.drain("c"));
  ASSERT_TRUE(v.engine().activate({"c"}));
  ASSERT_EQ(v.write("file", 5 * kTrack, pattern(8, 2 * kTrack)), 0);
  EXPECT_EQ(v.damage("c"), "");
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_EQ(v.damage("c"), "");
  ASSERT_TRUE(v.drain("c"));
  flip(in_pool("file"), 20 * kTrack);
  const std::string damage = v.damage("c");
  EXPECT_EQ(damage, "file " + std::to_string(20 * kTrack) + "+4096 is not what was copied\n");
  ASSERT_TRUE(v.reopen());
  EXPECT_EQ(v.damage("c"), damage);
  ASSERT_TRUE(v.engine().terminate({"c"}, false));
  EXPECT_EQ(v.damage("c"), damage);
  ASSERT_TRUE(v.reopen());
  EXPECT_EQ(v.damage("c"), damage);
  // What the catalog says of it goes on saying so.
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  struct stat st{};
  ASSERT_EQ(::stat(in_pool("file").c_str(), &st), 0);
  (*clone)->changed(st.st_ino);
  ASSERT_TRUE(v.reopen());
  EXPECT_EQ(v.damage("c"), damage);
}

// Digests go where the tracks go, in a session that nothing interrupts.
TEST_F(Verify, members_that_grow_and_shrink_before_activation) {
  CreateOptions options = v.options("c");
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.write("file", 7 * kTrack, pattern(7, 20 * kTrack)), 0);  // a region of its own
  ASSERT_EQ(v.truncate("dir/a", kTrack), 0);
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.truncate("dir/a", 3 * kTrack), 0);  // the same region, where now is a hole
  ASSERT_TRUE(v.drain("c"));
  ASSERT_TRUE(v.engine().activate({"c"}));
  EXPECT_EQ(v.clone_difference("c", v.capture()), "");
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.damage("c"), "");
  flip(in_pool("file"), 3 * kTrack);
  EXPECT_EQ(v.damage("c"), "file 12288+4096 is not what was copied\n");
}

TEST_F(Verify, what_is_pending_is_read_on_the_source) {
  copy("c", true);
  auto report = verify();
  EXPECT_EQ(report.damaged, 0u);
  EXPECT_EQ(report.tracks, 0u + 28);  // the holes
  EXPECT_EQ(report.source_tracks, 7u + 1 + 3 + 1 + 2);
  ASSERT_EQ(v.write("file", 2 * kTrack, "y"), 0);
  report = verify();
  EXPECT_EQ(report.damaged, 0u);
  EXPECT_EQ(report.source_tracks, 13u);
}

TEST_F(Verify, a_source_that_cannot_be_read) {
  struct Unreadable : ForwardingDisk {
    ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
      struct stat st{};
      if (::fstat(fd, &st) == 0 && st.st_ino == ino) return -EIO;
      return ForwardingDisk::pread(fd, data, size, offset);
    }
    std::atomic<ino_t> ino{0};
  } disk;
  DirectVolume::Options options;
  options.disk = &disk;
  DirectVolume w(options);
  w.make("file", pattern(1, 2 * kTrack));
  CreateOptions create = w.options("c");
  create.activate = true;
  create.nocopy = true;
  ASSERT_TRUE(w.engine().create(create));
  struct stat st{};
  ASSERT_EQ(::stat((w.directory() + "/file").c_str(), &st), 0);
  disk.ino = st.st_ino;
  EXPECT_EQ(w.damage("c"),
            "file 0+8192 is not copied yet, and its source cannot be read: Input/output error\n");
  disk.ino = 0;
  EXPECT_EQ(w.damage("c"), "");
  ASSERT_TRUE(w.engine().activate({"c"}).error().code == EALREADY);
}

TEST_F(Verify, a_clone_that_cannot_be_read) {
  struct Unreadable : ForwardingDisk {
    ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
      struct stat st{};
      if (::fstat(fd, &st) == 0 && st.st_ino == ino && offset < 3 * kTrack && offset + size > 2 * kTrack)
        return -EIO;
      return ForwardingDisk::pread(fd, data, size, offset);
    }
    std::atomic<ino_t> ino{0};
  } disk;
  copy("c");
  ASSERT_TRUE(v.close());
  v.use_disk(disk);
  ASSERT_TRUE(v.open());
  struct stat st{};
  ASSERT_EQ(::stat(in_pool("file").c_str(), &st), 0);
  disk.ino = st.st_ino;
  EXPECT_EQ(v.damage("c"), "file 8192+4096 cannot be read: Input/output error\n");
  v.kill();
}

TEST_F(Verify, what_users_changed_is_not_checked) {
  copy("c");
  copy("d", true);
  for (const char* name : {"c", "d"}) {
    const uint64_t files = verify(name).files;
    {
      auto file = v.open_clone(name, "file");
      ASSERT_TRUE(file);
      ASSERT_EQ(file.file->write("zz", 2, 3 * kTrack), 2);
    }
    EXPECT_EQ(verify(name).altered, 1u);
    {
      auto file = v.open_clone(name, "holes");
      ASSERT_EQ(file.file->truncate(17), 0);
    }
    {
      auto file = v.open_clone(name, "dir/a");
      ASSERT_EQ(file.file->allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10), 0);
    }
    auto clone = v.engine().clone(name);
    ASSERT_TRUE(clone);
    // By passthrough: only announced.
    struct stat st{};
    ASSERT_EQ(::stat(in_pool("small", name).c_str(), &st), 0);
    ASSERT_EQ((*clone)->about_to_change(st.st_ino), 0);
    flip(in_pool("small", name), 0);
    // Attributes alone don't count.
    ASSERT_EQ(::stat(in_pool("empty", name).c_str(), &st), 0);
    (*clone)->changed(st.st_ino);
    for (int turn = 0; turn < 2; ++turn) {
      const auto report = verify(name);
      EXPECT_EQ(v.damage(name), "");
      EXPECT_EQ(report.altered, 4u);
      EXPECT_EQ(report.files, files);
      flip(in_pool("dir/b", name), 5);
      EXPECT_EQ(verify(name).damaged, name[0] == 'c' ? 1u : 0u);  // d's is pending
      flip(in_pool("dir/b", name), 5);
      // As after SIGKILL: it was recorded before.
      clone = Error{};
      ASSERT_TRUE(v.kill_reopen());
    }
  }
}

TEST_F(Verify, names_that_users_removed_are_not_missing) {
  v.make("dir/two", pattern(9, 10));
  v.mkdir("other");
  v.link("dir/two", "other/two");
  v.mkdir("dir/deep");
  v.make("dir/deep/c", "c");
  copy("c");
  auto clone = v.engine().clone("c");
  ASSERT_TRUE(clone);
  const auto remove = [&](const std::string& dir, const std::string& name) {
    struct stat in{}, st{};
    ASSERT_EQ(::stat(in_pool(dir).c_str(), &in), 0);
    ASSERT_EQ(::lstat(in_pool(dir + "/" + name).c_str(), &st), 0);
    ASSERT_EQ((*clone)->about_to_change(in.st_ino, st.st_ino), 0);
    ASSERT_EQ(::remove(in_pool(dir + "/" + name).c_str()), 0);
  };
  remove("dir", "b");
  remove("dir/deep", "c");
  remove("dir", "deep");
  remove("other", "two");
  remove("dir", "two");
  EXPECT_EQ(v.damage("c"), "");
  EXPECT_EQ(verify().altered, 4u);
  // Without a word it is damage, but only where users have not removed anything.
  ASSERT_EQ(::unlink(in_pool("small").c_str()), 0);
  EXPECT_EQ(verify().damaged, 1u);
  clone = Error{};
  ASSERT_TRUE(v.kill_reopen());
  EXPECT_EQ(verify().damaged, 1u);
}

TEST_F(Verify, ends_when_the_clone_does) {
  copy("c");
  EXPECT_EQ(v.engine().verify("none").error().code, ENOENT);
  unsigned asked = 0;
  EXPECT_EQ(v.engine().verify("c", [&] { return ++asked > 3; }).error().code, EINTR);
  EXPECT_EQ(v.status("c").verified_at.tv_sec, 0);
  // Removed while it runs: removing waits for nothing.
  const auto report = v.engine().verify("c", [&] {
    if (v.engine().status("c")) {
      EXPECT_TRUE(v.engine().remove({"c"}));
    }
    return false;
  });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ENOENT);
}

TEST_F(Verify, digests_that_are_lost_are_no_damage_of_the_data) {
  copy("c");
  const std::string digests = v.engine().pool_path() + "/tracks/1.digests";
  ASSERT_TRUE(bfs::exists(digests));
  flip(digests, 3);
  EXPECT_EQ(v.engine().verify("c").error().code, ENODATA);
  ASSERT_TRUE(v.reopen());
  EXPECT_EQ(v.engine().verify("c").error().code, ENODATA);
  EXPECT_EQ(v.status("c").state, SessionState::kCopied);
  ASSERT_EQ(::unlink(digests.c_str()), 0);
  EXPECT_FALSE(v.engine().verify("c"));
  ASSERT_TRUE(v.engine().remove({"c"}));
  // Deleted, nothing of it is left.
  copy("d");
  ASSERT_TRUE(v.engine().terminate({"d"}, false));
  ASSERT_TRUE(v.engine().remove({"d"}));
  EXPECT_TRUE(bfs::is_empty(v.engine().pool_path() + "/tracks"));
}

}  // namespace
}  // namespace clonefs::test
