// What an error of the pool or of the source does to sessions, case by case: the copy program tries
// again, pauses and is resumed; COFW goes by the policy; who writes to a clone gets his error.
#include <gtest/gtest.h>

#include <chrono>

#include "engine/pool_watch.h"
#include "tests/engine/direct_volume.h"
#include "tests/engine/fault_disk.h"

namespace clonefs::test {
namespace {

using std::chrono::milliseconds;

int code(const Status& status) { return status ? 0 : status.error().code; }

std::string texts(const Engine& engine) {
  std::string all;
  for (const auto& event : engine.events(0)) all += event.text + "\n";
  return all;
}

class Errors : public testing::Test {
 protected:
  // A volume with FILES of SIZE bytes, its pool beside it, on DISK.
  std::unique_ptr<DirectVolume> volume(OnError on_error = OnError::kFailClone, bool threads = false) {
    DirectVolume::Options o;
    o.disk = &disk;
    o.pool = Where::kMemory;
    o.on_error = on_error;
    o.copy_threads = threads;
    auto v = std::make_unique<DirectVolume>(o);
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(v->make("f" + std::to_string(i), pattern(i + 1, 4 * 4096 + 100)), 0);
    return v;
  }
  void copy(DirectVolume& v, const std::string& name, bool nocopy = false) {
    CreateOptions options = v.options(name);
    options.activate = true;
    options.nocopy = nocopy;
    ASSERT_EQ(code(v.engine().create(options)), 0);
  }
  // From now on calls that change a file fail whose place has TEXT in it, COUNT times.
  void fail_changes(const std::string& text, int e, int count = 1 << 30) {
    disk.fault = [=, left = count](const FaultDisk::Call& call) mutable {
      if (!call.changes || call.place().find(text) == std::string::npos || left == 0) return 0;
      --left;
      return -e;
    };
  }

  FaultDisk disk;
};

TEST_F(Errors, a_drain_that_meets_errors_pauses_and_is_resumed) {
  auto v = volume();
  copy(*v, "c");
  const Tree expected = v->capture();
  fail_changes("incomplete/c/f1", ENOSPC);
  ASSERT_TRUE(v->drain("c"));
  SessionStatus s = v->status("c");
  EXPECT_EQ(s.state, SessionState::kCopyInProgress);
  EXPECT_EQ(s.op_status, "paused");
  EXPECT_NE(s.error.find("f1"), std::string::npos) << s.error;
  EXPECT_NE(s.error.find("No space left"), std::string::npos) << s.error;
  // All but the one is copied.
  EXPECT_EQ(s.tracks_pending, 5u);
  EXPECT_NE(texts(v->engine()).find("PAUSED c: "), std::string::npos) << texts(v->engine());
  EXPECT_NE(texts(v->engine()).find("clonefs resume c"), std::string::npos);
  const Status waited = v->engine().wait("c", Engine::Goal::kCopied, milliseconds(0));
  EXPECT_EQ(code(waited), EIO);
  EXPECT_NE(waited.error().message.find("clonefs resume c"), std::string::npos);

  // The clone is whole meanwhile, also after COFW of what can be saved.
  EXPECT_EQ(v->clone_difference("c", expected), "");
  ASSERT_EQ(v->write("f0", 0, pattern(20, 9000)), 0);
  EXPECT_EQ(v->clone_difference("c", expected), "");

  // Nothing happens by itself, and nothing when it is resumed too early.
  EXPECT_FALSE(v->engine().step("c"));
  ASSERT_EQ(code(v->engine().resume({"c"})), 0);
  EXPECT_EQ(v->status("c").op_status, "running");
  EXPECT_EQ(v->status("c").error, "");
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->status("c").op_status, "paused");

  disk.fault = nullptr;
  EXPECT_FALSE(v->engine().step("c"));
  ASSERT_EQ(code(v->engine().resume({"c"})), 0);
  ASSERT_TRUE(v->drain("c"));
  s = v->status("c");
  EXPECT_EQ(s.state, SessionState::kCopied);
  EXPECT_EQ(s.op_status, "done");
  EXPECT_EQ(s.error, "");
  EXPECT_EQ(v->plain_difference("c", expected), "");
}

TEST_F(Errors, the_source_cannot_be_read) {
  auto v = volume();
  copy(*v, "c");
  const Tree expected = v->capture();
  disk.fault = [&](const FaultDisk::Call& call) {
    return call.name == std::string("pread") && call.place() == v->directory() + "/f2" ? -EIO : 0;
  };
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->status("c").op_status, "paused");
  EXPECT_EQ(v->status("c").tracks_pending, 5u);
  // Who reads the clone there learns it, and nobody else.
  auto open = v->open_clone("c", "f2", O_RDONLY);
  ASSERT_TRUE(open);
  char byte = 0;
  EXPECT_EQ(open.file->read(&byte, 1, 0), -EIO);
  disk.fault = nullptr;
  EXPECT_EQ(v->clone_difference("c", expected), "");
  ASSERT_EQ(code(v->engine().resume({"c"})), 0);
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->plain_difference("c", expected), "");
}

