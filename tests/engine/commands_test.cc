// The commands: every state with every command, names, paths, columns, extents, what is refused and
// that a refusal changes nothing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"

namespace clonefs::test {
namespace {

using std::chrono::milliseconds;

int code(const Status& status) {
  return status ? 0 : status.error().code;
}

void make_tree(DirectVolume& v) {
  ASSERT_EQ(v.make("file", pattern(1, 4 * 4096)), 0);
  ASSERT_EQ(v.mkdir("dir"), 0);
  ASSERT_EQ(v.make("dir/a", pattern(2, 3 * 4096)), 0);
  ASSERT_EQ(v.make("dir/b", pattern(3, 100)), 0);
  ASSERT_EQ(v.mkdir("dir/sub"), 0);
  ASSERT_EQ(v.make("dir/sub/c", pattern(4, 5000)), 0);
  ASSERT_EQ(v.symlink("/etc", "leads-out"), 0);
  ASSERT_EQ(v.symlink("dir", "leads-in"), 0);
}

// All that a refused command must leave as it is.
std::string snapshot(DirectVolume& v, bool after_restart = false) {
  std::string text;
  for (const SessionStatus& s : v.engine().status()) {
    // After a crash all must be looked at again before it is called precopied, and what was written
    // just now is compared.
    const bool looks_again = after_restart && s.op == "precopy";
    const std::string op_status = looks_again ? "" : s.op_status;
    text += s.name + " " + to_string(s.state) + " " + s.op + " " + op_status + " " + s.error + " " +
            std::to_string(s.files) + " " + std::to_string(s.tracks_total) + " " +
            (looks_again ? std::to_string(s.tracks_pending + s.tracks_precopied)
                         : std::to_string(s.tracks_pending) + " " +
                               std::to_string(s.tracks_precopied)) +
            " " + s.destination + " " + std::to_string(s.rate_limit);
    for (const unsigned id : s.sessions) text += " " + std::to_string(id);
    text += "\n";
  }
  for (const CloneInfo& c : v.engine().clones()) {
    text += "clone " + c.name + " " + to_string(c.state) + " " + std::to_string(c.slot) + "\n";
  }
  Tree pool;
  const int dir = ::open(v.engine().pool_path().c_str(), O_PATH | O_CLOEXEC);
  capture(dir, ".", pool);
  ::close(dir);
  for (const auto& [path, object] : pool) {
    if (path.find("catalog") == std::string::npos) text += path + "\n";
  }
  return text;
}

enum class Start { kNone, kCreated, kPrecopy, kPrecopied, kActive, kCopied, kTerminated, kFailed };
constexpr Start kStarts[] = {Start::kNone,   Start::kCreated, Start::kPrecopy,    Start::kPrecopied,
                             Start::kActive, Start::kCopied,  Start::kTerminated, Start::kFailed};
const char* name_of(Start start) {
  static const char* const names[] = {"none",   "Created", "Precopy",    "precopied",
                                      "Active", "Copied",  "Terminated", "Failed"};
  return names[static_cast<int>(start)];
}

void bring_to(DirectVolume& v, Start start) {
  if (start == Start::kNone) return;
  CreateOptions options = v.options("c", {"."});
  options.precopy = start == Start::kPrecopy || start == Start::kPrecopied;
  options.activate = start >= Start::kActive;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  if (start == Start::kPrecopied || start == Start::kCopied || start == Start::kTerminated) {
    ASSERT_TRUE(v.drain("c"));
  }
  if (start == Start::kTerminated) {
    ASSERT_EQ(code(v.engine().terminate({"c"}, false)), 0);
  }
  if (start == Start::kFailed) {  // the source changes while nobody looks
    ASSERT_EQ(code(v.close()), 0);
    const int fd = ::open((v.directory() + "/file").c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(pwrite(fd, "x", 1, 0), 1);
    ::close(fd);
    ASSERT_EQ(code(v.open()), 0);
  }
  static const SessionState states[] = {SessionState::kCreated,        SessionState::kCreated,
                                        SessionState::kPrecopy,        SessionState::kPrecopy,
                                        SessionState::kCopyInProgress, SessionState::kCopied,
                                        SessionState::kTerminated,     SessionState::kFailed};
  ASSERT_STREQ(to_string(v.status("c").state), to_string(states[static_cast<int>(start)]));
}

struct Command {
  const char* name;
  std::function<Status(Engine&, DirectVolume&)> run;
  int expected[8];              // in the order of kStarts
  const char* after = nullptr;  // state where it succeeded; "": gone
};

void PrintTo(const Command& command, std::ostream* out) {
  *out << command.name;
}

// clang-format off
const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      // command                                     none    Created Precopy precopied Active Copied Terminated Failed
      {"create", [](Engine& e, DirectVolume& v) { return e.create(v.options("c", {"."})); },
                                                    {0,      EEXIST, EEXIST, EEXIST, EEXIST, EEXIST, EEXIST, EEXIST}, "Created"},
      {"precopy", [](Engine& e, DirectVolume&) { return e.precopy({"c"}); },
                                                    {ENOENT, 0,      EALREADY, EALREADY, EINVAL, EINVAL, EINVAL, EINVAL}, "Precopy"},
      {"activate", [](Engine& e, DirectVolume&) { return e.activate({"c"}); },
                                                    {ENOENT, 0,      0,      0,      EALREADY, EINVAL, EINVAL, EINVAL}, "CopyInProgress"},
      {"terminate", [](Engine& e, DirectVolume&) { return e.terminate({"c"}, false); },
                                                    {ENOENT, EBUSY,  EBUSY,  EBUSY,  EBUSY,  0,      EALREADY, EBUSY}, "Terminated"},
      {"terminate_force", [](Engine& e, DirectVolume&) { return e.terminate({"c"}, true); },
                                                    {ENOENT, 0,      0,      0,      0,      0,      EALREADY, 0}, nullptr},
      {"remove", [](Engine& e, DirectVolume&) { return e.remove({"c"}); },
                                                    {ENOENT, EBUSY,  EBUSY,  EBUSY,  EBUSY,  0,      0,      EBUSY}, ""},
      {"remove_force", [](Engine& e, DirectVolume&) { return e.remove({"c"}, true); },
                                                    {ENOENT, 0,      0,      0,      0,      0,      0,      0}, ""},
      {"resume", [](Engine& e, DirectVolume&) { return e.resume({"c"}); },
                                                    {ENOENT, EINVAL, 0,      0,      0,      EINVAL, EINVAL, EINVAL}, nullptr},
      {"wait_precopied", [](Engine& e, DirectVolume&) { return e.wait("c", Engine::Goal::kPrecopied, milliseconds(0)); },
                                                    {ENOENT, EINVAL, ETIMEDOUT, 0, 0,        0,      0,      EIO}, nullptr},
      {"wait_copied", [](Engine& e, DirectVolume&) { return e.wait("c", Engine::Goal::kCopied, milliseconds(0)); },
                                                    {ENOENT, ETIMEDOUT, ETIMEDOUT, ETIMEDOUT, ETIMEDOUT, 0, 0, EIO}, nullptr},
  };
  return all;
}

// clang-format on
class States : public testing::TestWithParam<Command> {};

TEST_P(States, command_in_every_state) {
  const Command& command = GetParam();
  for (const Start start : kStarts) {
    DirectVolume v;
    make_tree(v);
    bring_to(v, start);
    const std::string before = snapshot(v);
    const Status status = command.run(v.engine(), v);
    EXPECT_EQ(code(status), command.expected[static_cast<int>(start)])
        << name_of(start) << (status ? "" : ": " + status.error().message);
    if (!status) {
      EXPECT_EQ(snapshot(v), before) << name_of(start);
      // It says what it is about.
      EXPECT_NE(status.error().message.find('c'), std::string::npos) << status.error().message;
    } else if (command.after != nullptr) {
      EXPECT_STREQ(v.status("c").name.empty() ? "" : to_string(v.status("c").state), command.after)
          << name_of(start);
    }
    // Whatever happened, it is the same after a crash.
    const std::string after = snapshot(v, true);
    ASSERT_EQ(code(v.kill_reopen()), 0);
    EXPECT_EQ(snapshot(v, true), after) << name_of(start);
  }
}

INSTANTIATE_TEST_SUITE_P(Commands, States, testing::ValuesIn(commands()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Commands, terminate_by_force_removes_what_is_not_copied_and_keeps_what_is) {
  for (const Start start : kStarts) {
    if (start == Start::kNone || start == Start::kTerminated) continue;
    DirectVolume v;
    make_tree(v);
    bring_to(v, start);
    const std::string destination = v.status("c").destination;
    ASSERT_EQ(code(v.engine().terminate({"c"}, true)), 0) << name_of(start);
    const bool kept = access(destination.c_str(), F_OK) == 0;
    EXPECT_EQ(kept, start == Start::kCopied) << name_of(start);
    EXPECT_EQ(v.engine().clones().size(), start == Start::kCopied ? 1u : 0u) << name_of(start);
    // The name is free again.
    if (!kept) {
      EXPECT_EQ(code(v.engine().create(v.options("c"))), 0) << name_of(start);
    }
  }
}

TEST(Commands, names) {
  const std::string longest(64, 'n');
  for (const std::string& name :
       {std::string("a"), std::string("7"), std::string("a.b-c_D"), std::string("A..b"), longest}) {
    EXPECT_TRUE(is_session_name(name)) << name;
    DirectVolume v;
    EXPECT_EQ(code(v.engine().create(v.options(name))), 0) << name;
  }
  DirectVolume v;
  const std::string before = snapshot(v);
  for (const std::string& name :
       {std::string(""), std::string("."), std::string(".."), std::string(".hidden"),
        std::string("-x"), std::string("_x"), std::string("a/b"), std::string("a b"),
        std::string("a\n"), std::string("a\0b", 3), std::string("\xc3\xa4"), longest + "n",
        std::string("a:b"), std::string("../x")}) {
    EXPECT_FALSE(is_session_name(name)) << name;
    EXPECT_EQ(code(v.engine().create(v.options(name))), EINVAL) << name;
    EXPECT_EQ(snapshot(v), before) << name;
  }
}

TEST(Commands, paths) {
  struct Row {
    std::vector<std::string> paths;
    int code;
  };
  const Row rows[] = {
      {{"file"}, 0},
      {{"dir"}, 0},
      {{"dir/sub/c"}, 0},
      {{"file", "dir/a"}, 0},
      {{"leads-out"}, 0},  // the symbolic link itself
      {{}, EINVAL},
      {{""}, EINVAL},
      {{"missing"}, ENOENT},
      {{"file", "missing"}, ENOENT},
      {{"dir/missing"}, ENOENT},
      {{"file/x"}, ENOTDIR},
      {{"/etc"}, EINVAL},
      {{"/"}, EINVAL},
      {{".."}, EINVAL},
      {{"../x"}, EINVAL},
      {{"dir/../file"}, EINVAL},
      {{"dir/.."}, EINVAL},
      {{"leads-out/passwd"}, ELOOP},
      {{"leads-in/a"}, ELOOP},
      {{".clonefs"}, EINVAL},
      {{".clonefs/pool"}, EINVAL},
      {{std::string("fi\0le", 5)}, EINVAL},
      {{std::string(300, 'x')}, ENAMETOOLONG},
  };
  for (const Row& row : rows) {
    DirectVolume v;
    make_tree(v);
    const std::string before = snapshot(v);
    const Status status = v.engine().create(v.options("c", row.paths));
    EXPECT_EQ(code(status), row.code) << (row.paths.empty() ? "no path" : row.paths.back()) << ": "
                                      << (status ? "" : status.error().message);
    if (!status) {
      EXPECT_EQ(snapshot(v), before);
    }
    if (!status || row.code != 0) continue;
    ASSERT_EQ(code(v.engine().activate({"c"})), 0);
    EXPECT_EQ(v.clone_difference("c", v.capture(row.paths), row.paths), "");
  }
}

TEST(Commands, overlapping_paths_are_one_selection) {
  DirectVolume v;
  make_tree(v);
  const std::vector<std::string> paths = {"dir/sub", "dir", "dir/a", "dir"};
  ASSERT_EQ(code(v.engine().create(v.options("c", paths))), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_EQ(v.clone_difference("c", v.capture({"dir"}), {"dir"}), "");
  EXPECT_EQ(v.status("c").files, 3u);
}

TEST(Commands, everything_under_a_pool_in_the_volume_stays_out) {
  DirectVolume v;
  make_tree(v);
  const Tree before = v.capture();
  CreateOptions options = v.options("c", {"."});
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.plain_difference("c", before), "");
  EXPECT_NE(access((v.status("c").destination + "/.clonefs").c_str(), F_OK), 0);
}

TEST(Commands, columns_are_bounded) {
  DirectVolume::Options o;
  o.max_columns = 3;
  DirectVolume v(o);
  make_tree(v);
  for (const char* name : {"a", "b", "c"}) ASSERT_EQ(code(v.engine().create(v.options(name))), 0);
  std::set<unsigned> ids;
  for (const SessionStatus& s : v.engine().status()) {
    ASSERT_EQ(s.sessions.size(), 1u);
    ids.insert(s.sessions[0]);
  }
  EXPECT_EQ(ids.size(), 3u);

  const std::string before = snapshot(v);
  const Status refused = v.engine().create(v.options("d"));
  EXPECT_EQ(code(refused), EUSERS);
  EXPECT_NE(refused.error().message.find("3"), std::string::npos) << refused.error().message;
  EXPECT_EQ(snapshot(v), before);

  // A copied session holds its column until it is terminated.
  ASSERT_EQ(code(v.engine().activate({"a"})), 0);
  ASSERT_TRUE(v.drain("a"));
  EXPECT_EQ(code(v.engine().create(v.options("d"))), EUSERS);
  ASSERT_EQ(code(v.engine().terminate({"a"}, false)), 0);
  EXPECT_EQ(code(v.engine().create(v.options("d"))), 0);
  ASSERT_EQ(code(v.engine().remove({"b"}, true)), 0);
  EXPECT_EQ(code(v.engine().create(v.options("e"))), 0);
  EXPECT_EQ(code(v.engine().create(v.options("f"))), EUSERS);
  // The bound holds over a restart.
  ASSERT_EQ(code(v.reopen()), 0);
  EXPECT_EQ(code(v.engine().create(v.options("f"))), EUSERS);
}

TEST(Commands, a_list_of_names_is_all_or_nothing) {
  DirectVolume v;
  make_tree(v);
  for (const char* name : {"a", "b", "on"}) ASSERT_EQ(code(v.engine().create(v.options(name))), 0);
  ASSERT_EQ(code(v.engine().activate({"on"})), 0);
  const std::string before = snapshot(v);
  EXPECT_EQ(code(v.engine().activate({"a", "missing"})), ENOENT);
  EXPECT_EQ(code(v.engine().activate({"a", "on"})), EALREADY);
  EXPECT_EQ(code(v.engine().precopy({"a", "on"})), EINVAL);
  EXPECT_EQ(code(v.engine().precopy({"a", "missing"})), ENOENT);
  EXPECT_EQ(code(v.engine().terminate({"a", "missing"}, true)), ENOENT);
  EXPECT_EQ(code(v.engine().remove({"a", "missing"}, true)), ENOENT);
  EXPECT_NE(code(v.engine().activate({})), 0);
  EXPECT_EQ(snapshot(v), before);
  // The same name twice is one session.
  EXPECT_EQ(code(v.engine().activate({"a", "b", "a"})), 0);
  EXPECT_EQ(v.status("a").activated_at.tv_sec, v.status("b").activated_at.tv_sec);
  EXPECT_EQ(v.status("a").activated_at.tv_nsec, v.status("b").activated_at.tv_nsec);
}

// --- part of a file

TEST(Commands, extents_select_whole_tracks) {
  struct Row {
    std::vector<ByteRange> ranges;
    std::vector<Extent> extents;  // of a file of ten tracks and 100 bytes
  };
  const Row rows[] = {
      {{{0, 1}}, {{0, 1}}},
      {{{4095, 2}}, {{0, 2}}},
      {{{8192, 4096}}, {{2, 1}}},
      {{{0, 4096}, {20480, 1}}, {{0, 1}, {5, 1}}},
      {{{20480, 1}, {0, 4096}}, {{0, 1}, {5, 1}}},
      {{{0, 8192}, {4096, 8192}}, {{0, 3}}},
      {{{0, 4096}, {4096, 4096}}, {{0, 2}}},
      {{{10 * 4096, 1000}}, {{10, 1}}},
      {{{9 * 4096, 1 << 20}}, {{9, 2}}},
      {{{1 << 20, 4096}}, {}},
      {{{0, kMaxFileSize}}, {{0, 11}}},
      {{{kMaxFileSize - 1, 1}}, {}},
  };
  for (const Row& row : rows) {
    DirectVolume v;
    ASSERT_EQ(v.make("file", pattern(1, 10 * 4096 + 100)), 0);
    CreateOptions options = v.options("c", {"file"});
    options.extents = row.ranges;
    ASSERT_EQ(code(v.engine().create(options)), 0);
    auto members = v.engine().extents("c");
    ASSERT_TRUE(members) << members.error().message;
    std::vector<Extent> found;
    for (const MemberExtents& member : *members) {
      if (member.path != "file") continue;
      EXPECT_EQ(member.size, 10u * 4096 + 100);
      EXPECT_EQ(member.track_size, 4096u);
      for (const auto& run : member.runs) {
        EXPECT_EQ(run.bits, "101");
        found.push_back(run.extent);
      }
    }
    EXPECT_EQ(found, row.extents) << row.ranges[0].offset << ":" << row.ranges[0].length;
    uint64_t tracks = 0;
    for (const Extent& extent : row.extents) tracks += extent.count;
    EXPECT_EQ(v.status("c").tracks_total, tracks);
    EXPECT_EQ(v.status("c").tracks_pending, tracks);

    ASSERT_EQ(code(v.engine().activate({"c"})), 0);
    Tree expected = v.capture({"file"});
    std::vector<PartOfFile> parts;
    for (const ByteRange& range : row.ranges) parts.push_back({range.offset, range.length});
    keep_extents(expected, 4096, parts);
    ASSERT_EQ(v.write("file", 0, pattern(2, 10 * 4096 + 100)), 0);
    EXPECT_EQ(v.clone_difference("c", expected, {"file"}), "");
    ASSERT_TRUE(v.drain("c"));
    EXPECT_EQ(v.plain_difference("c", expected, {"file"}), "");
  }
}

TEST(Commands, extents_of_nothing_and_beyond_all_files_are_refused) {
  DirectVolume v;
  make_tree(v);
  const std::string before = snapshot(v);
  for (const ByteRange range : {ByteRange{0, 0}, ByteRange{4096, 0}, ByteRange{kMaxFileSize, 1},
                                ByteRange{1, kMaxFileSize}}) {
    CreateOptions options = v.options("c", {"file"});
    options.extents = {range};
    EXPECT_EQ(code(v.engine().create(options)), EINVAL) << range.offset;
    EXPECT_EQ(snapshot(v), before);
  }
}

TEST(Commands, extents_show_the_bits_of_each_phase) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 4 * 4096)), 0);
  const auto bits = [&] {
    std::string text;
    auto members = v.engine().extents("c");
    if (!members) return members.error().message;
    for (const MemberExtents& member : *members) {
      for (const auto& run : member.runs) {
        text += std::to_string(run.extent.first) + "+" + std::to_string(run.extent.count) + ":" +
                run.bits + " ";
      }
    }
    return text;
  };
  CreateOptions options = v.options("c", {"file"});
  options.precopy = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  EXPECT_EQ(bits(), "0+4:101 ");
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(bits(), "0+4:010 ");
  ASSERT_EQ(v.write("file", 5000, "x"), 0);
  EXPECT_EQ(bits(), "0+1:010 1+1:101 2+2:010 ");
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.status("c").tracks_pending, 0u);
  EXPECT_EQ(bits().find("101"), std::string::npos) << bits();
  EXPECT_EQ(code(Status(v.engine().extents("missing").error())), ENOENT);
}

