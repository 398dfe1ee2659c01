// An error of the disk at every moment: one scenario, and at the Nth call of the disk or the catalog
// EIO or ENOSPC, once or from then on, for every N, under both policies. Whatever happens, each clone
// that was activated is exact or Failed, the source has what was written, only fail-write shows a writer
// an error, and without faults all goes on; in the end nothing is left over.
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tests/engine/direct_volume.h"
#include "tests/engine/fault_disk.h"

namespace clonefs::test {
namespace {

struct Fault {
  uint64_t at = 0;  // which call; 0: none
  int error = EIO;
  bool forever = false;
  OnError on_error = OnError::kFailClone;
  bool clean_end = false;  // the engine is closed at the end; else killed
};

std::string describe(const Fault& f) {
  return std::string(f.error == EIO ? "EIO" : "ENOSPC") + (f.forever ? " from" : " at") + " call " +
         std::to_string(f.at) + ", " + to_string(f.on_error) + (f.clean_end ? ", closed" : ", killed");
}

class Scenario {
 public:
  explicit Scenario(const Fault& fault) : fault_(fault) {
    DirectVolume::Options o;
    o.disk = &disk_;
    o.pool = Where::kMemory;
    o.on_error = fault.on_error;
    v_ = std::make_unique<DirectVolume>(o);
    source_write([&] { return v_->make("file", pattern(1, 6 * 4096 + 10)); });
    v_->mkdir("dir");
    v_->make("dir/a", pattern(2, 3 * 4096));
    v_->make("dir/b", pattern(3, 100));
    v_->make("dir/gone", pattern(4, 9000));
    v_->mkdir("dir/sub");
    v_->make("dir/sub/x", pattern(5, 5000));
    for (const char* path : {"file", "dir/a", "dir/b", "dir/gone", "dir/sub/x"})
      source_[path] = v_->content(path);
  }

  // Number of calls at which a fault could have come.
  uint64_t run() {
    disk_.fault = [this](const FaultDisk::Call& call) { return fail(call); };
    play();
    if (open_ && fault_.clean_end) {
      (void)v_->close();
    } else if (open_) {
      v_->kill();
    }
    const uint64_t calls = calls_;
    disk_.fault = nullptr;
    if (!testing::Test::HasFailure()) check();
    return calls;
  }

 private:
  int fail(const FaultDisk::Call& call) {
    if (fault_.error == ENOSPC && !call.changes) return 0;
    ++calls_;
    if (fault_.at == 0 || (fault_.forever ? calls_ < fault_.at : calls_ != fault_.at)) return 0;
    // But where it is written down that a clone is Failed, when its pool cannot take that: the volume.
    const std::string place = call.place();
    if (place.find("/.clonefs/lost") != std::string::npos || place.ends_with("/.clonefs")) return 0;
    hit_ = call.name + std::string(" ") + place;
    return -fault_.error;
  }

  // A change of the source: whether it happened.
  bool source_write(const std::function<int()>& change) {
    const int e = change();
    if (e != 0 && fault_.on_error == OnError::kFailClone)
      ADD_FAILURE() << "a writer got error " << -e << " (" << hit_ << ")";
    return e == 0;
  }
  void write(const std::string& path, uint64_t offset, const std::string& data) {
    if (!source_write([&] { return v_->write(path, offset, data); })) return;
    std::string& content = source_[path];
    content.resize(std::max<size_t>(content.size(), offset + data.size()));
    content.replace(offset, data.size(), data);
  }
  void make(const std::string& path, const std::string& data) {
    if (source_write([&] { return v_->create(path); })) source_[path];
    write(path, 0, data);
  }
  void truncate(const std::string& path, uint64_t size) {
    if (source_write([&] { return v_->truncate(path, size); })) source_[path].resize(size);
  }
  void unlink(const std::string& path) {
    if (source_write([&] { return v_->unlink(path); })) source_.erase(path);
  }
  void rename(const std::string& from, const std::string& to) {
    if (!source_write([&] { return v_->rename(from, to); })) return;
    source_[to] = source_[from];
    source_.erase(from);
  }

  struct Clone {
    std::vector<std::string> selected;
    Tree tree;
  };

  void activate(const std::vector<std::string>& names) {
    std::map<std::string, Tree> now;
    for (const auto& name : names) {
      const SessionStatus s = v_->status(name);
      if (s.name.empty()) return;
      now[name] = v_->capture(s.paths);
    }
    const bool done = static_cast<bool>(v_->engine().activate(names));
    for (const auto& name : names) {
      const SessionStatus s = v_->status(name);
      const bool active = s.state == SessionState::kCopyInProgress;
      if (done && !active) ADD_FAILURE() << name << " is not active: " << to_string(s.state);
      if (!done && active) ADD_FAILURE() << name << " is active though that was refused";
      if (active) clones_[name] = {s.paths, now[name]};
    }
  }

