// Real threads on all sides: writers with numbered records over several files, a chain of names,
// readers and a writer of the clones, the copy program's own threads, and activations of two
// sessions at one point. Each clone must be one instant: of each writer it shows a prefix, the same
// one in both sessions. Made for ThreadSanitizer; bounded by rounds and by time.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kFiles = 6;
constexpr uint64_t kSlots = 40;
constexpr uint64_t kRecord = 1000;  // tracks are shared by records and by writers
constexpr uint64_t kWriters = 2;
constexpr uint64_t kHoles = 40000;

std::string file_name(uint64_t file) {
  return (file < kFiles / 2 ? "a/" : "b/") + std::to_string(file);
}

// Record NUMBER (1, 2, ...) of WRITER: its number, then bytes that depend on it.
std::string record(uint64_t writer, uint64_t number) {
  std::string data = pattern(number * kWriters + writer, kRecord);
  std::memcpy(data.data(), &number, sizeof number);
  return data;
}
uint64_t file_of(uint64_t number) {
  return number % kFiles;
}
uint64_t offset_of(uint64_t writer, uint64_t number) {
  return (writer * kSlots + number / kFiles % kSlots) * kRecord;
}

// "" if the files show all records of WRITER up to one number and none beyond; that number.
std::string prefix_of(const std::array<std::string, kFiles>& files, uint64_t writer,
                      uint64_t* last) {
  *last = 0;
  for (uint64_t file = 0; file < kFiles; ++file) {
    for (uint64_t slot = 0; slot < kSlots; ++slot) {
      const uint64_t offset = (writer * kSlots + slot) * kRecord;
      uint64_t number = 0;
      if (offset + kRecord <= files[file].size()) {
        std::memcpy(&number, files[file].data() + offset, sizeof number);
      }
      *last = std::max(*last, number);
    }
  }
  // The newest record that belongs into each slot.
  for (uint64_t number = *last; number > 0 && number + kFiles * kSlots > *last; --number) {
    const std::string& file = files[file_of(number)];
    const uint64_t offset = offset_of(writer, number);
    const std::string found = offset < file.size() ? file.substr(offset, kRecord) : "";
    if (found == record(writer, number)) continue;
    uint64_t there = 0;
    std::memcpy(&there, found.data(), std::min(found.size(), sizeof there));
    return "writer " + std::to_string(writer) + ": the last record is " + std::to_string(*last) +
           ", but in the place of " + std::to_string(number) + " is " + std::to_string(there);
  }
  return "";
}

class Threads : public testing::Test {
 protected:
  static DirectVolume::Options volume_options() {
    DirectVolume::Options options;
    options.copy_threads = true;
    options.track_size = 4096;
    return options;
  }

  void SetUp() override {
    for (const char* name : {"a", "b", "chain"}) ASSERT_EQ(v_.mkdir(name), 0);
    for (uint64_t file = 0; file < kFiles; ++file) ASSERT_EQ(v_.make(file_name(file), ""), 0);
    ASSERT_EQ(v_.make("a/own", pattern(1, 50000)), 0);
    ASSERT_EQ(v_.make("b/rewritten", ""), 0);
    ASSERT_EQ(v_.make("b/holes", std::string(kHoles, '\0')), 0);
    ASSERT_EQ(v_.make("chain/0", ""), 0);
    for (uint64_t w = 0; w < kWriters; ++w) threads_.emplace_back([this, w] { write_records(w); });
    threads_.emplace_back([this] { move_chain(); });
    threads_.emplace_back([this] { rewrite(); });
    threads_.emplace_back([this] { punch_and_fill(); });
  }
  void TearDown() override {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
  }

  void write_records(uint64_t writer) {
    std::array<int, kFiles> fds{};
    for (uint64_t file = 0; file < kFiles; ++file)
      fds[file] = v_.open_file(file_name(file), O_RDWR);
    for (uint64_t number = 1; !stop_; ++number) {
      begun_[writer] = number;
      const int r =
          v_.write_fd(fds[file_of(number)], offset_of(writer, number), record(writer, number));
      if (r != 0) {
        ADD_FAILURE() << "write: " << std::strerror(-r);
        break;
      }
      done_[writer] = number;
    }
    for (const int fd : fds) close(fd);
  }

  // One name at a time, or two while it moves: k, then k and k+1 (a link), then k+1.
  void move_chain() {
    for (uint64_t k = 0; !stop_; ++k) {
      const std::string from = "chain/" + std::to_string(k), to = "chain/" + std::to_string(k + 1);
      const int r = k % 2 == 0 ? v_.link(from, to) : v_.rename(from, to);
      if (r != 0 || (k % 2 == 0 && v_.unlink(from) != 0)) {
        ADD_FAILURE() << "chain: " << std::strerror(-r);
        return;
      }
    }
  }