TEST(Commands, holes_are_not_in_the_extents) {
  DirectVolume v;
  ASSERT_EQ(v.create("sparse"), 0);
  ASSERT_EQ(v.truncate("sparse", 1 << 30), 0);
  ASSERT_EQ(v.write("sparse", 1 << 20, pattern(1, 8192)), 0);
  ASSERT_EQ(v.write("sparse", 1 << 29, pattern(2, 100)), 0);
  ASSERT_EQ(code(v.engine().create(v.options("c", {"sparse"}))), 0);
  EXPECT_EQ(v.status("c").tracks_total, 3u);
  EXPECT_LE(v.status("c").bytes_total, 3u * 4096);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  ASSERT_TRUE(v.drain("c"));
  struct stat st {};
  ASSERT_EQ(stat((v.status("c").destination + "/sparse").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 1 << 30);
  EXPECT_LE(st.st_blocks * 512, 5 * 4096);
}

// The largest file that the file system takes: no arithmetic goes wrong near the end.
TEST(Commands, files_up_to_the_largest_offset) {
  DirectVolume v(Where::kMemory);
  ASSERT_EQ(v.create("huge"), 0);
  uint64_t size = uint64_t{1} << 62;  // SEEK_DATA of tmpfs loses the last page that there can be
  while (v.truncate("huge", size) != 0) size /= 2;
  ASSERT_GT(size, uint64_t{1} << 40);
  CreateOptions whole = v.options("whole", {"huge"});
  if (size > uint64_t{1} << 56) {  // more tracks than a member may have, but holes need none
    EXPECT_EQ(code(v.engine().create(whole)), 0);
    ASSERT_EQ(v.write("huge", size - 1, "x"), 0);
    EXPECT_EQ(code(v.engine().create(v.options("too-far", {"huge"}))), EFBIG);
  }
  size = std::min(size, uint64_t{1} << 50);
  ASSERT_EQ(v.truncate("huge", size), 0);
  ASSERT_EQ(v.write("huge", size - 5000, pattern(1, 5000)), 0);
  CreateOptions options = v.options("c", {"huge"});
  options.track_size = TrackSize(TrackSize::kMax);
  options.extents = {{size - 100, kMaxFileSize - (size - 100)}};
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  ASSERT_EQ(v.write("huge", size - 5000, pattern(2, 5000)), 0);
  auto open = v.open_clone("c", "huge");
  ASSERT_TRUE(open);
  std::string data(5000, 'x');
  ASSERT_EQ(open.file->read(data.data(), data.size(), size - 5000), 5000);
  EXPECT_EQ(data, pattern(1, 5000));
}

TEST(Commands, track_size_of_the_session_or_of_the_volume) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 100000)), 0);
  ASSERT_EQ(code(v.engine().create(v.options("a"))), 0);
  CreateOptions options = v.options("b");
  options.track_size = TrackSize(65536);
  ASSERT_EQ(code(v.engine().create(options)), 0);
  EXPECT_EQ(v.status("a").track_size, 4096u);
  EXPECT_EQ(v.status("b").track_size, 65536u);
  EXPECT_EQ(v.status("a").tracks_total, 25u);
  EXPECT_EQ(v.status("b").tracks_total, 2u);
}

