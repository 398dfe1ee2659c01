#include "fs/command_paths.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace clonefs {
namespace {

namespace fs = std::filesystem;

class VolumePath : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/clonefs-paths-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    base_ = pattern;
    fs::create_directories(base_ + "/volume/a/b");
    fs::create_directories(base_ + "/volume/.clonefs/pool");
    fs::create_directories(base_ + "/volume2");
    std::ofstream(base_ + "/volume/a/file") << "x";
    std::ofstream(base_ + "/volume/[a,b]") << "x";
    fs::create_symlink("a", base_ + "/volume/inner");
    fs::create_symlink("/etc", base_ + "/volume/outer");
    fs::create_symlink("../../volume2", base_ + "/volume/a/up");
    fs::create_symlink("/nowhere", base_ + "/volume/dangling");
    source_ = ::open((base_ + "/volume").c_str(), O_RDONLY | O_DIRECTORY);
    ASSERT_GE(source_, 0);
  }
  void TearDown() override {
    ::close(source_);
    fs::remove_all(base_);
  }
  Result<std::string> path(const std::string& text) {
    return volume_path(source_, "/mnt/volume", text);
  }

  std::string base_;
  int source_ = -1;
};

TEST_F(VolumePath, Accepted) {
  const struct {
    const char* given;
    const char* clean;
  } table[] = {
      {".", "."},
      {"./", "."},
      {"a", "a"},
      {"./a//b/", "a/b"},
      {"a/file", "a/file"},
      {"a/../a/./file", "a/file"},
      {"a/b/..", "a"},
      {"/mnt/volume", "."},
      {"/mnt/volume/", "."},
      {"/mnt/volume//a/b", "a/b"},
      {"inner", "inner"},             // the link itself
      {"inner/file", "a/file"},       // through it
      {"inner/b/../file", "a/file"},  // ".." after a link is where the kernel goes
      {"outer", "outer"},
      {"dangling", "dangling"},
      {"./[a,b]", "[a,b]"},
  };
  for (const auto& row : table) {
    const auto clean = path(row.given);
    ASSERT_TRUE(clean) << row.given << ": " << clean.error().message;
    EXPECT_EQ(*clean, row.clean) << row.given;
  }
}

TEST_F(VolumePath, Refused) {
  const struct {
    std::string given;
    int code;
  } table[] = {
      {"", EINVAL},
      {"..", EXDEV},
      {"../volume2", EXDEV},
      {"a/../../volume2", EXDEV},
      {"a/../..", EXDEV},
      {"outer/passwd", EXDEV},
      {"a/up", 0},  // the link itself: all right
      {"a/up/x", EXDEV},
      {"/", EXDEV},
      {"/etc", EXDEV},
      {"/mnt/volume2", EXDEV},
      {"/mnt/volume/../x", EXDEV},
      {"nothing", ENOENT},
      {"a/nothing/x", ENOENT},
      {"a/file/x", ENOTDIR},
      {"dangling/x", EXDEV},
      {".clonefs", EINVAL},
      {".clonefs/pool", EINVAL},
      {"a/../.clonefs/pool", EINVAL},
      {std::string(5000, 'x'), ENAMETOOLONG},
      {std::string(300, 'x'), ENAMETOOLONG},
  };
  for (const auto& row : table) {
    const auto clean = path(row.given);
    if (row.code == 0) {
      EXPECT_TRUE(clean) << row.given;
      continue;
    }
    ASSERT_FALSE(clean) << row.given << " -> " << *clean;
    EXPECT_EQ(clean.error().code, row.code) << row.given << ": " << clean.error().message;
    EXPECT_FALSE(clean.error().message.empty());
  }
}

TEST(Paths, Beneath) {
  std::string relative;
  EXPECT_TRUE(path_beneath("/v", "/v", &relative));
  EXPECT_EQ(relative, ".");
  EXPECT_TRUE(path_beneath("/v", "/v/a/b", &relative));
  EXPECT_EQ(relative, "a/b");
  EXPECT_TRUE(path_beneath("/", "/v", &relative));
  EXPECT_EQ(relative, "v");
  EXPECT_FALSE(path_beneath("/v", "/vv", &relative));
  EXPECT_FALSE(path_beneath("/v/a", "/v", &relative));
}

}  // namespace
}  // namespace clonefs
