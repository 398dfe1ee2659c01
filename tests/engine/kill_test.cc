// SIGKILL, and power cuts, at every moment of one fixed scenario. SIGKILL: a child process plays it
// and ends itself at its Nth call of the disk that changes something, for every N. Power: a PowerDisk
// fails at the Nth operation. Then the engine opens what was left, and every command that had been
// acknowledged must hold: its clone is exact.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/engine/catalog_vfs.h"
#include "tests/engine/direct_volume.h"
#include "tests/engine/power_disk.h"

namespace clonefs::test {
namespace {

// Ends the process before the call number LIMIT that changes anything.
class DeadlyDisk : public ForwardingDisk {
 public:
  explicit DeadlyDisk(uint64_t limit) : limit_(limit) {}
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    count();
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  int truncate(int fd, uint64_t size) override {
    count();
    return ForwardingDisk::truncate(fd, size);
  }
  int allocate(int fd, int mode, uint64_t offset, uint64_t length) override {
    count();
    return ForwardingDisk::allocate(fd, mode, offset, length);
  }
  int datasync(int fd) override {
    count();
    return ForwardingDisk::datasync(fd);
  }
  int chmod(int fd, mode_t mode) override {
    count();
    return ForwardingDisk::chmod(fd, mode);
  }
  int utimes(int fd, const struct timespec times[2]) override {
    count();
    return ForwardingDisk::utimes(fd, times);
  }
  int mkdir(int dir, const char* name, mode_t mode) override {
    count();
    return ForwardingDisk::mkdir(dir, name, mode);
  }
  int mknod(int dir, const char* name, mode_t mode, dev_t dev) override {
    count();
    return ForwardingDisk::mknod(dir, name, mode, dev);
  }
  int link(int fd, int dir, const char* name) override {
    count();
    return ForwardingDisk::link(fd, dir, name);
  }
  int unlink(int dir, const char* name, int flags) override {
    count();
    return ForwardingDisk::unlink(dir, name, flags);
  }
  int rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) override {
    count();
    return ForwardingDisk::rename(from_dir, from, to_dir, to, flags);
  }
  int open(int dir, const char* path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) != 0) count();
    return ForwardingDisk::open(dir, path, flags, mode);
  }
  void count() {
    if (++calls_ == limit_) _exit(9);
  }

 private:
  const uint64_t limit_;
  uint64_t calls_ = 0;
};

// What the child tells: shared memory, so that it outlives it.
struct Told {
  int acknowledged;  // steps of the scenario that had returned
  bool at_end;
};

using Contents = std::map<std::string, std::string>;  // of regular files, by path

Contents contents_of(const Tree& tree) {
  Contents contents;
  for (const auto& [path, object] : tree) {
    if (S_ISREG(object->st.st_mode)) contents[path] = object->data;
  }
  return contents;
}

void make_tree(DirectVolume& v) {
  v.make("file", pattern(1, 6 * 4096 + 10));
  v.mkdir("dir");
  v.make("dir/a", pattern(2, 3 * 4096));
  v.make("dir/b", pattern(3, 100));
}

// The scenario. Each step is acknowledged when it has returned; a step that fails ends the child
// with 1. Deterministic: a run without an end shows what each clone must contain.
struct Step {
  const char* name;
  std::function<bool(DirectVolume&)> run;
};

bool recreate(DirectVolume& v, unsigned keep) {
  RecreateOptions options;
  options.names = {"q"};
  options.precopy = true;
  options.keep = keep;
  return bool(v.engine().recreate(options));
}