// --- nocopy

TEST(Commands, nocopy_copies_only_for_writes_and_readers) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 4 * 4096)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.nocopy = true;
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  const Tree expected = v.capture({"file"});
  EXPECT_TRUE(v.status("c").nocopy);
  EXPECT_FALSE(v.engine().step("c"));
  EXPECT_EQ(v.status("c").tracks_pending, 4u);
  ASSERT_EQ(v.write("file", 4096, pattern(2, 4096)), 0);
  EXPECT_EQ(v.status("c").tracks_pending, 3u);
  EXPECT_EQ(v.status("c").cofw_tracks, 1u);
  EXPECT_EQ(v.status("c").state, SessionState::kCopyInProgress);
  EXPECT_EQ(v.clone_difference("c", expected, {"file"}), "");
  // The last tracks: overwritten, it depends on nothing any more.
  ASSERT_EQ(v.write("file", 0, pattern(3, 4 * 4096)), 0);
  EXPECT_EQ(v.status("c").tracks_pending, 0u);
  v.engine().step("c");
  EXPECT_EQ(v.status("c").state, SessionState::kCopied);
  EXPECT_EQ(v.plain_difference("c", expected, {"file"}), "");
}

// --- room in the pool

class FullDisk : public ForwardingDisk {
 public:
  int statvfs(int fd, struct statvfs* st) override {
    const int r = ForwardingDisk::statvfs(fd, st);
    if (full) st->f_bfree = st->f_bavail = 10;
    return r;
  }
  bool full = false;
};

