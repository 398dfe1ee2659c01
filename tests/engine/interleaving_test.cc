// Writes, halves of copy steps, clone reads and writes, and activations of one file in every order
// that a seed leads to, in one thread. Smaller and denser than the model test: few tracks, each of
// which is fought for; after every action each clone is compared byte by byte.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <utility>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

constexpr uint64_t kTrack = 4096;
constexpr uint64_t kTracks = 5;

class Interleaving {
 public:
  Interleaving(uint64_t seed, Where where) : random_(seed), volume_(options(seed, where)) {}

  std::string run() {
    source_ = pattern(next_++, kTracks * kTrack - 100);
    volume_.make("file", source_);
    // The copy program runs within changes, too.
    volume_.after_begin = volume_.before_end = [this] {
      if (!sessions_.empty() && random_.chance(30))
        half_step(sessions_[random_.below(sessions_.size())]);
    };
    fd_ = volume_.open_file("file", O_RDWR);
    for (int i = 0; i < 80 && failure_.empty(); ++i) {
      act();
      verify();
    }
    for (auto& s : sessions_) {
      if (!failure_.empty()) break;
      if (!s.active) activate(s);
      if (!volume_.drain(s.name)) failure_ = s.name + " does not drain";
      verify();
      if (volume_.status(s.name).state != SessionState::kCopied) {
        failure_ = s.name + " is not Copied";
      }
    }
    verify();
    sessions_.clear();
    close(fd_);
    return failure_.empty() ? "" : failure_ + "\n" + history_;
  }

 private:
  static DirectVolume::Options options(uint64_t seed, Where where) {
    DirectVolume::Options options;
    options.where = where;
    options.copy_workers = 1 + seed % 2;
    return options;
  }

  struct Session {
    std::string name;
    bool active = false, loaded = false;
    std::string expected;
    std::unique_ptr<DirectVolume::OpenClone> open;
  };

  void act() {
    const uint64_t what = random_.below(100);
    if (sessions_.empty() || (what < 6 && sessions_.size() < 3)) return create();
    Session& s = sessions_[random_.below(sessions_.size())];
    if (what < 36) {
      write_source();
    } else if (what < 42) {
      resize_source();
    } else if (what < 72) {
      half_step(s);
    } else if (what < 82) {
      if (!s.active) activate(s);
    } else if (what < 92) {
      write_clone(s);
    } else if (what < 96) {
      replace_source();
    } else {
      restart();
    }
  }

  ByteRange some_range(uint64_t size) {
    const uint64_t first = random_.below(kTracks);
    if (random_.chance(40)) return {first * kTrack, kTrack * (1 + random_.below(2))};
    return {random_.below(size + 10), 1 + random_.below(random_.chance(50) ? 10 : 9000)};
  }

  void create() {
    Session s;
    s.name = "s" + std::to_string(next_++);
    CreateOptions options = volume_.options(s.name, {"file"});
    options.precopy = random_.chance(60);
    options.track_size = TrackSize(kTrack << random_.below(3));
    note("create " + s.name + (options.precopy ? " precopy" : ""));
    const Status status = volume_.engine().create(options);
    if (!status) failure_ = "create: " + status.error().message;
    sessions_.push_back(std::move(s));
  }

  void activate(Session& s) {
    note("activate " + s.name);
    const Status status = volume_.engine().activate({s.name});
    if (!status) failure_ = "activate: " + status.error().message;
    s.active = true;
    s.expected = source_;
    open(s);
  }

  void open(Session& s) {
    s.open = std::make_unique<DirectVolume::OpenClone>(volume_.open_clone(s.name, "file"));
    if (!*s.open) failure_ = "cannot open the file of " + s.name;
  }

  void write_source() {
    const ByteRange range = some_range(source_.size());
    const std::string data = pattern(next_++, range.length);
    note("write " + std::to_string(range.offset) + "+" + std::to_string(range.length));
    if (volume_.write_fd(fd_, range.offset, data) != 0) failure_ = "write";
    if (source_.size() < range.end()) source_.resize(range.end());
    source_.replace(range.offset, range.length, data);
  }

  void resize_source() {
    if (random_.chance(50)) {
      const uint64_t size = random_.below(kTracks * kTrack);
      note("truncate " + std::to_string(size));
      if (volume_.truncate_fd(fd_, size) != 0) failure_ = "truncate";
      source_.resize(size);
      return;
    }
    const ByteRange range = some_range(source_.size());
    note("punch " + std::to_string(range.offset) + "+" + std::to_string(range.length));
    struct stat st {};
    fstat(fd_, &st);
    if (!volume_.exists("file")) return;
    if (volume_.allocate("file", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.offset,
                         range.length) != 0) {
      failure_ = "punch";
    }
    for (uint64_t i = range.offset; i < std::min(range.end(), source_.size()); ++i) source_[i] = 0;
  }