const std::vector<Step>& scenario() {
  static const std::vector<Step> steps = {
      {"create p",
       [](auto& v) {
         CreateOptions options = v.options("p");
         options.precopy = true;
         return bool(v.engine().create(options));
       }},
      {"precopy all", [](auto& v) { return v.drain("p"); }},
      {"write", [](auto& v) { return v.write("file", 5000, pattern(10, 5000)) == 0; }},
      {"extend", [](auto& v) { return v.write("file", 30000, pattern(14, 9000)) == 0; }},
      {"make", [](auto& v) { return v.make("dir/new", pattern(11, 5000)) == 0; }},
      {"rename", [](auto& v) { return v.rename("dir/b", "dir/c") == 0; }},
      {"create d", [](auto& v) { return bool(v.engine().create(v.options("d", {"dir"}))); }},
      {"activate both",
       [](auto& v) {
         return bool(v.engine().activate({"p", "d"}));
       }},
      {"overwrite", [](auto& v) { return v.write("dir/a", 100, pattern(12, 8000)) == 0; }},
      {"cut", [](auto& v) { return v.truncate("file", 1000) == 0; }},
      {"unlink", [](auto& v) { return v.unlink("dir/new") == 0; }},
      {"replace", [](auto& v) { return v.rename("file", "dir/a") == 0; }},
      {"step", [](auto& v) { return v.engine().step("d"); }},
      {"active copy",
       [](auto& v) {
         CreateOptions options = v.options("q");
         options.activate = true;
         return bool(v.engine().create(options));
       }},
      {"drain d", [](auto& v) { return v.drain("d"); }},
      {"drain p", [](auto& v) { return v.drain("p"); }},
      {"terminate d", [](auto& v) { return bool(v.engine().terminate({"d"}, false)); }},
      {"remove p", [](auto& v) { return bool(v.engine().remove({"p"})); }},
      {"overwrite again", [](auto& v) { return v.write("dir/c", 0, pattern(13, 50)) == 0; }},
      {"drain q", [](auto& v) { return v.drain("q"); }},
      // dir/a is inherited, dir/c is not; then the one before is kept.
      {"recreate q", [](auto& v) { return recreate(v, 0); }},
      {"precopy q", [](auto& v) { return v.drain("q"); }},
      {"activate q again", [](auto& v) { return bool(v.engine().activate({"q"})); }},
      {"overwrite inherited", [](auto& v) { return v.write("dir/a", 0, pattern(15, 500)) == 0; }},
      {"drain q again", [](auto& v) { return v.drain("q"); }},
      {"recreate q, kept", [](auto& v) { return recreate(v, 1); }},
      {"activate q, kept", [](auto& v) { return bool(v.engine().activate({"q"})); }},
      {"drain q, kept", [](auto& v) { return v.drain("q"); }},
  };
  return steps;
}