TEST(Commands, what_cannot_fit_is_refused_unless_thin) {
  FullDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  ASSERT_EQ(v.make("file", pattern(1, 1 << 20)), 0);
  disk.full = true;
  const std::string before = snapshot(v);
  const Status refused = v.engine().create(v.options("c"));
  EXPECT_EQ(code(refused), ENOSPC);
  EXPECT_EQ(snapshot(v), before);
  CreateOptions options = v.options("c");
  options.thin = true;
  EXPECT_EQ(code(v.engine().create(options)), 0);
  // What is allocated counts, not the size.
  ASSERT_EQ(v.create("sparse"), 0);
  ASSERT_EQ(v.truncate("sparse", 1 << 30), 0);
  EXPECT_EQ(code(v.engine().create(v.options("s", {"sparse"}))), 0);
}

// --- names in messages

// The kernel knows the place of a directory, of a file only while its name is cached.
class ColdNamesDisk : public ForwardingDisk {
 public:
  int path_of(int fd, std::string* path) override {
    const int r = ForwardingDisk::path_of(fd, path);
    struct stat st{};
    if (r == 0 && stat(fd, "", &st) == 0 && !S_ISDIR(st.st_mode)) *path = "/";
    return r;
  }
};

TEST(Commands, members_are_named_by_their_paths_also_when_no_name_is_cached) {
  ColdNamesDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  ASSERT_EQ(v.mkdir("dir"), 0);
  ASSERT_EQ(v.mkdir("dir/sub"), 0);
  ASSERT_EQ(v.make("dir/sub/file", pattern(1, 5000)), 0);
  ASSERT_EQ(v.make("top", pattern(2, 5000)), 0);
  ASSERT_EQ(code(v.engine().create(v.options("c", {"."}))), 0);
  ASSERT_EQ(v.rename("dir/sub/file", "dir/moved"), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  const auto names = [&] {
    std::set<std::string> found;
    const auto members = v.engine().extents("c");
    for (const auto& member : *members) found.insert(member.path);
    return found;
  };
  EXPECT_EQ(names(), (std::set<std::string>{"dir/moved", "top"}));
  ASSERT_TRUE(v.close());
  ASSERT_TRUE(v.open());
  EXPECT_EQ(names(), (std::set<std::string>{"dir/moved", "top"}));
}

// --- two at once

class MkdirHookDisk : public ForwardingDisk {
 public:
  int mkdir(int dir, const char* name, mode_t mode) override {
    if (hook && std::string_view(name) == "sub") std::exchange(hook, nullptr)();
    return ForwardingDisk::mkdir(dir, name, mode);
  }
  std::function<void()> hook;
};

TEST(Commands, removed_while_it_is_created) {
  MkdirHookDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  o.copy_threads = true;
  DirectVolume v(o);
  make_tree(v);
  std::future<int> removed;
  disk.hook = [&] {
    removed = std::async(std::launch::async, [&] { return code(v.engine().remove({"c"}, true)); });
    removed.wait_for(milliseconds(100));  // it has to wait for what is built
  };
  (void)v.engine().create(v.options("c"));
  ASSERT_TRUE(removed.valid());
  EXPECT_EQ(removed.get(), 0);
  EXPECT_TRUE(v.engine().status().empty());
  EXPECT_EQ(code(v.engine().create(v.options("c"))), 0);
}

// --- counts, events, hooks

TEST(Commands, status_counts) {
  DirectVolume v;
  make_tree(v);
  CreateOptions options = v.options("c", {"dir", "file"});
  options.precopy = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  SessionStatus s = v.status("c");
  EXPECT_EQ(s.files, 4u);
  EXPECT_EQ(s.paths, options.paths);
  EXPECT_EQ(s.tracks_total, 4u + 3 + 1 + 2);
  EXPECT_EQ(s.tracks_pending, 10u);
  EXPECT_EQ(s.tracks_precopied, 0u);
  EXPECT_EQ(s.bytes_copied, 0u);
  EXPECT_NE(s.created_at.tv_sec, 0);
  EXPECT_EQ(s.activated_at.tv_sec, 0);
  EXPECT_EQ(s.last_track, "");
  ASSERT_TRUE(v.drain("c"));
  s = v.status("c");
  EXPECT_EQ(s.op_status, "precopied");
  EXPECT_EQ(s.tracks_pending, 0u);
  EXPECT_EQ(s.tracks_precopied, 10u);
  EXPECT_EQ(s.tracks_recopied, 0u);
  EXPECT_NE(s.last_track, "");

  ASSERT_EQ(v.write("file", 0, "x"), 0);
  ASSERT_EQ(v.write("file", 1, "x"), 0);
  ASSERT_EQ(v.write("file", 9000, "x"), 0);
  EXPECT_EQ(v.status("c").tracks_pending, 2u);
  EXPECT_EQ(v.status("c").tracks_precopied, 8u);
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.status("c").tracks_recopied, 2u);
  ASSERT_EQ(v.write("file", 0, "y"), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  s = v.status("c");
  EXPECT_NE(s.activated_at.tv_sec, 0);
  EXPECT_EQ(s.tracks_pending, 1u);
  EXPECT_EQ(s.state, SessionState::kCopyInProgress);
  auto open = v.open_clone("c", "file");
  ASSERT_TRUE(open);
  EXPECT_FALSE(open.file->drained());
  ASSERT_EQ(v.write("file", 2, "z"), 0);
  EXPECT_EQ(v.status("c").cofw_tracks, 1u);
  ASSERT_EQ(v.write("file", 3, "z"), 0);  // it is on the clone side already
  EXPECT_EQ(v.status("c").cofw_tracks, 1u);
  ASSERT_TRUE(v.drain("c"));
  s = v.status("c");
  EXPECT_EQ(s.state, SessionState::kCopied);
  EXPECT_EQ(s.tracks_pending, 0u);
  EXPECT_TRUE(open.file->drained());
}

TEST(Commands, a_precopied_session_is_copied_at_once) {
  DirectVolume v;
  make_tree(v);
  CreateOptions options = v.options("c");
  options.precopy = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_TRUE(v.drain("c"));
  const SessionStatus before = v.status("c");
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  const Tree expected = v.capture();
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(v.status("c").state, SessionState::kCopied);
  EXPECT_EQ(v.status("c").bytes_copied, before.bytes_copied);
  EXPECT_EQ(v.plain_difference("c", expected), "");
}

TEST(Commands, one_write_serves_all_sessions_of_the_file) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 8 * 65536)), 0);
  for (const uint64_t size : {4096, 8192, 65536}) {
    CreateOptions options = v.options("c" + std::to_string(size));
    options.track_size = TrackSize(size);
    options.activate = true;
    ASSERT_EQ(code(v.engine().create(options)), 0);
  }
  const Tree expected = v.capture();
  ASSERT_EQ(v.write("file", 70000, pattern(2, 10000)), 0);
  // One read of the largest track that the write touches: what the others have there comes with it.
  EXPECT_EQ(v.status("c4096").cofw_tracks, 16u);
  EXPECT_EQ(v.status("c8192").cofw_tracks, 8u);
  EXPECT_EQ(v.status("c65536").cofw_tracks, 1u);
  for (const char* name : {"c4096", "c8192", "c65536"}) {
    EXPECT_EQ(v.clone_difference(name, expected), "") << name;
    ASSERT_TRUE(v.drain(name));
    EXPECT_EQ(v.plain_difference(name, expected), "") << name;
  }
}

