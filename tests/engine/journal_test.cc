// The COFW journal by itself: what is read back of a file that is torn, foreign or damaged, who waits
// when it is full, and that writers share a sync.
#include "engine/journal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <set>
#include <thread>

#include "tests/engine/direct_volume.h"
#include "tests/engine/forwarding_disk.h"
#include "tests/engine/gate.h"

namespace clonefs::test {
namespace {

using detail::Journal;
using detail::JournalRecord;
using std::chrono::milliseconds;

// As FORMAT.md has them.
constexpr uint64_t kFileHeader = 4096;
struct FileHeader {
  char magic[16];
  uint32_t version, zero;
  uint64_t generation, sum;
};
struct RecordHeader {
  uint32_t magic, object;
  uint64_t generation, position, commit, session, offset, length, data_sum, sum;
};

constexpr auto kLong = milliseconds(20000);

struct Found {
  uint64_t session;
  uint32_t object;
  uint64_t offset;
  std::string data;
  bool operator==(const Found&) const = default;
};

class JournalTest : public testing::Test {
 protected:
  JournalTest() : directory_(Where::kMemory) {
    dir_ = ::open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  ~JournalTest() override { ::close(dir_); }

  std::unique_ptr<Journal> open(uint64_t limit = Journal::kDefaultLimit,
                                std::function<void()> call = [] {}, Disk& disk = posix_disk()) {
    auto journal = Journal::open(disk, dir_, limit, std::move(call));
    if (!journal) {
      ADD_FAILURE() << journal.error().message;
      return nullptr;
    }
    return std::move(*journal);
  }

  static int append(Journal& journal, uint64_t number, size_t size = 1000,
                    milliseconds patience = kLong) {
    const std::string data = pattern(number, size);
    return journal.append({{7, static_cast<uint32_t>(number), {number * 4096, size}, data.data()}},
                          patience);
  }
  static void zero_all(Journal& journal, uint64_t bytes) {
    while (journal.zero_ahead(bytes)) {
    }
  }
  static Found record(uint64_t number, size_t size = 1000) {
    return {7, static_cast<uint32_t>(number), number * 4096, pattern(number, size)};
  }
  static std::vector<Found> replay(Journal& journal) {
    std::vector<Found> all;
    const Status status = journal.replay([&](const JournalRecord& r) -> Status {
      all.push_back({r.session, r.object, r.range.offset, std::string(r.data, r.range.length)});
      return {};
    });
    EXPECT_TRUE(status);
    return all;
  }
  // What another daemon finds.
  std::vector<Found> found() {
    const auto journal = open();
    return journal == nullptr ? std::vector<Found>() : replay(*journal);
  }

  std::string path(int file) const { return directory_.path() + "/" + std::to_string(file); }
  uint64_t size(int file) const {
    struct stat st{};
    EXPECT_EQ(::stat(path(file).c_str(), &st), 0);
    return static_cast<uint64_t>(st.st_size);
  }
  template <class T>
  T get(int file, uint64_t at) const {
    T value{};
    const int fd = ::open(path(file).c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(::pread(fd, &value, sizeof value, static_cast<off_t>(at)), ssize_t{sizeof value});
    ::close(fd);
    return value;
  }
  template <class T>
  void put(int file, uint64_t at, const T& value) const {
    const int fd = ::open(path(file).c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(::pwrite(fd, &value, sizeof value, static_cast<off_t>(at)), ssize_t{sizeof value});
    ::close(fd);
  }
  static void set_sum(RecordHeader& h) { h.sum = XXH3_64bits(&h, offsetof(RecordHeader, sum)); }
  static void set_sum(FileHeader& h) { h.sum = XXH3_64bits(&h, offsetof(FileHeader, sum)); }
  // Where record INDEX of 1000 bytes begins.
  static uint64_t place(uint64_t index) {
    return kFileHeader + index * (sizeof(RecordHeader) + 1000);
  }

  const TemporaryDirectory directory_;
  int dir_ = -1;
};

TEST_F(JournalTest, what_was_appended_is_read_back_in_order) {
  {
    const auto journal = open();
    EXPECT_TRUE(replay(*journal).empty());
    ASSERT_EQ(append(*journal, 1, 1), 0);
    ASSERT_EQ(append(*journal, 2, 4096), 0);
    ASSERT_TRUE(journal->rotate());
    ASSERT_EQ(append(*journal, 3, 70001), 0);
    EXPECT_EQ(journal->statistics().records, 3u);
  }
  EXPECT_EQ(found(), (std::vector{record(1, 1), record(2, 4096), record(3, 70001)}));
  const auto journal = open();
  ASSERT_TRUE(journal->reset());
  EXPECT_TRUE(found().empty());
}

// One way to damage the second of three records; what is read ends before it.
struct Damage {
  const char* name;
  std::function<void(RecordHeader&)> header;  // its sum is right again after it
  std::function<void(RecordHeader&)> raw;     // ... and not after this
  uint64_t flip = 0;                          // a byte of the data, from its beginning
};

class DamagedRecord : public JournalTest, public testing::WithParamInterface<Damage> {};

TEST_P(DamagedRecord, ends_what_is_read) {
  {
    const auto journal = open();
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(append(*journal, i), 0);
  }
  ASSERT_EQ(found(), (std::vector{record(0), record(1), record(2)}));
  auto h = get<RecordHeader>(0, place(1));
  ASSERT_EQ(h.position, place(1));
  const Damage& damage = GetParam();
  if (damage.header) {
    damage.header(h);
    set_sum(h);
  }
  if (damage.raw) damage.raw(h);
  put(0, place(1), h);
  if (damage.flip != 0) {
    const uint64_t at = place(1) + sizeof(RecordHeader) + damage.flip - 1;
    put(0, at, static_cast<char>(get<char>(0, at) ^ 1));
  }
  EXPECT_EQ(found(), std::vector{record(0)});
  // The third is of a later commit: no power cut did that.
  EXPECT_NE(open()->damage(), "");
}

INSTANTIATE_TEST_SUITE_P(
    All, DamagedRecord,
    testing::Values(
        Damage{"magic", [](auto& h) { ++h.magic; }, {}},
        Damage{"older_generation", [](auto& h) { --h.generation; }, {}},
        Damage{"newer_generation", [](auto& h) { ++h.generation; }, {}},
        Damage{"from_another_place", [](auto& h) { h.position -= 8; }, {}},
        Damage{"oversized", [](auto& h) { h.length = Journal::kMaxRecord + 1; }, {}},
        Damage{"beyond_the_file", [](auto& h) { h.length = Journal::kMaxRecord; }, {}},
        Damage{"enormous", [](auto& h) { h.length = ~uint64_t{0}; }, {}},
        Damage{"shorter_than_its_sum", [](auto& h) { h.length -= 1; }, {}},
        Damage{"sum_of_the_data", [](auto& h) { ++h.data_sum; }, {}},
        Damage{"sum_of_the_header", {}, [](auto& h) { ++h.sum; }},
        Damage{"session_without_sum", {}, [](auto& h) { ++h.session; }},
        Damage{"object_without_sum", {}, [](auto& h) { ++h.object; }},
        Damage{"offset_without_sum", {}, [](auto& h) { ++h.offset; }},
        Damage{"first_byte", {}, {}, 1}, Damage{"last_byte", {}, {}, 1000}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(JournalTest, torn_at_any_length) {
  {
    const auto journal = open();
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(append(*journal, i), 0);
  }
  for (const uint64_t size :
       {place(2) + 1075, place(2) + 72, place(2) + 71, place(2) + 1, place(2)}) {
    ASSERT_EQ(::truncate(path(0).c_str(), static_cast<off_t>(size)), 0);
    const bool whole = size >= place(2) + sizeof(RecordHeader) + 1000;
    EXPECT_EQ(found().size(), whole ? 3u : 2u) << size;
    EXPECT_EQ(open()->damage(), "") << size;
  }
  for (const uint64_t size : {kFileHeader, uint64_t{39}, uint64_t{0}}) {
    ASSERT_EQ(::truncate(path(0).c_str(), static_cast<off_t>(size)), 0);
    EXPECT_TRUE(found().empty()) << size;
  }
}

TEST_F(JournalTest, torn_within_a_commit_is_no_damage) {
  {
    const auto journal = open();
    const std::string data(1000, 'x');
    ASSERT_EQ(journal->append({{7, 0, {0, 1000}, data.data()}, {7, 1, {4096, 1000}, data.data()}}, kLong),
              0);
  }
  put(0, place(0), uint32_t{0});  // the first is gone, the second, written with it, is there
  EXPECT_TRUE(found().empty());
  EXPECT_EQ(open()->damage(), "");
}

TEST_F(JournalTest, a_missing_file_is_damage_once) {
  { ASSERT_EQ(append(*open(), 1), 0); }
  ASSERT_EQ(::unlink(path(1).c_str()), 0);
  EXPECT_NE(open()->damage(), "");
  EXPECT_EQ(open()->damage(), "");
}

TEST_F(JournalTest, a_damaged_header_is_damage) {
  { ASSERT_EQ(append(*open(), 1), 0); }
  for (const uint64_t at : {uint64_t{0}, uint64_t{15}, uint64_t{16}, uint64_t{24}, uint64_t{32}}) {
    put(0, at, static_cast<char>(get<char>(0, at) ^ 1));
    EXPECT_NE(open()->damage(), "") << at;
    put(0, at, static_cast<char>(get<char>(0, at) ^ 1));
  }
  EXPECT_EQ(open()->damage(), "");
}

TEST_F(JournalTest, a_file_of_another_kind_or_version) {
  {
    const auto journal = open();
    ASSERT_EQ(append(*journal, 1), 0);
  }
  const auto header = get<FileHeader>(0, 0);
  auto h = header;
  h.magic[0] = 'C';
  set_sum(h);
  put(0, 0, h);
  EXPECT_TRUE(found().empty());
  h = header;
  h.zero = 1;  // the sum is wrong
  put(0, 0, h);
  EXPECT_TRUE(found().empty());
  h = header;
  ++h.version;
  set_sum(h);
  put(0, 0, h);
  const auto opened = Journal::open(posix_disk(), dir_, Journal::kDefaultLimit, [] {});
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, EUCLEAN);
  put(0, 0, header);
  EXPECT_EQ(found(), std::vector{record(1)});
}

// Records of an earlier turn of the file lie behind the new ones, at just the right place.
TEST_F(JournalTest, records_of_an_earlier_turn_are_not_read) {
  {
    const auto journal = open();
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(append(*journal, i), 0);
    ASSERT_TRUE(journal->rotate());
    ASSERT_EQ(append(*journal, 10), 0);
    EXPECT_FALSE(journal->rotate()) << "the other file is still needed";
    journal->release();
    ASSERT_TRUE(journal->rotate());
    ASSERT_EQ(append(*journal, 20), 0);
  }
  EXPECT_EQ(get<RecordHeader>(0, place(1)).object, 1u) << "the old one must be there";
  EXPECT_EQ(found(), (std::vector{record(10), record(20)}));
}

// A daemon that goes on in the files of another never writes its generation.
TEST_F(JournalTest, generations_go_on) {
  { ASSERT_EQ(append(*open(), 1), 0); }
  const auto before = get<FileHeader>(0, 0).generation;
  const auto journal = open();
  ASSERT_TRUE(journal->reset());
  ASSERT_EQ(append(*journal, 2), 0);
  EXPECT_GT(get<FileHeader>(0, 0).generation, before);
}

// --- full

// Four records of 1000 bytes fit.
constexpr uint64_t kFour = kFileHeader + 4 * (sizeof(RecordHeader) + 1000);

TEST_F(JournalTest, a_full_one_keeps_nobody_longer_than_the_stall_limit) {
  std::atomic<int> calls{0};
  const auto journal = open(kFour, [&] { ++calls; });
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(append(*journal, i, 1000, milliseconds(1)), 0);
  const int before = calls;
  EXPECT_GT(before, 0) << "half full: a checkpoint should have been asked for";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(append(*journal, 4, 1000, milliseconds(50)), -ENOSPC);
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(50));
  EXPECT_GT(calls, before);
  EXPECT_EQ(found().size(), 4u);
}

TEST_F(JournalTest, who_waits_for_room_goes_on_in_the_other_file) {
  std::mutex mutex;
  std::condition_variable called;
  int calls = 0;
  const auto journal = open(kFour, [&] {
    const std::lock_guard lock(mutex);
    ++calls;
    called.notify_all();
  });
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(append(*journal, i), 0);
  const int before = calls;
  int result = 1;
  std::thread writer([&] { result = append(*journal, 4); });
  {
    std::unique_lock lock(mutex);
    called.wait(lock, [&] { return calls > before; });
  }
  EXPECT_TRUE(journal->rotate());
  writer.join();
  EXPECT_EQ(result, 0);
  EXPECT_EQ(found().size(), 5u);
}

TEST_F(JournalTest, room_that_is_made_within_the_call_is_seen) {
  Journal* self = nullptr;
  const auto journal = open(kFour, [&] {
    if (self != nullptr && self->rotate()) self->release();
  });
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(append(*journal, i), 0);
  self = journal.get();
  // Nobody else will make room or say that there is some.
  EXPECT_EQ(append(*journal, 4, 1000, milliseconds(3000)), 0);
  EXPECT_EQ(found().back(), record(4));
}

TEST_F(JournalTest, a_record_larger_than_a_file_has_one_for_itself) {
  const auto journal = open(8192);
  ASSERT_EQ(append(*journal, 1, 100000, milliseconds(1)), 0);
  EXPECT_EQ(append(*journal, 2, 10, milliseconds(1)), -ENOSPC);
  ASSERT_TRUE(journal->rotate());
  ASSERT_EQ(append(*journal, 2, 10, milliseconds(1)), 0);
  EXPECT_EQ(found(), (std::vector{record(1, 100000), record(2, 10)}));
}

// --- many writers

TEST_F(JournalTest, rotation_under_load_loses_nothing_that_is_needed) {
  constexpr int kWriters = 4, kRecords = 300;
  std::atomic<uint64_t> next{0};
  std::atomic<int> writing{kWriters};
  const auto journal = open(16 * kFour);
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back([&] {
      for (int n = 0; n < kRecords; ++n) {
        if (append(*journal, next++, 1000) != 0) ADD_FAILURE() << "append";
      }
      --writing;
    });
  }
  std::array<std::thread, 2> zeros;
  for (auto& thread : zeros) {
    thread = std::thread([&] {
      for (uint64_t n = 1; writing != 0 && n <= 16 * kFour; n += 500) zero_all(*journal, n);
    });
  }
  // Checkpoints: what was begun after the rotation is needed still when the old file is released.
  uint64_t needed = 0, rotations = 0;
  while (writing != 0) {
    if (journal->rotate()) {
      needed = next;
      ++rotations;
      journal->release();
    }
    std::this_thread::yield();
  }
  for (auto& writer : writers) writer.join();
  for (auto& thread : zeros) thread.join();
  EXPECT_GT(rotations, 1u);
  std::vector<bool> there(next);
  for (const Found& f : found()) {
    EXPECT_EQ(f, record(f.object));
    there[f.object] = true;
  }
  for (uint64_t i = needed; i < next; ++i) EXPECT_TRUE(there[i]) << i << " of " << needed;
}

// Holds syncs of data back, or lets them fail.
class SyncDisk : public ForwardingDisk {
 public:
  int datasync(int fd) override {
    std::unique_lock lock(mutex_);
    ++syncs_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    const int e = std::exchange(failure, 0);
    return e != 0 ? e : ForwardingDisk::datasync(fd);
  }
  void set_open(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  void wait_for_sync(int number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return syncs_ >= number; });
  }
  int syncs() {
    const std::lock_guard lock(mutex_);
    return syncs_;
  }
  int failure = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int syncs_ = 0;
};

TEST_F(JournalTest, writers_that_wait_share_a_sync) {
  constexpr uint64_t kWaiting = 5;
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  disk.set_open(false);
  std::vector<std::thread> writers;
  std::atomic<int> failures{0};
  writers.emplace_back([&] { failures += append(*journal, 0) != 0; });
  disk.wait_for_sync(1);
  for (uint64_t i = 1; i <= kWaiting; ++i) {
    writers.emplace_back([&, i] { failures += append(*journal, i) != 0; });
  }
  while (journal->statistics().records != kWaiting + 1) std::this_thread::yield();
  EXPECT_EQ(journal->statistics().commits, 0u) << "nobody has returned before the sync";
  disk.set_open(true);
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(journal->statistics().commits, 2u);
  EXPECT_EQ(found().size(), kWaiting + 1);
}

TEST_F(JournalTest, a_commit_that_failed_is_told_to_its_writers_and_leaves_no_gap) {
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  ASSERT_EQ(append(*journal, 1), 0);
  disk.failure = -EIO;
  EXPECT_EQ(append(*journal, 2), -EIO);
  ASSERT_EQ(append(*journal, 3), 0);
  EXPECT_EQ(found(), (std::vector{record(1), record(3)}));
}

TEST_F(JournalTest, the_header_of_a_commit_that_failed_is_written_again) {
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  disk.failure = -EIO;
  EXPECT_EQ(append(*journal, 1), -EIO);
  put(0, 0, FileHeader{});  // it has not got to the disk
  ASSERT_EQ(append(*journal, 2), 0);
  EXPECT_EQ(found(), (std::vector{record(2)}));
}

// --- zeros ahead

TEST_F(JournalTest, zeros_ahead_end_at_the_limit_and_leave_records_alone) {
  {
    const auto journal = open(1 << 20);
    ASSERT_EQ(append(*journal, 1), 0);
    zero_all(*journal, 300000);
    EXPECT_EQ(size(0), 300000u);
    EXPECT_EQ(size(1), 300000u);
    ASSERT_EQ(append(*journal, 2), 0);
    ASSERT_TRUE(journal->rotate());
    ASSERT_EQ(append(*journal, 3, 400000), 0);
    zero_all(*journal, 5 << 20);
    EXPECT_EQ(size(0), 1u << 20);
    EXPECT_EQ(size(1), 1u << 20);
    ASSERT_EQ(append(*journal, 4), 0);
  }
  EXPECT_EQ(open()->damage(), "");
  EXPECT_EQ(found(), (std::vector{record(1), record(2), record(3, 400000), record(4)}));
}

// The writing of zeros passes a gate.
class ZeroDisk : public ForwardingDisk {
 public:
  ssize_t pwrite(int fd, const void* data, size_t size, uint64_t offset) override {
    if (size == kStep) gate.pass();
    return ForwardingDisk::pwrite(fd, data, size, offset);
  }
  static constexpr size_t kStep = 1 << 20;
  Gate gate;
};

TEST_F(JournalTest, a_record_waits_for_the_zeros_in_its_place) {
  for (const bool first : {true, false}) {  // with the header of the file, without
    ZeroDisk disk;
    const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
    if (!first) {
      ASSERT_EQ(append(*journal, 1), 0);
    }
    disk.gate.close();
    std::thread zeros([&] { zero_all(*journal, 2 * ZeroDisk::kStep); });
    EXPECT_TRUE(disk.gate.wait_for_somebody());
    std::thread writer([&] { EXPECT_EQ(append(*journal, 2), 0); });
    const auto end = std::chrono::steady_clock::now() + milliseconds(50);
    while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
    EXPECT_EQ(journal->statistics().commits, first ? 0u : 1u);
    disk.gate.open();
    writer.join();
    zeros.join();
    EXPECT_EQ(found(), first ? std::vector{record(2)} : (std::vector{record(1), record(2)}));
    ASSERT_TRUE(journal->reset());
  }
}

TEST_F(JournalTest, zeros_go_behind_a_record_that_is_on_its_way) {
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  disk.set_open(false);
  std::thread writer([&] { EXPECT_EQ(append(*journal, 1), 0); });
  disk.wait_for_sync(1);
  std::thread zeros([&] { zero_all(*journal, 100000); });
  disk.wait_for_sync(2);
  disk.set_open(true);
  writer.join();
  zeros.join();
  EXPECT_EQ(found(), (std::vector{record(1)}));
}

TEST_F(JournalTest, zeros_are_written_where_nothing_was) {
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  for (int turn = 0; turn < 2; ++turn) {
    ASSERT_EQ(append(*journal, 1, 400000), 0);
    ASSERT_TRUE(journal->rotate());
    journal->release();
  }
  const int syncs = disk.syncs();
  zero_all(*journal, 400000);
  EXPECT_EQ(disk.syncs(), syncs);
  zero_all(*journal, 500000);
  EXPECT_EQ(disk.syncs(), syncs + 2);
}

// As the kernel does it: each open file is told once that something was not written back. The first sync
// passes a gate before.
class BrokenDisk : public ForwardingDisk {
 public:
  int datasync(int fd) override {
    if (!begun_.exchange(true)) gate.pass();
    const std::lock_guard lock(mutex_);
    return told_.insert(fd).second ? -EIO : 0;
  }
  Gate gate;

 private:
  std::mutex mutex_;
  std::atomic<bool> begun_{false};
  std::set<int> told_;
};

TEST_F(JournalTest, zeros_take_no_error_that_a_record_is_to_be_told) {
  BrokenDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  disk.gate.close();
  std::thread writer([&] { EXPECT_EQ(append(*journal, 1), -EIO); });
  EXPECT_TRUE(disk.gate.wait_for_somebody());
  EXPECT_FALSE(journal->zero_ahead(100000));
  disk.gate.open();
  writer.join();
}

TEST_F(JournalTest, zeros_that_fail_keep_nobody_from_appending) {
  SyncDisk disk;
  const auto journal = open(Journal::kDefaultLimit, [] {}, disk);
  disk.failure = -ENOSPC;
  zero_all(*journal, 1000);
  EXPECT_EQ(size(1), 0u);
  ASSERT_EQ(append(*journal, 1), 0);
  EXPECT_EQ(found(), (std::vector{record(1)}));
}

}  // namespace
}  // namespace clonefs::test