  // The file is unlinked (all clones still need it) and made again.
  void replace_source() {
    note("replace");
    if (volume_.unlink("file") != 0) failure_ = "unlink";
    source_ = pattern(next_++, 1 + random_.below(kTracks * kTrack));
    if (random_.chance(50))
      close(fd_);
    else
      old_.push_back(fd_);
    if (volume_.make("file", source_) != 0) failure_ = "make";
    fd_ = volume_.open_file("file", O_RDWR);
    if (!old_.empty()) {
      const int fd = old_.back();
      if (volume_.write_fd(fd, random_.below(9000), pattern(next_++, 5000)) != 0) {
        failure_ = "write to the unlinked file";
      }
      if (random_.chance(50)) {
        close(fd);
        old_.pop_back();
      }
    }
  }

  void half_step(Session& s) {
    if (s.loaded) {
      s.loaded = false;
      note("step_finish " + s.name);
      volume_.engine().step_finish(s.name);
    } else {
      s.loaded = volume_.engine().step_read(s.name);
      note("step_read " + s.name + (s.loaded ? "" : " -> nothing"));
    }
  }

  void write_clone(Session& s) {
    if (!s.active) return;
    const ByteRange range = some_range(s.expected.size());
    if (random_.chance(20)) {
      const uint64_t size = random_.below(kTracks * kTrack);
      note("clone truncate " + s.name + " " + std::to_string(size));
      if (s.open->file->truncate(size) != 0) failure_ = "clone truncate";
      s.expected.resize(size);
    } else {
      const std::string data = pattern(next_++, range.length);
      note("clone write " + s.name + " " + std::to_string(range.offset) + "+" +
           std::to_string(range.length));
      if (s.open->file->write(data.data(), data.size(), range.offset) !=
          static_cast<ssize_t>(data.size())) {
        failure_ = "clone write";
      }
      if (s.expected.size() < range.end()) s.expected.resize(range.end());
      s.expected.replace(range.offset, range.length, data);
    }
    s.open->clone->changed(s.open->ino);
  }

  void restart() {
    note("restart");
    for (auto& s : sessions_) {
      s.loaded = false;
      s.open.reset();
    }
    const Status status = random_.chance(50) ? volume_.reopen() : volume_.kill_reopen();
    if (!status) {
      failure_ = "restart: " + status.error().message;
      return;
    }
    for (auto& s : sessions_) {
      if (s.active) open(s);
    }
  }

  void verify() {
    for (auto& s : sessions_) {
      if (!failure_.empty()) return;
      if (!s.active) continue;
      const std::string what =
          difference(s.expected, read_clone_file(*s.open->file, s.expected.size()));
      if (!what.empty()) failure_ = s.name + ": " + what;
      if (s.open->file->drained()) {
        const std::string plain = difference(s.expected, read_all(s.open->fd));
        if (!plain.empty()) failure_ = s.name + " says it is drained: " + plain;
      }
    }
  }

  void note(const std::string& text) { history_ += "  " + text + "\n"; }

  Random random_;
  DirectVolume volume_;
  std::string source_;
  int fd_ = -1;
  std::vector<int> old_;
  std::vector<Session> sessions_;
  uint64_t next_ = 1;
  std::string failure_, history_;
};

void run_seeds(const Seeds& range, Where where) {
  int failures = 0;
  for (uint64_t seed = range.first; seed < range.first + range.count && failures < 3; ++seed) {
    const std::string report = Interleaving(seed, where).run();
    if (report.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << seed << " (CLONEFS_TEST_SEED=" << seed << "): " << report;
  }
}

TEST(Interleaving, in_memory) {
  run_seeds(seeds(1000, 50000), Where::kMemory);
}
TEST(Interleaving, on_disk) {
  run_seeds(seeds(40, 2000), Where::kDisk);
}

// A write between the halves of a copy: what was read is stale and must not count.
TEST(Interleaving, write_between_read_and_finish_in_precopy) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 2 * kTrack)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.engine().step_read("c"));
  ASSERT_EQ(v.write("file", 100, "written in between"), 0);
  v.engine().step_finish("c");
  EXPECT_GE(v.status("c").tracks_pending, 1u);
  ASSERT_TRUE(v.engine().activate({"c"}));
  const Tree expected = v.capture({"file"});
  EXPECT_EQ(v.clone_difference("c", expected, {"file"}), "");
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.plain_difference("c", expected, {"file"}), "");
}

// The chunk was read before the activation and put after it, with a write in between.
TEST(Interleaving, activation_between_read_and_finish) {
  for (const bool write_before : {false, true}) {
    for (const bool write_after : {false, true}) {
      DirectVolume v;
      ASSERT_EQ(v.make("file", pattern(1, 2 * kTrack)), 0);
      CreateOptions options = v.options("c", {"file"});
      options.precopy = true;
      ASSERT_TRUE(v.engine().create(options));
      ASSERT_TRUE(v.engine().step_read("c"));
      if (write_before) {
        ASSERT_EQ(v.write("file", 100, "before"), 0);
      }
      ASSERT_TRUE(v.engine().activate({"c"}));
      const Tree expected = v.capture({"file"});
      if (write_after) {
        ASSERT_EQ(v.write("file", 4000, pattern(9, 1000)), 0);
      }
      v.engine().step_finish("c");
      EXPECT_EQ(v.clone_difference("c", expected, {"file"}), "") << write_before << write_after;
      ASSERT_TRUE(v.drain("c"));
      EXPECT_EQ(v.plain_difference("c", expected, {"file"}), "") << write_before << write_after;
    }
  }
}