TEST(Commands, rate_limit) {
  DirectVolume v;
  make_tree(v);
  ASSERT_EQ(code(v.engine().create(v.options("c"))), 0);
  EXPECT_EQ(v.status("c").rate_limit, 0u);
  EXPECT_EQ(code(v.engine().set_rate("c", 1 << 20)), 0);
  EXPECT_EQ(v.status("c").rate_limit, 1u << 20);
  EXPECT_EQ(code(v.engine().set_rate("missing", 1)), ENOENT);
  ASSERT_EQ(code(v.kill_reopen()), 0);
  EXPECT_EQ(v.status("c").rate_limit, 1u << 20);
}

TEST(Commands, the_copy_program_takes_steps_by_its_pace) {
  DirectVolume v;
  ASSERT_EQ(v.make("file", pattern(1, 600 * 4096)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  uint64_t left = 600;
  for (const auto& [pace, tracks] : {std::pair{uint64_t{1}, 1u}, {8 * 10 * 4096, 10}, {kPaceMax, 256},
                                     // Nobody has looked yet whether it is alone.
                                     {kPaceAuto, 128}}) {
    ASSERT_EQ(code(v.engine().set_rate("c", pace)), 0);
    EXPECT_TRUE(v.engine().step("c"));
    left -= tracks;
    EXPECT_EQ(v.status("c").tracks_pending, left) << pace;
  }
}

TEST(Commands, wait_ends_when_the_goal_is_reached_or_out_of_reach) {
  DirectVolume::Options o;
  o.copy_threads = true;
  DirectVolume v(o);
  make_tree(v);
  CreateOptions options = v.options("c");
  options.precopy = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  EXPECT_EQ(code(v.engine().wait("c", Engine::Goal::kPrecopied, milliseconds(20000))), 0);
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_EQ(code(v.engine().wait("c", Engine::Goal::kCopied, milliseconds(20000))), 0);

  ASSERT_EQ(code(v.engine().create(v.options("d"))), 0);
  int result = -1;
  std::thread waiter([&] { result = code(v.engine().wait("d", Engine::Goal::kCopied, {})); });
  EXPECT_EQ(code(v.engine().terminate({"d"}, true)), 0);
  waiter.join();
  EXPECT_NE(result, 0);
}

TEST(Commands, events_tell_what_happened) {
  DirectVolume v;
  make_tree(v);
  const auto last = [&] {
    const auto events = v.engine().events(0);
    return events.empty() ? 0 : events.back().number;
  };
  const uint64_t before = last();
  EXPECT_FALSE(v.engine().wait_event(before, milliseconds(0)));
  CreateOptions options = v.options("clone7");
  options.precopy = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_TRUE(v.drain("clone7"));
  ASSERT_EQ(code(v.engine().activate({"clone7"})), 0);
  ASSERT_TRUE(v.drain("clone7"));
  ASSERT_EQ(code(v.engine().terminate({"clone7"}, false)), 0);
  ASSERT_EQ(code(v.engine().remove({"clone7"})), 0);
  EXPECT_TRUE(v.engine().wait_event(before, milliseconds(0)));
  const auto events = v.engine().events(before);
  ASSERT_GE(events.size(), 4u);
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].number, before + 1 + i);
    EXPECT_EQ(events[i].text.find('\n'), std::string::npos);
    EXPECT_NE(events[i].text.find("clone7"), std::string::npos) << events[i].text;
  }
  v.engine().log(EventKind::kNote, "", "by hand");
  EXPECT_EQ(v.engine().events(last() - 1).at(0).text, "by hand");
  EXPECT_TRUE(v.engine().events(last()).empty());
}