  // Cut to nothing, then written in two parts, all of one number.
  void rewrite() {
    const int fd = v_.open_file("b/rewritten", O_RDWR);
    for (uint64_t number = 1; !stop_; ++number) {
      const std::string data = pattern(number, 9000);
      if (v_.truncate_fd(fd, 0) != 0 || v_.write_fd(fd, 0, data.substr(0, 5000)) != 0 ||
          v_.write_fd(fd, 5000, data.substr(5000)) != 0) {
        ADD_FAILURE() << "rewrite";
        break;
      }
      rewritten_ = number;
    }
    close(fd);
  }

  // All a hole, then filled in two parts, all of one number.
  void punch_and_fill() {
    const int fd = v_.open_file("b/holes", O_RDWR);
    for (uint64_t number = 1; !stop_; ++number) {
      const std::string data = pattern(number, kHoles);
      const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      if (v_.allocate("b/holes", mode, 0, kHoles) != 0 ||
          v_.write_fd(fd, 0, data.substr(0, kHoles / 2)) != 0 ||
          v_.write_fd(fd, kHoles / 2, data.substr(kHoles / 2)) != 0) {
        ADD_FAILURE() << "punch and fill";
        break;
      }
      filled_ = number;
    }
    close(fd);
  }

  std::string read_file(const std::string& clone, const std::string& path) {
    auto open = v_.open_clone(clone, path, O_RDONLY);
    if (!open) return "cannot open";
    struct stat st {};
    fstat(open.fd, &st);
    return read_clone_file(*open.file, static_cast<uint64_t>(st.st_size));
  }

  struct Content {
    std::array<std::string, kFiles> files;
    std::string rewritten, holes;
    std::vector<std::string> chain;
    bool operator==(const Content&) const = default;
  };

  // B shows b and the chain, A shows a.
  Content content(const std::string& a, const std::string& b) {
    Content c;
    for (uint64_t file = 0; file < kFiles; ++file) {
      c.files[file] = read_file(file < kFiles / 2 ? a : b, file_name(file));
    }
    c.rewritten = read_file(b, "b/rewritten");
    c.holes = read_file(b, "b/holes");
    auto clone = v_.engine().clone(b);
    Tree tree;
    if (clone) {
      const int dir = openat((*clone)->root(), "chain", O_PATH | O_CLOEXEC);
      if (dir >= 0) capture(dir, ".", tree);
      close(dir);
    }
    for (const auto& [path, object] : tree) {
      if (path != ".") c.chain.push_back(path);
    }
    return c;
  }

  void check_instant(const Content& c, const std::array<uint64_t, kWriters>& at_least,
                     const std::array<uint64_t, kWriters>& at_most) {
    for (uint64_t w = 0; w < kWriters; ++w) {
      uint64_t last = 0;
      EXPECT_EQ(prefix_of(c.files, w, &last), "");
      EXPECT_GE(last, at_least[w]) << "a write that had returned before ACTIVATE is not there";
      EXPECT_LE(last, at_most[w]) << "a write that began after ACTIVATE had returned is there";
    }
    ASSERT_GE(c.chain.size(), 1u) << "the chain is broken";
    ASSERT_LE(c.chain.size(), 2u);
    if (c.chain.size() == 2) {
      const auto x = std::stoull(c.chain[0]), y = std::stoull(c.chain[1]);
      EXPECT_EQ(std::max(x, y) - std::min(x, y), 1u);
    }
    bool known = c.rewritten.empty();
    for (uint64_t number = rewritten_ + 1; number > 0 && !known; --number) {
      const std::string data = pattern(number, 9000);
      known = c.rewritten == data || c.rewritten == data.substr(0, 5000);
    }
    EXPECT_TRUE(known) << "the rewritten file is a mixture";
    const std::string zeros(kHoles / 2, '\0');
    known = c.holes == zeros + zeros;
    for (uint64_t number = filled_ + 1; number > 0 && !known; --number) {
      const std::string data = pattern(number, kHoles);
      known = c.holes == data || c.holes == data.substr(0, kHoles / 2) + zeros;
    }
    EXPECT_TRUE(known) << "the punched file is a mixture";
  }

  std::atomic<bool> stop_{false};
  std::array<std::atomic<uint64_t>, kWriters> begun_{}, done_{};
  std::atomic<uint64_t> rewritten_{0}, filled_{0};
  std::vector<std::thread> threads_;
  DirectVolume v_{volume_options()};
};

