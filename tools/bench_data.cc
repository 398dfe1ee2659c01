// The cases that read and write one large file.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/bench_case.h"
#include "tools/bench_result.h"

namespace clonefs::bench {

namespace {

constexpr size_t kThreads = 4;

enum class After { kNothing, kFsync, kFdatasyncEach };
enum class Order { kSequential, kRandom };
enum class Cache { kWarm, kCold };

void check(ssize_t got, size_t wanted, const char* what) {
  if (got != static_cast<ssize_t>(wanted)) impossible(what);
}

void write_new(Case& c, size_t block, After after) {
  const uint64_t size = Case::size_of(c.open("data", O_RDONLY));
  const Buffer buffer = make_buffer(block);
  ::unlink(c.path("new").c_str());  // what a failure left
  c.settle();
  {
    const UniqueFd fd = c.open("new", O_CREAT | O_EXCL | O_WRONLY);
    c.measure(
        c.name(), size / block, block,
        [&](uint64_t) { check(::write(fd.get(), buffer.get(), block), block, "write"); },
        [&] {
          if (after == After::kFsync && ::fsync(fd.get()) != 0) impossible("fsync");
        });
  }
  ::unlink(c.path("new").c_str());
  c.settle();
}

// Each thread writes as much as the file is long, divided by their number.
void rewrite(Case& c, size_t block, Order order, int flags, After after, size_t threads = 1) {
  const UniqueFd fd = c.open("data", O_RDWR | flags);
  const uint64_t size = Case::size_of(fd);
  const Buffer buffer = make_buffer(block);
  std::vector<Case::Operation> ops;
  for (size_t i = 0; i < threads; ++i) {
    ops.emplace_back(
        [&, places = Places(size, block, order == Order::kRandom, i)](uint64_t n) mutable {
          check(::pwrite(fd.get(), buffer.get(), block, places.at(n)), block, "write");
          if (after == After::kFdatasyncEach && ::fdatasync(fd.get()) != 0) impossible("fdatasync");
        });
  }
  c.settle();
  c.measure(c.name(), size / block / threads, block, ops, [&] {
    if (after == After::kFsync && ::fsync(fd.get()) != 0) impossible("fsync");
  });
  c.settle();
}

void warm_up(const UniqueFd& fd) {
  const Buffer whole = make_buffer(kMiB);
  for (off_t at = 0; ::pread(fd.get(), whole.get(), kMiB, at) > 0;) at += kMiB;
}

// What comes from a cache is read over and over, what does not once.
void read_data(Case& c, size_t block, Order order, int flags, Cache cache, size_t threads = 1) {
  if (cache == Cache::kCold) c.evict("data");
  const UniqueFd fd = c.open("data", O_RDONLY | flags);
  if (cache == Cache::kWarm) warm_up(fd);
  const uint64_t size = Case::size_of(fd);
  std::vector<Buffer> buffers;
  std::vector<Case::Operation> ops;
  for (size_t i = 0; i < threads; ++i) {
    buffers.push_back(make_buffer(block));
    ops.emplace_back(
        [&fd, block, buffer = buffers.back().get(),
         places = Places(size, block, order == Order::kRandom, i)](uint64_t n) mutable {
          check(::pread(fd.get(), buffer, block, places.at(n)), block, "read");
        });
  }
  c.measure(c.name(), cache == Cache::kWarm ? kUntilTheTimeIsOver : size / block / threads, block,
            ops);
}

void map_data(Case& c, bool write) {
  const UniqueFd fd = c.open("data", write ? O_RDWR : O_RDONLY);
  const uint64_t size = Case::size_of(fd);
  warm_up(fd);
  c.settle();
  void* at =
      ::mmap(nullptr, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) impossible("mmap");
  volatile char* map = static_cast<char*>(at);
  Places places(size, kPage, true);
  c.measure(
      c.name(), places.blocks(), kPage,
      [&](uint64_t n) {
        if (write)
          map[places.at(n)] = static_cast<char>(n);
        else
          (void)map[places.at(n)];  // volatile: it is read
      },
      [&] {
        if (write && ::msync(at, size, MS_SYNC) != 0) impossible("msync");
      });
  ::munmap(at, size);
  c.settle();
}

}  // namespace

const std::vector<NamedCase>& data_cases() {
  using enum After;
  using enum Order;
  using enum Cache;
  static const std::vector<NamedCase> all = {
      {"write 1M, new file", [](Case& c) { write_new(c, kMiB, kNothing); }},
      {"write 1M, new file + fsync", [](Case& c) { write_new(c, kMiB, kFsync); }},
      {"write 4K, new file", [](Case& c) { write_new(c, kPage, kNothing); }},
      {"rewrite 1M", [](Case& c) { rewrite(c, kMiB, kSequential, 0, kNothing); }},
      {"rewrite 1M + fsync", [](Case& c) { rewrite(c, kMiB, kSequential, 0, kFsync); }},
      {"rewrite 4K random", [](Case& c) { rewrite(c, kPage, kRandom, 0, kNothing); }},
      {"rewrite 4K random, 4 threads",
       [](Case& c) { rewrite(c, kPage, kRandom, 0, kNothing, kThreads); }},
      {"rewrite 4K random + fsync", [](Case& c) { rewrite(c, kPage, kRandom, 0, kFsync); }},
      {"rewrite 4K random, fdatasync each",
       [](Case& c) { rewrite(c, kPage, kRandom, 0, kFdatasyncEach); }},
      {"read 1M cached", [](Case& c) { read_data(c, kMiB, kSequential, 0, kWarm); }},
      {"read 4K random cached", [](Case& c) { read_data(c, kPage, kRandom, 0, kWarm); }},
      {"read 4K random cached, 4 threads",
       [](Case& c) { read_data(c, kPage, kRandom, 0, kWarm, kThreads); }},
      {"read 1M cold", [](Case& c) { read_data(c, kMiB, kSequential, 0, kCold); }},
      {"read 4K random cold", [](Case& c) { read_data(c, kPage, kRandom, 0, kCold); }},
      {"O_DIRECT write 1M", [](Case& c) { rewrite(c, kMiB, kSequential, O_DIRECT, kNothing); }},
      {"O_DIRECT write 4K random", [](Case& c) { rewrite(c, kPage, kRandom, O_DIRECT, kNothing); }},
      {"O_DIRECT read 1M", [](Case& c) { read_data(c, kMiB, kSequential, O_DIRECT, kCold); }},
      {"O_DIRECT read 4K random", [](Case& c) { read_data(c, kPage, kRandom, O_DIRECT, kCold); }},
      {"O_DIRECT read 4K random, 4 threads",
       [](Case& c) { read_data(c, kPage, kRandom, O_DIRECT, kCold, kThreads); }},
      {"mmap read 4K random", [](Case& c) { map_data(c, false); }},
      {"mmap write 4K random + msync", [](Case& c) { map_data(c, true); }},
  };
  return all;
}

}  // namespace clonefs::bench
