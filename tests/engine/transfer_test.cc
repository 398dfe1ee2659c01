// How a drain gets data to the pool: by the file system (shared blocks, a server's copy) or by writing,
// whatever of that there is; holes of file systems that do not tell them.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

// A file system that can transfer(), or not, as a test says; it counts, and what is written elsewhere.
class TransferDisk : public ForwardingDisk {
 public:
  int transfer(Transfer how, int from, int to, uint64_t offset, uint64_t length) override {
    const bool share = how == Transfer::kShare;
    ++(share ? shares : servers);
    if (const int e = share ? share_error : server_error; e != 0) {
      if (e == -EIO) {  // in the midst of it
        const std::string junk(length / 2, '?');
        pwrite_full(to, junk.data(), junk.size(), offset);
      }
      return e;
    }
    std::string data(length, '\0');
    if (pread_full(from, data.data(), length, offset) != static_cast<ssize_t>(length)) return -EINVAL;
    if (const int e = ForwardingDisk::pwrite(to, data.data(), length, offset) < 0 ? -EIO : 0; e < 0)
      return e;
    transferred += length;
    return 0;
  }
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    if (size >= 4096) written += size;
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  int64_t seek(int fd, uint64_t offset, int whence) override {
    if (tells_holes) return ForwardingDisk::seek(fd, offset, whence);
    struct stat st {};
    ForwardingDisk::stat(fd, "", &st);
    if (offset >= static_cast<uint64_t>(st.st_size)) return -ENXIO;
    return whence == SEEK_DATA ? static_cast<int64_t>(offset) : st.st_size;
  }
  int share_error = 0, server_error = -EOPNOTSUPP;
  bool tells_holes = true;
  std::atomic<uint64_t> shares{0}, servers{0}, transferred{0}, written{0};
};

class TransferTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = (3 << 20) + (80 << 10) + 1000;

  // A drained clone of a file of kSize bytes; it is what the source was.
  void drain() {
    DirectVolume::Options options;
    options.disk = &disk_;
    options.track_size = 64 << 10;
    v_ = std::make_unique<DirectVolume>(options);
    ASSERT_EQ(v_->make("file", pattern(1, kSize)), 0);
    const Tree expected = v_->capture();
    CreateOptions create = v_->options("c", {"."});
    create.activate = true;
    ASSERT_TRUE(v_->engine().create(create));
    disk_.written = 0;
    ASSERT_TRUE(v_->drain("c"));
    EXPECT_EQ(v_->status("c").state, SessionState::kCopied);
    EXPECT_EQ(v_->plain_difference("c", expected), "");
    EXPECT_EQ(v_->damage("c"), "");
  }

  TransferDisk disk_;
  std::unique_ptr<DirectVolume> v_;
};

TEST_F(TransferTest, blocks_are_shared_but_for_the_end_of_the_file) {
  drain();
  EXPECT_EQ(disk_.transferred, kSize - kSize % 4096);
  EXPECT_EQ(disk_.written, 0u);
  EXPECT_EQ(disk_.servers, 0u);
  EXPECT_EQ(v_->status("c").transfer, "share");
}

TEST_F(TransferTest, else_the_server_copies) {
  disk_.share_error = -EOPNOTSUPP;
  disk_.server_error = 0;
  drain();
  EXPECT_EQ(disk_.transferred, kSize - kSize % 4096);
  EXPECT_EQ(disk_.shares, 1u) << "it is asked once";
  EXPECT_EQ(v_->status("c").transfer, "server");
}

TEST_F(TransferTest, else_it_is_written) {
  disk_.share_error = -EXDEV;
  drain();
  EXPECT_GE(disk_.written, kSize - kSize % 4096);
  EXPECT_EQ(disk_.shares, 1u);
  EXPECT_EQ(disk_.servers, 1u);
  EXPECT_EQ(v_->status("c").transfer, "write");
}

TEST_F(TransferTest, a_transfer_that_fails_is_written) {
  disk_.share_error = -EIO;
  drain();
  EXPECT_GE(disk_.written, kSize - kSize % 4096);
  EXPECT_EQ(disk_.servers, 0u) << "only these files cannot be shared";
}

TEST_F(TransferTest, what_is_written_to_the_source_is_saved_by_writing) {
  DirectVolume::Options options;
  options.disk = &disk_;
  options.track_size = 64 << 10;
  DirectVolume v(options);
  ASSERT_EQ(v.make("file", pattern(1, kSize)), 0);
  const Tree expected = v.capture();
  CreateOptions create = v.options("c", {"."});
  create.activate = true;
  ASSERT_TRUE(v.engine().create(create));
  ASSERT_EQ(v.write("file", 100, "new"), 0);
  EXPECT_EQ(disk_.shares, 0u);
  EXPECT_EQ(v.clone_difference("c", expected), "");
}

class HolesTest : public TransferTest {
 protected:
  // KiB that the clone of FILE takes.
  uint64_t drained(const std::function<void(DirectVolume&)>& make) {
    disk_.tells_holes = false;
    disk_.share_error = -EOPNOTSUPP;
    DirectVolume::Options options;
    options.disk = &disk_;
    options.track_size = 64 << 10;
    v_ = std::make_unique<DirectVolume>(options);
    make(*v_);
    const std::string expected = v_->content("file");
    CreateOptions create = v_->options("c", {"file"});
    create.activate = true;
    EXPECT_TRUE(v_->engine().create(create));
    EXPECT_TRUE(v_->drain("c"));
    EXPECT_EQ(v_->damage("c"), "");
    const auto clone = v_->open_clone("c", "file", O_RDONLY);
    EXPECT_EQ(read_clone_file(*clone.file, expected.size()), expected);
    struct stat st {};
    ::fstat(clone.fd, &st);
    return static_cast<uint64_t>(st.st_blocks) / 2;
  }
};

TEST_F(HolesTest, zeros_of_a_sparse_file_that_does_not_tell_are_holes) {
  EXPECT_EQ(drained([](DirectVolume& v) {
              v.make("file", "");
              v.truncate("file", 1 << 20);
              v.write("file", 128 << 10, pattern(1, 4096));
              v.write("file", (128 << 10) + 12288, pattern(2, 8192));
            }),
            12u);
}

TEST_F(HolesTest, zeros_that_were_written_are_data) {
  EXPECT_EQ(drained([](DirectVolume& v) { v.make("file", std::string(1 << 20, '\0')); }), 1024u);
}

}  // namespace
}  // namespace clonefs::test