int index_of(const std::string& name) {
  const auto& steps = scenario();
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

// Plays in this process; the child's way of ending is _exit.
int play(DirectVolume& v, Told& told) {
  for (const Step& step : scenario()) {
    if (!step.run(v)) return 1;
    ++told.acknowledged;
  }
  told.at_end = true;
  return 0;
}

class Kill : public testing::Test {
 protected:
  void SetUp() override {
    told_ = static_cast<Told*>(
        mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(told_, MAP_FAILED);
    // What the clones must contain.
    DirectVolume v(volume_options());
    make_tree(v);
    for (const Step& step : scenario()) {
      ASSERT_TRUE(step.run(v)) << step.name;
      if (step.name == std::string("activate both")) {
        all_ = contents_of(v.capture());
        dir_ = contents_of(v.capture({"dir"}));
      }
      if (step.name == std::string("active copy")) q_.push_back(contents_of(v.capture()));
      if (step.name == std::string("activate q again")) {
        q_.push_back(contents_of(v.capture()));
        EXPECT_GT(v.status("q").tracks_inherited, 0u);
      }
      if (step.name == std::string("activate q, kept")) q_.push_back(contents_of(v.capture()));
    }
  }
  void TearDown() override { munmap(told_, sizeof(Told)); }

  static DirectVolume::Options volume_options(Where where = Where::kMemory) {
    DirectVolume::Options options;
    options.where = where;
    options.ctime_tick = std::chrono::nanoseconds(1);
    return options;
  }

  Contents contents_in_clone(DirectVolume& v, const std::string& name) {
    Contents contents;
    auto clone = v.engine().clone(name);
    if (!clone) return contents;
    Tree found;
    capture((*clone)->root(), ".", found);
    for (const auto& [path, object] : found) {
      if (!S_ISREG(object->st.st_mode)) continue;
      auto open = v.open_clone(name, path, O_RDONLY);
      if (open) contents[path] = read_clone_file(*open.file, object->data.size());
    }
    return contents;
  }

  // The generations of q: each is there in whole, and the one that follows takes its place at once.
  void check_generations(DirectVolume& v, int done) {
    const int activations[] = {index_of("active copy"), index_of("activate q again"),
                               index_of("activate q, kept")};
    const Contents found = contents_in_clone(v, "q");
    const auto shown = std::find(q_.begin(), q_.end(), found) - q_.begin();
    int least = -1, most = -1;
    for (int i = 0; i < 3; ++i) {
      if (done > activations[i]) least = i;
      if (done >= activations[i]) most = i;
    }
    if (found.empty()) {
      EXPECT_EQ(least, -1);
      return;
    }
    ASSERT_GE(shown, least) << "q shows an older generation";
    ASSERT_LE(shown, most) << "q shows what it never was";
    EXPECT_EQ(v.damage("q"), "");
    const bool kept = shown == 2;
    EXPECT_EQ(!v.status("q.1").name.empty(), kept);
    if (kept) check_clone(v, "q.1", q_[1]);
    const auto state = v.status("q").state;
    if (state == SessionState::kCreated || state == SessionState::kPrecopy) {
      // What was inherited is seen to change still.
      if (state == SessionState::kPrecopy) {
        ASSERT_TRUE(v.drain("q"));
      }
      ASSERT_EQ(v.write("dir/a", 20, pattern(16, 30)), 0);
      ASSERT_TRUE(v.engine().activate({"q"}));
      const Contents now = contents_of(v.capture());
      EXPECT_EQ(contents_in_clone(v, "q"), now);
      ASSERT_TRUE(v.drain("q"));
      EXPECT_EQ(contents_in_clone(v, "q"), now);
    } else {
      ASSERT_TRUE(v.drain("q"));
      EXPECT_EQ(contents_in_clone(v, "q"), found);
    }
    EXPECT_EQ(v.damage("q"), "");
  }

  void check_clone(DirectVolume& v, const std::string& name, const Contents& expected) {
    auto clone = v.engine().clone(name);
    ASSERT_TRUE(clone) << name << ": " << clone.error().message;
    Tree found;
    capture((*clone)->root(), ".", found);
    Contents contents;
    for (const auto& [path, object] : found) {
      if (!S_ISREG(object->st.st_mode)) continue;
      auto open = v.open_clone(name, path, O_RDONLY);
      ASSERT_TRUE(open) << name << " " << path;
      contents[path] = read_clone_file(*open.file, object->data.size());
    }
    EXPECT_EQ(contents.size(), expected.size()) << name;
    for (const auto& [path, data] : expected) {
      ASSERT_EQ(contents.count(path), 1u) << name << " lacks " << path;
      EXPECT_EQ(difference(data, contents[path]), "") << name << " " << path;
    }
    // Nothing that was cut short looks like damage.
    EXPECT_EQ(v.damage(name), "");
  }

  // Acknowledged steps hold; the one under way is there in whole or not at all.
  void check(DirectVolume& v) {
    const int done = told_->acknowledged;
    const auto state = [&](const std::string& name) {
      const SessionStatus s = v.status(name);
      return s.name.empty() ? std::string("none") : std::string(to_string(s.state));
    };
    const auto activated = [&](const std::string& name) {
      return state(name) == "CopyInProgress" || state(name) == "Copied" ||
             state(name) == "Terminated";
    };
    const int begun = index_of("activate both"), removed = index_of("remove p");
    for (const SessionStatus& s : v.engine().status()) {
      EXPECT_NE(s.state, SessionState::kFailed) << s.name << ": " << s.error;
    }
    if (done > index_of("create p") && done < removed) {
      EXPECT_NE(state("p"), "none");
    }
    if (done > removed) {
      EXPECT_EQ(state("p"), "none");
    }
    if (done > begun && done < removed) {
      EXPECT_TRUE(activated("p")) << state("p");
    }
    if (done > begun) {
      EXPECT_TRUE(activated("d")) << state("d");
    }
    if (done < begun) {
      EXPECT_FALSE(activated("p") || activated("d"));
    }
    // Both or none.
    if (done == begun) {
      EXPECT_EQ(activated("p"), activated("d"));
    }
    if (done > index_of("terminate d")) {
      EXPECT_EQ(state("d"), "Terminated");
    }
    check_generations(v, done);
    if (testing::Test::HasFailure()) return;
    for (const char* name : {"p", "d"}) {
      if (!activated(name)) continue;
      const Contents& expected = name[0] == 'p' ? all_ : dir_;
      check_clone(v, name, expected);
      if (testing::Test::HasFailure()) return;
      ASSERT_TRUE(v.drain(name)) << name;
      EXPECT_NE(state(name), "CopyInProgress") << name;
      check_clone(v, name, expected);
    }
    // A session that is not activated yet can be, and shows what is there now.
    for (const char* name : {"p", "d"}) {
      if (state(name) != "Created" && state(name) != "Precopy") continue;
      const std::vector<std::string> selected = v.status(name).paths;
      // Where a copy was cut short, a hole now must be one in the clone.
      const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      ASSERT_EQ(v.allocate("file", mode, 0, 4096), 0);
      ASSERT_EQ(v.allocate("file", mode, 3 * 4096, 4096), 0);
      ASSERT_EQ(v.allocate("dir/a", mode, 0, 4096), 0);
      const Status status = v.engine().activate({name});
      ASSERT_TRUE(status) << name << ": " << status.error().message;
      const Tree expected = v.capture(selected);
      EXPECT_EQ(v.clone_difference(name, expected, selected), "") << name;
      ASSERT_TRUE(v.drain(name)) << name;
      EXPECT_EQ(v.plain_difference(name, expected, selected), "") << name;
      EXPECT_EQ(v.damage(name), "");
    }
    for (const SessionStatus& s : v.engine().status()) {
      EXPECT_TRUE(v.engine().remove({s.name}, true)) << s.name;
    }
  }

  Told* told_ = nullptr;
  Contents all_, dir_;
  std::vector<Contents> q_;  // its generations

  void reopen_and_check(DirectVolume& v, const std::string& what) {
    const Status opened = v.open();
    ASSERT_TRUE(opened) << opened.error().message;
    check(v);
    if (HasFailure()) {
      const int step = told_->acknowledged;
      FAIL() << what << " in step "
             << (step < static_cast<int>(scenario().size()) ? scenario()[step].name : "-");
    }
  }

  void run(uint64_t limit, Where where) {
    *told_ = Told{};
    DirectVolume v(volume_options(where));
    make_tree(v);
    v.kill();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      DeadlyDisk disk(limit);
      v.use_disk(disk);
      v.before_end = [&] { disk.count(); };
      if (!v.open()) _exit(2);
      _exit(play(v, *told_));
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "the child died of signal " << WTERMSIG(status);
    ASSERT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9)
        << "exit " << WEXITSTATUS(status) << " after step " << told_->acknowledged;
    reopen_and_check(v, "killed at call " + std::to_string(limit));
  }

  void run_with_power_cut(uint64_t limit, uint64_t seed) {
    *told_ = Told{};
    PowerDisk disk(seed);
    const CatalogVfs vfs(disk);
    DirectVolume::Options options = volume_options();
    options.disk = &disk;
    options.volume_disk = &disk.volume();
    options.present = [&](struct stat* st) { disk.present(st); };
    options.boot = "before";
    DirectVolume v(options);
    make_tree(v);
    disk.settle();
    disk.fail_after(limit);
    for (const Step& step : scenario()) {
      const bool done = step.run(v);
      if (disk.off()) break;
      ASSERT_TRUE(done) << step.name;
      ++told_->acknowledged;
    }
    told_->at_end = !disk.off();
    v.kill();
    disk.cut();
    v.use_boot("after");
    reopen_and_check(v, "power cut at operation " + std::to_string(limit) + ", seed " +
                            std::to_string(seed));
  }
};

TEST_F(Kill, at_every_call_of_the_disk) {
  const bool thorough = std::getenv("CLONEFS_LONG") != nullptr;
  uint64_t runs = 0;
  for (uint64_t limit = 1; limit < 100000; limit += thorough ? 1 : 1 + limit % 3) {
    run(limit, runs % 4 == 0 ? Where::kDisk : Where::kMemory);
    ++runs;
    if (HasFailure() || told_->at_end) break;
  }
  EXPECT_TRUE(told_->at_end);
  EXPECT_GT(runs, 50u);
}

TEST_F(Kill, power_cut_at_every_operation) {
  const uint64_t seeds = std::getenv("CLONEFS_LONG") != nullptr ? 20 : 2;
  uint64_t runs = 0;
  for (uint64_t limit = 1; limit < 100000; ++limit) {
    for (uint64_t seed = 0; seed < seeds; ++seed, ++runs) {
      run_with_power_cut(limit, limit * 1000 + seed);
      if (HasFailure() || told_->at_end) break;
    }
    if (HasFailure() || told_->at_end) break;
  }
  std::printf("%lu power cuts\n", static_cast<unsigned long>(runs));
  EXPECT_TRUE(told_->at_end);
  EXPECT_GT(runs, 100u);
}

}  // namespace
}  // namespace clonefs::test