  void change_clone(const std::string& name, const std::string& path) {
    const auto it = clones_.find(name);
    if (it == clones_.end() || it->second.tree.count(path) == 0) return;
    auto open = v_->open_clone(name, path);
    if (!open) return;
    auto& object = *it->second.tree[path];
    const std::string data = pattern(50, 700);
    const ssize_t n = open.file->write(data.data(), data.size(), 20);
    if (n > 0) {
      object.data.resize(std::max<size_t>(object.data.size(), 20 + static_cast<size_t>(n)));
      object.data.replace(20, static_cast<size_t>(n), data, 0, static_cast<size_t>(n));
      object.st.st_size = static_cast<off_t>(object.data.size());
      object.own_ctime = object.own_mtime = true;
    }
    (void)open.file->sync(false);
  }

  // What can be read of the clones is right.
  void read_clones() {
    for (const auto& [name, expected] : clones_) {
      for (const auto& [path, object] : expected.tree) {
        if (!S_ISREG(object->st.st_mode)) continue;
        auto open = v_->open_clone(name, path, O_RDONLY);
        if (!open) continue;
        const std::string found = read_clone_file(*open.file, object->data.size());
        if (found.starts_with("error ")) continue;
        if (found != object->data)
          ADD_FAILURE() << name << " shows wrong data of " << path << ": "
                        << difference(object->data, found);
      }
    }
  }

  bool reopen(bool clean) {
    if (clean)
      (void)v_->close();
    else
      v_->kill();
    open_ = static_cast<bool>(v_->open());
    if (!open_) open_ = static_cast<bool>(v_->open());
    return open_;
  }

  void play() {
    CreateOptions options = v_->options("p");
    options.precopy = true;
    Engine* e = &v_->engine();
    if (!e->create(options)) (void)e->create(options);
    v_->drain("p");
    write("file", 5000, pattern(10, 5000));
    write("file", 30000, pattern(14, 9000));
    make("dir/new", pattern(11, 5000));
    rename("dir/b", "dir/c");
    rename("dir/sub", "moved");  // its file with it
    if (source_.count("dir/sub/x") != 0) {
      source_["moved/x"] = source_["dir/sub/x"];
      source_.erase("dir/sub/x");
      source_.erase("moved");
    }
    unlink("dir/gone");
    truncate("dir/a", 5000);
    v_->engine().step("p");
    if (!e->create(v_->options("d", {"dir"}))) (void)e->create(v_->options("d", {"dir"}));
    (void)e->checkpoint();
    activate({"p", "d"});
    if (clones_.empty()) activate({"p"});
    if (clones_.empty()) activate({"d"});
    write("dir/a", 100, pattern(12, 4000));
    truncate("file", 1000);
    read_clones();
    unlink("dir/new");
    v_->engine().step("d");
    change_clone("p", "dir/c");
    change_clone("d", "dir/a");
    rename("file", "dir/a");
    (void)e->checkpoint();
    if (!reopen(true)) return;
    e = &v_->engine();
    options = v_->options("q");
    options.activate = true;
    const Tree now = v_->capture();
    if (e->create(options)) clones_["q"] = {{"."}, now};
    write("dir/c", 0, pattern(13, 50));
    if (!reopen(false)) return;
    e = &v_->engine();
    v_->drain("d");
    read_clones();
    v_->drain("p");
    if (v_->status("d").state == SessionState::kCopied) (void)e->terminate({"d"}, false);
    removed_ = "p";
    (void)e->remove({"p"}, true);
    if (v_->status("p").name.empty()) clones_.erase("p");
    write("moved/x", 10, pattern(15, 60));
    v_->drain("q");
    read_clones();
    unlink("dir/c");
  }

  void check() {
    for (const auto& [path, content] : source_) {
      if (v_->content(path) != content)
        ADD_FAILURE() << "the source has lost what was written to " << path;
    }
    const Status opened = v_->open();
    ASSERT_TRUE(opened) << opened.error().message;
    for (const auto& [name, expected] : clones_) check_clone(name, expected);
    if (testing::Test::HasFailure()) return;
    // Those before activation can be activated.
    for (const SessionStatus& s : v_->engine().status()) {
      if (s.state != SessionState::kCreated && s.state != SessionState::kPrecopy) continue;
      const Status status = v_->engine().activate({s.name});
      ASSERT_TRUE(status) << s.name << ": " << status.error().message;
      check_clone(s.name, {s.paths, v_->capture(s.paths)});
    }
    for (const SessionStatus& s : v_->engine().status())
      EXPECT_TRUE(v_->engine().remove({s.name}, true)) << s.name;
    ASSERT_TRUE(v_->reopen());
    nothing_is_left();
  }

