// Two journal files of any content: records that are whole are replayed, reading ends at the first
// that is not, and the journal takes records afterwards.
#include "engine/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <memory>

#include "tests/engine/direct_volume.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/journal_format.h"
#include "tests/fuzz/require.h"

namespace clonefs::test {
namespace {

using detail::Journal;
using detail::JournalRecord;

std::string make_file(Input& in) {
  JournalFile file;
  for (unsigned steps = in.byte() % 8; steps > 0; --steps) {
    switch (in.byte() % 4) {
      case 0: file.header(in.byte() == 0 ? in.number<uint32_t>() : 1, in.number<uint64_t>()); break;
      case 1: {
        const auto session = in.number<uint64_t>();
        const auto object = in.number<uint32_t>();
        const auto offset = in.number<uint64_t>();
        const std::string data = in.string();
        file.record(session, object, offset, data.size(), data);
        break;
      }
      case 2: file.record(1, 1, 0, in.number<uint64_t>(), in.string()); break;
      default: file.raw(in.string()); break;
    }
  }
  return file.bytes();
}

Result<std::unique_ptr<Journal>> open(int dir) {
  return Journal::open(posix_disk(), dir, 1 << 20, [] {});
}

void run(Input in) {
  const TemporaryDirectory directory(Where::kMemory);
  const int dir = ::open(directory.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  uint64_t size = 0;
  for (const char* name : {"0", "1"}) {
    const std::string bytes = make_file(in);
    const int fd = ::openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(posix_disk().pwrite_full(fd, bytes.data(), bytes.size(), 0) == 0, name);
    ::close(fd);
    size += bytes.size();
  }
  auto journal = open(dir);
  if (!journal) {
    REQUIRE(!journal.error().message.empty(), "an error without words");
    ::close(dir);
    return;
  }
  uint64_t seen = 0;
  const Status replayed = (*journal)->replay([&](const JournalRecord& r) -> Status {
    seen += 72 + r.range.length;
    REQUIRE(seen <= size, "more records than the files have bytes");
    return {};
  });
  REQUIRE(replayed, replayed.error().message);
  REQUIRE((*journal)->reset(), "reset");
  const std::string data = pattern(1, 100);
  REQUIRE((*journal)->append({{3, 4, {5, 100}, data.data()}}, std::chrono::seconds(10)) == 0,
          "append");
  journal->reset();
  journal = open(dir);
  REQUIRE(journal, journal.error().message);
  unsigned records = 0;
  REQUIRE((*journal)->replay([&](const JournalRecord& r) -> Status {
    REQUIRE(r.session == 3 && r.object == 4 && (r.range == ByteRange{5, 100}) &&
                std::memcmp(r.data, data.data(), 100) == 0,
            "not what was appended");
    ++records;
    return {};
  }), "replay");
  REQUIRE(records == 1, std::to_string(records) + " records");
  ::close(dir);
}

}  // namespace
}  // namespace clonefs::test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  clonefs::test::run({data, size});
  return 0;
}