TEST_F(Threads, clones_are_one_instant) {
  const bool long_run = std::getenv("CLONEFS_LONG") != nullptr;
  const int rounds = long_run ? 300 : 25;
  const auto deadline = Clock::now() + std::chrono::seconds(long_run ? 240 : 10);
  for (int round = 0; round < rounds && Clock::now() < deadline && !HasFailure(); ++round) {
    CreateOptions a = v_.options("a", {"a"}), b = v_.options("b", {"b", "chain"});
    a.precopy = round % 2 == 0;
    b.precopy = round % 3 == 0;
    if (round % 4 == 1) b.track_size = TrackSize(65536);
    for (const CreateOptions* options : {&a, &b}) {
      const Status created = v_.engine().create(*options);
      ASSERT_TRUE(created) << created.error().message;
    }
    // A little precopy, as much as a few records take.
    const uint64_t before = done_[0];
    while (done_[0] < before + 30 && !HasFailure()) std::this_thread::yield();

    std::array<uint64_t, kWriters> at_least{}, at_most{};
    for (uint64_t w = 0; w < kWriters; ++w) at_least[w] = done_[w];
    const Status activated = v_.engine().activate({"a", "b"});
    ASSERT_TRUE(activated) << activated.error().message;
    for (uint64_t w = 0; w < kWriters; ++w) at_most[w] = begun_[w];

    // Readers and a writer of the clone, while it drains and the source is overwritten.
    const Content first = content("a", "b");
    check_instant(first, at_least, at_most);
    std::atomic<bool> end{false};
    std::atomic<int> changed{0};
    std::vector<std::thread> users;
    for (int reader = 0; reader < 2; ++reader) {
      users.emplace_back([&] {
        do {
          if (!(content("a", "b") == first)) ++changed;
        } while (!end);
      });
    }
    std::string own = read_file("a", "a/own");
    users.emplace_back([&, round] {
      auto open = v_.open_clone("a", "a/own");
      for (uint64_t i = 0; i < 20 && open; ++i) {
        const std::string data = pattern(1000 + i, 700);
        const uint64_t offset = (i * 7919 + static_cast<uint64_t>(round) * 131) % 49000;
        if (open.file->write(data.data(), data.size(), offset) !=
            static_cast<ssize_t>(data.size())) {
          ++changed;
        }
        open.clone->changed(open.ino);
        own.replace(offset, data.size(), data);
      }
    });
    for (const char* name : {"a", "b"}) {
      const Status copied = v_.engine().wait(name, Engine::Goal::kCopied, milliseconds(60000));
      EXPECT_TRUE(copied) << copied.error().message;
    }
    end = true;
    for (auto& user : users) user.join();
    EXPECT_EQ(changed, 0) << "the clone changed under its readers";
    EXPECT_EQ(content("a", "b"), first);
    EXPECT_EQ(difference(own, read_file("a", "a/own")), "");
    ASSERT_TRUE(v_.engine().terminate({"a", "b"}, false));
    EXPECT_EQ(content("a", "b"), first);
    ASSERT_TRUE(v_.engine().remove({"a", "b"}));
  }
}

// Commands from several threads at once, on the same names, while the volume changes.
TEST_F(Threads, commands_at_once) {
  const auto deadline = Clock::now() + std::chrono::seconds(5);
  std::vector<std::thread> commanders;
  std::atomic<int> unexpected{0};
  for (uint64_t t = 0; t < 3; ++t) {
    commanders.emplace_back([&, t] {
      Random random(t + 1);
      for (int i = 0; i < 150 && Clock::now() < deadline; ++i) {
        const std::string name = "c" + std::to_string(random.below(3));
        Engine& e = v_.engine();
        Status status;
        switch (random.below(8)) {
          case 0:
          case 1: {
            CreateOptions options = v_.options(name, {random.chance(50) ? "a" : "."});
            options.precopy = random.chance(50);
            status = e.create(options);
            break;
          }
          case 2:
            status = e.precopy({name});
            break;
          case 3:
            status = e.activate({name});
            break;
          case 4:
            status = e.terminate({name}, random.chance(50));
            break;
          case 5:
            status = e.remove({name}, random.chance(50));
            break;
          case 6:
            status = e.wait(name, Engine::Goal::kCopied, milliseconds(5));
            break;
          default: {
            auto open = v_.open_clone(name, "a/own");
            if (open) read_clone_file(*open.file, 50000);
            (void)e.extents(name);
            e.status();
          }
        }
        // Refusals are fine; failures of the engine are not.
        if (!status && (status.error().code == EIO || status.error().code == EBADF)) {
          ++unexpected;
          ADD_FAILURE() << status.error().message;
        }
      }
    });
  }
  for (auto& commander : commanders) commander.join();
  EXPECT_EQ(unexpected, 0);
  for (const SessionStatus& s : v_.engine().status()) {
    EXPECT_NE(s.state, SessionState::kFailed) << s.name << ": " << s.error;
  }
}

}  // namespace
}  // namespace clonefs::test