TEST(Commands, the_list_of_clones_is_told_of) {
  DirectVolume::Options o;
  o.copy_threads = true;
  DirectVolume v(o);
  make_tree(v);
  std::mutex mutex;
  std::condition_variable more;
  int told = 0;  // guarded by mutex
  const auto wait_for = [&](int times) {
    std::unique_lock lock(mutex);
    return more.wait_for(lock, std::chrono::seconds(20), [&] { return told >= times; });
  };
  v.engine().set_clones_changed([&](const std::string& name, bool) {
    EXPECT_EQ(name, "c");
    const std::lock_guard lock(mutex);
    ++told;
    more.notify_all();
  });
  ASSERT_EQ(code(v.engine().create(v.options("c"))), 0);
  EXPECT_FALSE(told);
  EXPECT_TRUE(v.engine().clones().empty());
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_TRUE(wait_for(1)) << "activated";
  EXPECT_TRUE(wait_for(2)) << "copied";
  ASSERT_EQ(code(v.engine().remove({"c"})), 0);
  EXPECT_TRUE(wait_for(3)) << "gone";
  v.engine().set_clones_changed(nullptr);
}

TEST(Commands, activation_flushes_what_it_covers) {
  DirectVolume v;
  make_tree(v);
  ASSERT_EQ(v.make("not-a-member", "x"), 0);
  const SourceId member = v.id("file"), other = v.id("not-a-member");
  ASSERT_EQ(code(v.engine().create(v.options("c", {"file"}))), 0);
  int calls = 0;
  bool dirty = true;
  v.engine().set_flush([&](const Engine::Wanted& wanted) -> Status {
    ++calls;
    EXPECT_TRUE(wanted(member));
    EXPECT_FALSE(wanted(other));
    // A page that the kernel holds back reaches the engine now.
    if (dirty) {
      EXPECT_EQ(v.write("file", 5000, "written back late"), 0);
    }
    dirty = false;
    return {};
  });
  ASSERT_EQ(code(v.engine().activate({"c"})), 0);
  EXPECT_GE(calls, 1);
  EXPECT_EQ(v.clone_difference("c", v.capture({"file"}), {"file"}), "");
  EXPECT_NE(v.content("file").find("written back late"), std::string::npos);
}