// Each place where the drain of a tree can go wrong, for a while: it ends by itself.
TEST_F(Errors, a_few_errors_are_tried_again) {
  for (const char* where : {"incomplete/c/f0", "tracks/1", "tracks/1.durable", "catalog", "clones/c"}) {
    auto v = volume();
    copy(*v, "c");
    const Tree expected = v->capture();
    fail_changes(where, EIO, 3);
    ASSERT_TRUE(v->drain("c")) << where;
    EXPECT_EQ(v->status("c").state, SessionState::kCopied) << where;
    EXPECT_EQ(v->status("c").op_status, "done") << where;
    EXPECT_EQ(v->plain_difference("c", expected), "") << where;
  }
}

TEST_F(Errors, precopy_pauses_and_activation_ends_that) {
  auto v = volume();
  CreateOptions options = v->options("c");
  options.precopy = true;
  ASSERT_EQ(code(v->engine().create(options)), 0);
  fail_changes("incomplete/c", EROFS);
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->status("c").state, SessionState::kPrecopy);
  EXPECT_EQ(v->status("c").op_status, "paused");
  ASSERT_EQ(v->write("f0", 100, pattern(30, 5000)), 0);
  ASSERT_EQ(v->rename("f1", "g"), 0);
  ASSERT_EQ(v->make("new", pattern(31, 5000)), 0);
  // An activation that cannot be done changes nothing.
  EXPECT_EQ(code(v->engine().activate({"c"})), EROFS);
  EXPECT_EQ(v->status("c").state, SessionState::kPrecopy);
  ASSERT_EQ(v->unlink("f2"), 0);
  disk.fault = nullptr;
  ASSERT_EQ(code(v->engine().activate({"c"})), 0);
  const Tree expected = v->capture();
  EXPECT_EQ(v->status("c").op_status, "running");
  EXPECT_EQ(v->clone_difference("c", expected), "");
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->plain_difference("c", expected), "");
}

// A pass over names that an error ends anywhere is gone on with.
TEST_F(Errors, names_are_brought_up_to_date_after_errors) {
  for (int skip = 0; skip < 60; ++skip) {
    auto v = volume();
    ASSERT_EQ(v->mkdir("d"), 0);
    ASSERT_EQ(v->mkdir("d/e"), 0);
    ASSERT_EQ(v->make("d/e/file", pattern(5, 5000)), 0);
    CreateOptions options = v->options("c");
    options.precopy = true;
    ASSERT_EQ(code(v->engine().create(options)), 0);
    ASSERT_TRUE(v->drain("c"));
    ASSERT_EQ(v->rename("d/e", "moved"), 0);
    ASSERT_EQ(v->rename("d", "moved/d"), 0);
    ASSERT_EQ(v->rename("f0", "moved/f1"), 0);
    ASSERT_EQ(v->unlink("f1"), 0);
    ASSERT_EQ(v->mkdir("f1"), 0);
    ASSERT_EQ(v->make("f1/x", pattern(6, 5000)), 0);
    ASSERT_EQ(v->link("f1/x", "f1/y"), 0);
    ASSERT_EQ(v->truncate("f2", 5000), 0);
    // Either what changed is known, or all is looked at again.
    if (skip % 2 == 1) {
      ASSERT_EQ(code(v->kill_reopen()), 0);
    }
    int calls = 0;
    disk.fault = [&](const FaultDisk::Call& call) {
      return call.fd >= 0 && ++calls > skip * 7 && calls <= skip * 7 + 6 ? -EIO : 0;
    };
    ASSERT_TRUE(v->drain("c"));
    const bool hit = calls > skip * 7;
    disk.fault = nullptr;
    ASSERT_EQ(v->truncate("f2", 9000), 0);
    ASSERT_EQ(code(v->engine().resume({"c"})), 0);
    ASSERT_TRUE(v->drain("c"));
    EXPECT_EQ(v->status("c").op_status, "precopied");
    const Status activated = v->engine().activate({"c"});
    ASSERT_TRUE(activated) << activated.error().message;
    const Tree expected = v->capture();
    EXPECT_EQ(v->clone_difference("c", expected), "") << "from call " << skip * 7;
    ASSERT_TRUE(v->drain("c"));
    EXPECT_EQ(v->plain_difference("c", expected), "") << "from call " << skip * 7;
    if (HasFailure() || !hit) break;
  }
}