// Does something once, just before the next transfer of a track.
class HookDisk : public ForwardingDisk {
 public:
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    if (size >= kTrack) fire(before_read);
    return ForwardingDisk::pread(fd, data, size, offset);
  }
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    if (size >= kTrack) fire(before_write);
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  std::function<void()> before_read, before_write;

 private:
  void fire(std::function<void()>& hook) {
    std::unique_lock lock(mutex_);
    const auto call = std::exchange(hook, nullptr);
    lock.unlock();
    if (call) call();
  }
  std::mutex mutex_;
};

// The reader saw that the track is pending; before it reads the source, that is overwritten.
TEST(Interleaving, overwritten_between_the_look_at_the_bit_and_the_read) {
  HookDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  const std::string expected = pattern(1, 3 * kTrack);
  ASSERT_EQ(v.make("file", expected), 0);
  CreateOptions options = v.options("c", {"file"});
  options.activate = true;
  ASSERT_TRUE(v.engine().create(options));
  auto open = v.open_clone("c", "file");
  ASSERT_TRUE(open);
  bool written = false;
  disk.before_read = [&] { written = v.write("file", 100, pattern(2, kTrack)) == 0; };
  EXPECT_EQ(difference(expected, read_clone_file(*open.file, expected.size())), "");
  EXPECT_TRUE(written);
}

// A hole is punched while data that was there is on its way to the clone.
TEST(Interleaving, punched_while_a_copy_is_put) {
  HookDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  ASSERT_EQ(v.make("file", pattern(1, 3 * kTrack)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.precopy = true;
  ASSERT_TRUE(v.engine().create(options));
  ASSERT_TRUE(v.engine().step_read("c"));
  bool punched = false;
  disk.before_write = [&] {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    punched = v.allocate("file", mode, 0, 2 * kTrack) == 0;
  };
  v.engine().step_finish("c");
  EXPECT_TRUE(punched);
  ASSERT_TRUE(v.engine().activate({"c"}));
  const Tree expected = v.capture({"file"});
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.plain_difference("c", expected, {"file"}), "");
}

// The clone's user overwrites a track while a copy of it is being put there: one must wait for the
// other, whoever puts it, and what the user wrote is what counts.
TEST(Interleaving, clone_write_while_a_copy_is_put) {
  for (const bool by_copy_program : {true, false}) {
    HookDisk disk;
    DirectVolume::Options o;
    o.disk = &disk;
    DirectVolume v(o);
    ASSERT_EQ(v.make("file", pattern(1, 2 * kTrack)), 0);
    CreateOptions options = v.options("c", {"file"});
    options.activate = true;
    ASSERT_TRUE(v.engine().create(options));
    auto open = v.open_clone("c", "file");
    ASSERT_TRUE(open);
    const std::string own = pattern(7, kTrack);
    std::future<ssize_t> user;
    disk.before_write = [&] {
      user = std::async(std::launch::async,
                        [&] { return open.file->write(own.data(), own.size(), 0); });
      // It has to wait for this copy. Where it does not, it is done long before the time is over.
      user.wait_for(std::chrono::milliseconds(100));
    };
    if (by_copy_program) {
      EXPECT_TRUE(v.engine().step("c"));
    } else {
      EXPECT_EQ(v.write("file", 10, "COFW"), 0);
    }
    ASSERT_TRUE(user.valid());
    EXPECT_EQ(user.get(), static_cast<ssize_t>(kTrack));
    const std::string expected = own + pattern(1, 2 * kTrack).substr(kTrack);
    EXPECT_EQ(difference(expected, read_clone_file(*open.file, expected.size())), "");
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(difference(expected, read_all(open.fd)), "");
  }
}

// The clone's user overwrites what the copy program is about to put there.
TEST(Interleaving, clone_write_between_read_and_finish) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 2 * kTrack)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.activate = true;
  ASSERT_TRUE(v.engine().create(options));
  auto open = v.open_clone("c", "file");
  ASSERT_TRUE(open);
  ASSERT_TRUE(v.engine().step_read("c"));
  const std::string own = pattern(7, kTrack);
  ASSERT_EQ(open.file->write(own.data(), own.size(), 0), static_cast<ssize_t>(kTrack));
  v.engine().step_finish("c");
  const std::string expected = own + pattern(1, 2 * kTrack).substr(kTrack);
  EXPECT_EQ(difference(expected, read_clone_file(*open.file, expected.size())), "");
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(difference(expected, read_all(open.fd)), "");
}

}  // namespace
}  // namespace clonefs::test