TEST(Commands, a_failed_flush_refuses_the_activation) {
  DirectVolume v;
  make_tree(v);
  ASSERT_EQ(code(v.engine().create(v.options("c"))), 0);
  v.engine().set_flush([](const Engine::Wanted&) -> Status { return Error{EIO, "flush failed"}; });
  const std::string before = snapshot(v);
  EXPECT_EQ(code(v.engine().activate({"c"})), EIO);
  EXPECT_EQ(snapshot(v), before);
  v.engine().set_flush(nullptr);
  EXPECT_EQ(code(v.engine().activate({"c"})), 0);
}

// --- clones

TEST(Clones, inode_numbers_stay_from_one_generation_to_the_next) {
  DirectVolume v(Where::kDisk);
  make_tree(v);
  const auto numbers = [&] {
    std::map<std::string, ino_t> inos;
    const auto clone = v.engine().clone("c");
    for (const auto& [path, object] : v.capture()) {
      struct stat st {};
      fstatat((*clone)->root(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW);
      (*clone)->present(&st);
      inos[path] = st.st_ino;
    }
    return inos;
  };
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  const auto first = numbers();
  const unsigned slot = v.engine().clones().at(0).slot;
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(numbers(), first);
  ASSERT_EQ(code(v.engine().terminate({"c"}, false)), 0);
  EXPECT_EQ(numbers(), first);
  ASSERT_EQ(code(v.reopen()), 0);
  EXPECT_EQ(numbers(), first);
  ASSERT_EQ(code(v.engine().remove({"c"})), 0);
  ASSERT_EQ(v.write("file", 0, "changed"), 0);
  ASSERT_EQ(code(v.engine().create(v.options("between"))), 0);
  ASSERT_EQ(code(v.engine().create(options)), 0);
  EXPECT_EQ(numbers(), first);
  EXPECT_EQ(v.engine().clones().at(0).slot, slot);
  EXPECT_GT(slot, 0u);
}

TEST(Clones, times_set_on_a_drained_file_are_shown_though_the_clock_was_set_back) {
  DirectVolume v(Where::kDisk);
  make_tree(v);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  ASSERT_TRUE(v.drain("c"));
  const auto clone = v.engine().clone("c");
  struct stat pool {};
  ASSERT_EQ(fstatat((*clone)->root(), "file", &pool, AT_SYMLINK_NOFOLLOW), 0);
  const timespec times[2] = {{5, 6}, {7, 8}};
  (*clone)->changed(pool.st_ino, times);
  pool.st_atim = times[0];
  pool.st_mtim = times[1];
  pool.st_ctim.tv_sec -= 3600;
  (*clone)->present(&pool);
  EXPECT_EQ(pool.st_atim.tv_sec, 5);
  EXPECT_EQ(pool.st_mtim.tv_sec, 7);
}

TEST(Clones, a_clone_that_is_gone_answers_estale) {
  DirectVolume v;
  make_tree(v);
  CreateOptions options = v.options("c");
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  auto open = v.open_clone("c", "file");
  ASSERT_TRUE(open);
  EXPECT_EQ(open.clone->error(), 0);
  ASSERT_EQ(code(v.engine().terminate({"c"}, true)), 0);
  EXPECT_EQ(open.clone->error(), ESTALE);
  char byte = 0;
  EXPECT_EQ(open.file->read(&byte, 1, 0), -ESTALE);
  EXPECT_EQ(open.file->write(&byte, 1, 0), -ESTALE);
  EXPECT_EQ(open.file->truncate(0), -ESTALE);
}

class ReadCountingDisk : public ForwardingDisk {
 public:
  ssize_t pread(int fd, void* data, size_t size, uint64_t offset) override {
    bytes += size;
    return ForwardingDisk::pread(fd, data, size, offset);
  }
  uint64_t bytes = 0;
};

TEST(Clones, a_write_that_covers_a_track_copies_nothing) {
  ReadCountingDisk disk;
  DirectVolume::Options o;
  o.disk = &disk;
  DirectVolume v(o);
  ASSERT_EQ(v.make("file", pattern(1, 4 * 4096)), 0);
  CreateOptions options = v.options("c", {"file"});
  options.activate = true;
  ASSERT_EQ(code(v.engine().create(options)), 0);
  auto open = v.open_clone("c", "file");
  ASSERT_TRUE(open);
  const std::string data = pattern(2, 4096);
  disk.bytes = 0;
  ASSERT_EQ(open.file->write(data.data(), data.size(), 4096), 4096);
  EXPECT_EQ(v.status("c").tracks_pending, 3u);
  EXPECT_EQ(disk.bytes, 0u);
  ASSERT_EQ(open.file->write(data.data(), 10, 100), 10);
  EXPECT_EQ(disk.bytes, 4096u);
  EXPECT_EQ(v.status("c").tracks_pending, 2u);
  std::string expected = pattern(1, 4 * 4096);
  expected.replace(4096, 4096, data);
  expected.replace(100, 10, data.substr(0, 10));
  EXPECT_EQ(read_clone_file(*open.file, expected.size()), expected);
  ASSERT_TRUE(v.drain("c"));
  EXPECT_EQ(read_clone_file(*open.file, expected.size()), expected);
  EXPECT_EQ(v.content("file"), pattern(1, 4 * 4096));
}

}  // namespace
}  // namespace clonefs::test