TEST_F(Errors, a_restart_tries_again) {
  auto v = volume();
  copy(*v, "c");
  const Tree expected = v->capture();
  fail_changes("incomplete/c", ENOSPC);
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->status("c").op_status, "paused");
  disk.fault = nullptr;
  ASSERT_EQ(code(v->reopen()), 0);
  EXPECT_EQ(v->status("c").op_status, "running");
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(v->plain_difference("c", expected), "");
}

TEST_F(Errors, the_thread_of_the_copy_program_tries_again) {
  auto v = volume(OnError::kFailClone, true);
  CreateOptions options = v->options("c");
  // The skeleton first: it is made in the same place.
  disk.set_fault([&](const FaultDisk::Call& call) {
    return call.name == std::string("pwrite") && call.place().find("incomplete/c/f") != std::string::npos
               ? -ENOSPC
               : 0;
  });
  options.activate = true;
  ASSERT_EQ(code(v->engine().create(options)), 0);
  const Status paused = v->engine().wait("c", Engine::Goal::kCopied, milliseconds(60000));
  EXPECT_EQ(code(paused), EIO);
  EXPECT_EQ(v->status("c").op_status, "paused");
  std::atomic<int> errors{0};
  disk.set_fault([&](const FaultDisk::Call& call) {
    return call.name == std::string("pwrite") &&
                   call.place().find("incomplete/c/f") != std::string::npos && errors < 2
               ? (++errors, -ENOSPC)
               : 0;
  });
  ASSERT_EQ(code(v->engine().resume({"c"})), 0);
  EXPECT_EQ(code(v->engine().wait("c", Engine::Goal::kCopied, milliseconds(60000))), 0);
  EXPECT_EQ(errors, 2);
}

TEST_F(Errors, resume_of_what_cannot_be_resumed) {
  auto v = volume();
  EXPECT_EQ(code(v->engine().resume({"missing"})), ENOENT);
  ASSERT_EQ(code(v->engine().create(v->options("created"))), 0);
  EXPECT_EQ(code(v->engine().resume({"created"})), EINVAL);
  copy(*v, "c");
  EXPECT_EQ(code(v->engine().resume({"c"})), 0);  // it runs: nothing to do
  EXPECT_EQ(code(v->engine().resume({"c", "created"})), EINVAL);
  ASSERT_TRUE(v->drain("c"));
  EXPECT_EQ(code(v->engine().resume({"c"})), EINVAL);
}

// --- copy on first write

TEST_F(Errors, fail_clone_fails_the_clone_that_has_no_room_and_no_other) {
  auto v = volume();
  copy(*v, "full", true);
  copy(*v, "whole", true);
  const Tree expected = v->capture();
  fail_changes("incomplete/full", ENOSPC);
  ASSERT_EQ(v->write("f1", 100, pattern(40, 5000)), 0);
  EXPECT_EQ(v->status("full").state, SessionState::kFailed);
  EXPECT_EQ(v->status("whole").state, SessionState::kCopyInProgress);
  EXPECT_EQ(v->clone_difference("whole", expected), "");
  EXPECT_EQ(v->content("f1").substr(100, 5000), pattern(40, 5000));
  auto clone = v->engine().clone("full");
  ASSERT_TRUE(clone);
  EXPECT_EQ((*clone)->error(), EIO);
  disk.fault = nullptr;
  ASSERT_EQ(code(v->kill_reopen()), 0);
  EXPECT_EQ(v->status("full").state, SessionState::kFailed);
  EXPECT_EQ(v->clone_difference("whole", expected), "");
}

TEST_F(Errors, fail_write_gives_the_writer_the_error_and_keeps_the_clones) {
  for (const char* where : {"incomplete/a", "journal/"}) {
    auto v = volume(OnError::kFailWrite);
    copy(*v, "a", true);
    copy(*v, "b", true);
    const Tree expected = v->capture();
    fail_changes(where, ENOSPC);
    for (int i = 0; i < 20; ++i)
      EXPECT_EQ(v->write("f1", 100, pattern(40, 5000)), -ENOSPC) << where;
    EXPECT_EQ(v->truncate("f1", 10), -ENOSPC) << where;
    for (const char* name : {"a", "b"}) {
      EXPECT_EQ(v->status(name).state, SessionState::kCopyInProgress) << where;
      EXPECT_EQ(v->clone_difference(name, expected), "") << where;
    }
    // Said once, not for every write.
    const std::string events = texts(v->engine());
    const size_t said = events.find("write refused");
    ASSERT_NE(said, std::string::npos) << where;
    EXPECT_EQ(events.find("write refused for a", said + 1), std::string::npos) << events;
    disk.fault = nullptr;
    ASSERT_EQ(v->write("f1", 100, pattern(40, 5000)), 0);
    for (const char* name : {"a", "b"}) EXPECT_EQ(v->clone_difference(name, expected), "") << where;
  }
}

