// Trees that are large in one way: many files, many levels, many directories in one. Nothing that the
// engine keeps or opens may grow with them but what it must.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // memory is not the allocator's that mallinfo2 asks
#else
constexpr bool kSanitized = false;
#endif

size_t memory_in_use() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

// While it lives no more than COUNT descriptors may be open.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t count) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few = {count, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

constexpr rlim_t kDescriptors = 100;
constexpr int kMany = 400;  // levels, or directories in one

void make_deep(DirectVolume& v, const std::string& top) {
  ASSERT_EQ(::mkdirat(v.root(), top.c_str(), 0755), 0);
  int at = ::openat(v.root(), top.c_str(), O_PATH | O_DIRECTORY);
  for (int level = 0; level < kMany; ++level) {
    ASSERT_EQ(::mkdirat(at, "d", level % 7 == 3 ? 0500 : 0755), 0);
    const int file = ::openat(at, "f", O_CREAT | O_WRONLY, 0644);
    ASSERT_EQ(::pwrite(file, "x", 1, 0), 1);
    ::close(file);
    const int next = ::openat(at, "d", O_PATH | O_DIRECTORY);
    ::close(at);
    at = next;
  }
  ::close(at);
}

// One million files with CLONEFS_LONG.
TEST(BigTree, a_file_takes_few_bytes_of_memory) {
  const bool thorough = std::getenv("CLONEFS_LONG") != nullptr;
  const unsigned files = thorough ? 1'000'000 : 40'000;
  DirectVolume v;
  int dir = -1;
  for (unsigned i = 0; i < files; ++i) {
    if (i % 1000 == 0) {
      ::close(dir);
      const std::string name = "d" + std::to_string(i);
      ASSERT_EQ(::mkdirat(v.root(), name.c_str(), 0755), 0);
      dir = ::openat(v.root(), name.c_str(), O_PATH | O_DIRECTORY);
    }
    const int fd = ::openat(dir, std::to_string(i).c_str(), O_CREAT | O_WRONLY, 0644);
    ASSERT_EQ(::pwrite(fd, "x", 1, 0), 1);
    ::close(fd);
  }
  ::close(dir);
  if (!thorough) {
    // What the catalog keeps is there once, whatever the number.
    ASSERT_TRUE(v.engine().create(v.options("first")));
    ASSERT_TRUE(v.engine().terminate({"first"}, true));
  }
  const size_t before = memory_in_use();
  ASSERT_TRUE(v.engine().create(v.options("c")));
  const size_t bytes = (memory_in_use() - before) / files;
  RecordProperty("bytes", static_cast<int>(bytes));
  EXPECT_EQ(v.status("c").files, files);
  if (!kSanitized) {
    EXPECT_LT(bytes, 300u);
  }
  if (thorough) {
    unsigned said = 0;
    for (const auto& event : v.engine().events(0)) said += event.text.starts_with("creating c: ");
    EXPECT_EQ(said, files / 100'000);
  }
  ASSERT_TRUE(v.engine().terminate({"c"}, true));
  const size_t after = memory_in_use();
  if (!kSanitized) {
    EXPECT_LT(after, before + size_t{files} * 16);
  }
}

TEST(BigTree, a_deep_tree_is_built_and_removed_with_few_descriptors) {
  DirectVolume v;
  ASSERT_EQ(v.mkdir("top"), 0);
  make_deep(v, "top/deep");
  const FewDescriptors few(kDescriptors);
  Status status = v.engine().create(v.options("c", {"top"}));
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(v.status("c").objects, 2u * kMany + 3);
  // It leaves the selected tree: the next pass takes it out of the skeleton.
  ASSERT_TRUE(v.engine().precopy({"c"}));
  ASSERT_TRUE(v.drain("c"));
  ASSERT_EQ(v.rename("top/deep", "elsewhere"), 0);
  status = v.engine().activate({"c"});
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(v.status("c").objects, 2u);
  EXPECT_EQ(v.clone_difference("c", v.capture({"top"}), {"top"}), "");
  // A whole clone is removed with the session.
  status = v.engine().create(v.options("whole"));
  ASSERT_TRUE(status) << status.error().message;
  status = v.engine().terminate({"whole"}, true);
  ASSERT_TRUE(status) << status.error().message;
}

TEST(BigTree, a_long_selected_path_is_taken_up_with_few_descriptors) {
  DirectVolume v;
  make_deep(v, "top");
  std::string path = "top";
  for (int level = 0; level < kMany; ++level) path += "/d";
  const FewDescriptors few(kDescriptors);
  Status status = v.engine().create(v.options("c", {path}));
  ASSERT_TRUE(status) << status.error().message;
  status = v.kill_reopen();
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(v.status("c").state, SessionState::kCreated) << v.status("c").error;
  ASSERT_TRUE(v.engine().activate({"c"}));
  EXPECT_EQ(v.clone_difference("c", v.capture({path}), {path}), "");
}

TEST(BigTree, many_directories_in_one_are_taken_up_with_few_descriptors) {
  DirectVolume v;
  for (int i = 0; i < kMany; ++i) {
    ASSERT_EQ(v.mkdir("d" + std::to_string(i)), 0);
    ASSERT_EQ(v.make("d" + std::to_string(i) + "/file", "x"), 0);
  }
  ASSERT_TRUE(v.engine().create(v.options("c")));
  const FewDescriptors few(kDescriptors);
  const Status status = v.kill_reopen();
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(v.status("c").state, SessionState::kCreated) << v.status("c").error;
}

}  // namespace
}  // namespace clonefs::test
