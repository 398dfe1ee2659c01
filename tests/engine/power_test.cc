// Power cuts that lost something once, each as short as it can be; the simulator found them.
#include <gtest/gtest.h>

#include "tests/engine/catalog_vfs.h"
#include "tests/engine/direct_volume.h"
#include "tests/engine/power_disk.h"

namespace clonefs::test {
namespace {

class Power : public testing::Test {
 protected:
  Power() : disk_(1), vfs_(disk_) {
    disk_.distinct_ctimes = true;
    DirectVolume::Options options;
    options.disk = &disk_;
    options.volume_disk = &disk_.volume();
    options.present = [this](struct stat* st) { disk_.present(st); };
    options.boot = "0";
    v_ = std::make_unique<DirectVolume>(options);
  }

  void cut(PowerDisk::Survives what) {
    v_->kill();
    disk_.cut(what);
    v_->use_boot(std::to_string(++boot_));
    const Status status = v_->open();
    ASSERT_TRUE(status) << status.error().message;
  }
  void create(const std::string& name, bool precopy = false, bool activate = true) {
    CreateOptions options = v_->options(name);
    options.precopy = precopy;
    options.activate = activate && !precopy;
    const Status status = v_->engine().create(options);
    ASSERT_TRUE(status) << status.error().message;
  }
  std::string state(const std::string& name) const {
    const SessionStatus s = v_->status(name);
    return s.name.empty() ? "none" : std::string(to_string(s.state)) + s.error;
  }

  PowerDisk disk_;
  CatalogVfs vfs_;
  std::unique_ptr<DirectVolume> v_;
  int boot_ = 0;
};

TEST_F(Power, what_no_program_had_synced_is_in_a_clone_that_was_acknowledged) {
  ASSERT_EQ(v_->make("a", pattern(1, 9000)), 0);
  ASSERT_EQ(v_->make("b", pattern(2, 9000)), 0);
  create("c");
  const Tree tree = v_->capture();
  ASSERT_TRUE(v_->engine().step("c"));  // one of the two is copied
  ASSERT_TRUE(v_->engine().checkpoint());
  cut({});
  EXPECT_EQ(v_->clone_difference("c", tree), "");
}

TEST_F(Power, a_clean_end_is_one_whatever_follows) {
  ASSERT_EQ(v_->make("a", pattern(1, 9000)), 0);
  disk_.settle();
  create("c");
  create("drained");
  const Tree tree = v_->capture();
  ASSERT_TRUE(v_->drain("drained"));
  ASSERT_EQ(v_->write("a", 0, pattern(3, 100)), 0);
  ASSERT_TRUE(v_->close());
  cut({});
  EXPECT_EQ(state("c"), "CopyInProgress");
  EXPECT_EQ(v_->clone_difference("c", tree), "");
  EXPECT_EQ(state("drained"), "Copied");
  EXPECT_EQ(v_->clone_difference("drained", tree), "");
}

// What fdatasync makes durable of an overwritten page.
TEST_F(Power, data_may_be_newer_than_the_ctime) {
  ASSERT_EQ(v_->make("a", pattern(1, 9000)), 0);
  disk_.settle();
  create("c", true);
  ASSERT_TRUE(v_->drain("c"));
  ASSERT_TRUE(v_->engine().checkpoint());
  disk_.settle();
  ASSERT_EQ(v_->write("a", 100, pattern(2, 500)), 0);
  cut({.data = true});
  ASSERT_EQ(v_->content("a").substr(100, 500), pattern(2, 500));
  ASSERT_TRUE(v_->engine().activate({"c"}));
  const Tree tree = v_->capture();
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(v_->clone_difference("c", tree), "");
}

TEST_F(Power, the_name_of_a_deleted_clone_can_be_used_again) {
  ASSERT_EQ(v_->make("a", pattern(1, 9000)), 0);
  create("c");
  ASSERT_TRUE(v_->drain("c"));
  disk_.settle();
  ASSERT_TRUE(v_->engine().remove({"c"}));
  cut({});
  EXPECT_EQ(state("c"), "none");
  create("c");
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(state("c"), "Copied");
}

// The journal is free again when a checkpoint is durable, not when one was tried.
TEST_F(Power, checkpoints_that_fail_let_go_of_nothing) {
  ASSERT_EQ(v_->make("a", pattern(1, 5 * 4096)), 0);
  disk_.settle();
  create("c");
  const Tree tree = v_->capture();
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(v_->write("a", i * 4096, pattern(2 + i, 4096)), 0);
    ASSERT_EQ(v_->sync("a"), 0);
    disk_.fail_sync = 1;
    EXPECT_FALSE(v_->engine().checkpoint());
    EXPECT_EQ(disk_.fail_sync, 0u);
  }
  cut({});
  EXPECT_EQ(v_->clone_difference("c", tree), "");
}

// The clone's user wrote, and synced nothing: the data is in the file, its bits are lost.
TEST_F(Power, a_pending_track_has_nothing_of_a_write_that_was_lost) {
  ASSERT_EQ(v_->make("a", pattern(1, 5)), 0);
  disk_.settle();
  create("c");
  {
    const auto open = v_->open_clone("c", "a");
    ASSERT_TRUE(open);
    const std::string data = pattern(9, 3000);
    ASSERT_EQ(open.file->write(data.data(), data.size(), 0), 3000);
  }
  cut({.data = true});
  const auto content = [&] {
    return read_clone_file(*v_->open_clone("c", "a", O_RDONLY).file, 3000);
  };
  const std::string found = content();
  EXPECT_EQ(difference(pattern(1, 5) + std::string(2995, '\0'), found), "");
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(difference(found, content()), "");
}

// Its user cut it off: that is there or not, but does not change with the drain.
TEST_F(Power, a_clone_that_was_cut_off_does_not_grow_again) {
  ASSERT_EQ(v_->make("a", pattern(1, 9000)), 0);
  disk_.settle();
  create("c");
  {
    const auto open = v_->open_clone("c", "a");
    ASSERT_TRUE(open);
    ASSERT_EQ(open.file->truncate(100), 0);
  }
  cut({.data = true});
  const auto size = [&] {
    const auto open = v_->open_clone("c", "a", O_RDONLY);
    struct stat st {};
    fstat(open.fd, &st);
    EXPECT_EQ(read_clone_file(*open.file, 20000), pattern(1, static_cast<size_t>(st.st_size)));
    return st.st_size;
  };
  const off_t before = size();
  EXPECT_EQ(before, 100);
  ASSERT_TRUE(v_->reopen());
  ASSERT_TRUE(v_->drain("c"));
  EXPECT_EQ(state("c"), "Copied");
  EXPECT_EQ(size(), before);
}

// A directory that was taken from the tree, while its removal from the volume was lost.
TEST_F(Power, a_directory_that_came_back_is_cloned) {
  ASSERT_EQ(v_->mkdir("d"), 0);
  ASSERT_EQ(v_->make("d/a", pattern(1, 100)), 0);
  disk_.settle();
  create("c", true);
  ASSERT_EQ(v_->unlink("d/a"), 0);
  ASSERT_EQ(v_->unlink("d"), 0);
  disk_.fail_after(6);  // in the pass that follows, before its rows are written
  v_->engine().step("c");
  ASSERT_TRUE(disk_.off());
  cut({});
  const Status status = v_->engine().activate({"c"});
  ASSERT_TRUE(status) << status.error().message;
  const Tree tree = v_->capture();
  ASSERT_EQ(tree.count("d/a"), 1u);
  EXPECT_EQ(v_->clone_difference("c", tree), "");
}

}  // namespace
}  // namespace clonefs::test