// --- writing to a clone

TEST_F(Errors, who_writes_to_a_clone_gets_the_error_and_the_clone_stays) {
  auto v = volume();
  copy(*v, "c", true);
  const Tree expected = v->capture();
  auto open = v->open_clone("c", "f0");
  ASSERT_TRUE(open);
  for (const int e : {ENOSPC, EDQUOT, EIO, EROFS}) {
    fail_changes("incomplete/c/f0", e);
    EXPECT_EQ(open.file->write("x", 1, 100), -e);
    EXPECT_EQ(open.file->truncate(5000), -e);
  }
  disk.fault = nullptr;
  EXPECT_EQ(v->status("c").state, SessionState::kCopyInProgress);
  EXPECT_EQ(v->clone_difference("c", expected), "");
  EXPECT_EQ(open.file->write("x", 1, 100), 1);
}

// --- room in the pool

TEST(PoolWatch, says_once_that_the_pool_will_be_full_soon) {
  constexpr uint64_t kMiB = 1 << 20;
  detail::PoolWatch watch;
  EXPECT_FALSE(watch.status().known);
  EXPECT_EQ(watch.look(10000 * kMiB, 20000 * kMiB, 0), "");
  EXPECT_EQ(watch.status().full_in_s, -1);  // nothing is used
  uint64_t free = 10000 * kMiB;
  // 10 MiB a second: in some 900 seconds.
  for (int i = 0; i < 60; ++i) EXPECT_EQ(watch.look(free -= 10 * kMiB, 20000 * kMiB, 1), "") << i;
  EXPECT_NEAR(static_cast<double>(watch.status().used_bytes_per_s), 10 * kMiB, 0.1 * kMiB);
  EXPECT_NEAR(static_cast<double>(watch.status().full_in_s), 940, 20);
  // As fast, but all that is needed has room: nothing to say.
  free -= 100 * kMiB;
  EXPECT_EQ(watch.look(free, free - kMiB, 1), "");
  EXPECT_EQ(watch.status().full_in_s, -1);
  int said = 0;
  for (int i = 0; i < 30; ++i) said += watch.look(free -= 100 * kMiB, 20000 * kMiB, 1).empty() ? 0 : 1;
  EXPECT_EQ(said, 1);
  EXPECT_LT(watch.status().full_in_s, detail::PoolWatch::kSoonS);
  // Room was made, and goes again.
  EXPECT_EQ(watch.look(30000 * kMiB, 20000 * kMiB, 1), "");
  EXPECT_NE(watch.look(3 * kMiB, 20000 * kMiB, 1).find("3 MiB are left"), std::string::npos);
  EXPECT_EQ(watch.status().full_in_s, 0);
}

TEST_F(Errors, the_pool_is_looked_at_and_an_event_says_that_it_fills_up) {
  std::atomic<uint64_t> room{uint64_t{1} << 40};
  disk.room = [&](struct statvfs* fs) { fs->f_bavail = room / fs->f_frsize; };
  auto v = volume(OnError::kFailClone, true);
  EXPECT_TRUE(v->engine().pool_status().known);
  EXPECT_EQ(v->engine().pool_status().free_bytes, uint64_t{1} << 40);
  copy(*v, "c", true);
  const auto events = [&] {
    int n = 0;
    for (const auto& event : v->engine().events(0))
      n += event.text.find("running out of space") == std::string::npos ? 0 : 1;
    return n;
  };
  const auto wait_for = [&](const std::function<bool()>& condition) {
    // No event has that number: looked at again, for ten seconds.
    for (int i = 0; i < 200 && !condition(); ++i) v->engine().wait_event(1 << 30, milliseconds(50));
    return condition();
  };
  room = 40 << 10;  // the clone may need four times 20 KiB
  EXPECT_TRUE(wait_for([&] { return events() == 1; }));
  EXPECT_EQ(v->engine().pool_status().needed_bytes, 4u * 5 * 4096);
  EXPECT_EQ(v->engine().pool_status().full_in_s, 0);
  room = 80 << 10;
  EXPECT_TRUE(wait_for([&] { return v->engine().pool_status().full_in_s == -1; }));
  room = 40 << 10;
  EXPECT_TRUE(wait_for([&] { return events() == 2; }));
}

}  // namespace
}  // namespace clonefs::test