  void check_clone(const std::string& name, const Clone& expected) {
    const SessionStatus s = v_->status(name);
    // A removal that was refused may have been written down; then the next start goes on with it.
    if (s.name.empty() && name == removed_) return;
    if (s.name.empty()) return ADD_FAILURE() << name << " is not there any more", void();
    if (s.state == SessionState::kFailed) {
      ++failed_;
      // A writer was to get the error instead.
      if (fault_.on_error == OnError::kFailWrite && s.error.find("before it is overwritten") != std::string::npos)
        ADD_FAILURE() << name << " is Failed: " << s.error;
      return;
    }
    std::string found = v_->clone_difference(name, expected.tree, expected.selected);
    // The error met the file of its digests when the session was taken up: it has none now. That alone.
    if (const size_t at = found.find("its digests are not there"); at != std::string::npos) {
      const size_t line = found.rfind('\n', at) + 1, end = found.find('\n', at);
      found.erase(line, end == std::string::npos ? end : end - line + 1);
    }
    EXPECT_EQ(found, "") << name;
    if (testing::Test::HasFailure()) return;
    EXPECT_TRUE(v_->drain(name));
    const SessionState state = v_->status(name).state;
    EXPECT_TRUE(state == SessionState::kCopied || state == SessionState::kTerminated)
        << name << " is " << to_string(state) << " " << v_->status(name).error;
    EXPECT_EQ(v_->plain_difference(name, expected.tree, expected.selected), "") << name << " drained";
  }

  void nothing_is_left() {
    const std::string pool = v_->engine_options().pool;
    const auto list = [&](const std::string& directory) {
      std::string names;
      const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (fd < 0) return names;
      posix_disk().list(fd, [&](const Disk::Entry& entry) {
        names += entry.name + " ";
        return true;
      });
      ::close(fd);
      return names;
    };
    for (const char* directory : {"clones", "incomplete", "tracks", "stage"})
      EXPECT_EQ(list(pool + "/" + directory), "") << directory;
    EXPECT_EQ(list(v_->directory() + "/.clonefs/limbo"), "");
    EXPECT_EQ(list(v_->directory() + "/.clonefs/lost"), "");
    ASSERT_TRUE(v_->close());
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open_v2((pool + "/catalog.db").c_str(), &db, SQLITE_OPEN_READWRITE, "unix"),
              SQLITE_OK);
    for (const char* rows : {"sessions", "objects", "source_marks"}) {
      sqlite3_stmt* statement = nullptr;
      const std::string sql = std::string("SELECT count(*) FROM ") + rows;
      ASSERT_EQ(sqlite3_prepare_v2(db, sql.c_str(), -1, &statement, nullptr), SQLITE_OK);
      EXPECT_EQ(sqlite3_step(statement), SQLITE_ROW);
      EXPECT_EQ(sqlite3_column_int64(statement, 0), 0) << rows;
      sqlite3_finalize(statement);
    }
    sqlite3_close(db);
  }

  const Fault fault_;
  FaultDisk disk_;
  std::unique_ptr<DirectVolume> v_;
  bool open_ = true;
  uint64_t calls_ = 0;
  std::string hit_;
  std::map<std::string, std::string> source_;  // regular files
  std::map<std::string, Clone> clones_;        // activated
  std::string removed_;                        // of these; to be

 public:
  uint64_t failed_ = 0;
  const std::string& hit() const { return hit_; }
};

class Faults : public testing::TestWithParam<std::pair<int, bool>> {};

TEST_P(Faults, at_every_call) {
  Fault fault;
  fault.error = GetParam().first;
  fault.forever = GetParam().second;
  const uint64_t calls = Scenario(fault).run();
  ASSERT_FALSE(HasFailure()) << "without a fault";
  // All of them, or every so many, from a place that the seed tells.
  const bool all = std::getenv("CLONEFS_LONG") != nullptr;
  const uint64_t stride = all ? 1 : fault.error == EIO ? 29 : 13;
  uint64_t runs = 0, failed = 0;
  for (uint64_t at = 1 + seeds(1, 1).first % stride; at <= calls; at += stride) {
    for (const OnError on_error : {OnError::kFailClone, OnError::kFailWrite}) {
      fault.at = at;
      fault.on_error = on_error;
      fault.clean_end = (at / stride + (on_error == OnError::kFailClone)) % 2 == 0;
      Scenario scenario(fault);
      scenario.run();
      failed += scenario.failed_;
      ++runs;
      ASSERT_FALSE(HasFailure()) << describe(fault) << ": " << scenario.hit();
    }
  }
  std::printf("%lu calls, %lu faults, %lu clones Failed\n", static_cast<unsigned long>(calls),
              static_cast<unsigned long>(runs), static_cast<unsigned long>(failed));
}

INSTANTIATE_TEST_SUITE_P(All, Faults,
                         testing::Values(std::pair(EIO, false), std::pair(EIO, true),
                                         std::pair(ENOSPC, false), std::pair(ENOSPC, true)),
                         [](const auto& param) {
                           return std::string(param.param.first == EIO ? "EIO" : "ENOSPC") +
                                  (param.param.second ? "_forever" : "_once");
                         });

}  // namespace
}  // namespace clonefs::test
