#include "tools/bench_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>

#include "fs/unique_fd.h"
#include "tools/bench_result.h"

namespace clonefs::bench {

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPage = 4096;

struct Free {
  void operator()(char* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<char, Free>;

// Aligned, as O_DIRECT wants it, and not compressible.
Buffer make_buffer(size_t size) {
  Buffer buffer(static_cast<char*>(std::aligned_alloc(kPage, size)));
  std::mt19937_64 random(size);
  for (size_t at = 0; at < size; at += 8) {
    const uint64_t word = random();
    std::memcpy(buffer.get() + at, &word, 8);
  }
  return buffer;
}

// One case under way: its options and what it found.
class Case {
 public:
  Case(std::string name, const IoOptions& options) : name_(std::move(name)), options_(options) {}

  const IoOptions& options() const { return options_; }
  std::string path(const std::string& name) const { return options_.dir + "/" + name; }

  UniqueFd open(const std::string& name, int flags) const {
    UniqueFd fd(::open(path(name).c_str(), flags | O_CLOEXEC, 0644));
    if (!fd) impossible("open " + path(name));
    return fd;
  }
  uint64_t size_of(const UniqueFd& fd) const {
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) impossible("stat");
    return static_cast<uint64_t>(st.st_size);
  }
  // What earlier cases left to be written back must not count here.
  void settle() const {
    const UniqueFd fd = open("", O_RDONLY | O_DIRECTORY);
    ::syncfs(fd.get());
    if (options_.beneath.empty()) return;
    const UniqueFd other(::open(options_.beneath.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (other) ::syncfs(other.get());
  }
  // FILE out of all caches.
  void evict(const std::string& name) const {
    settle();
    for (const std::string& dir : {options_.dir, options_.beneath}) {
      if (dir.empty()) continue;
      const UniqueFd fd(::open((dir + "/" + name).c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd) impossible("open " + dir + "/" + name);
      ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
  }

  // Runs OP(0), OP(1), ... up to COUNT times or until the time is over, then LAST, which counts in
  // the time. A row: BYTES an operation, or 0 for operations a second.
  void measure(const std::string& row, uint64_t count, uint64_t bytes,
               const std::function<void(uint64_t)>& op, const std::function<void()>& last = {}) {
    Latencies latencies;
    latencies.reserve(count);
    const auto begin = Clock::now();
    const auto end = begin + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double>(options_.seconds));
    auto at = begin;
    uint64_t done = 0;
    while (done < count && at < end) {
      op(done++);
      const auto next = Clock::now();
      latencies.add(ns_of(next - at));
      at = next;
    }
    if (last) last();
    const double seconds = static_cast<double>(ns_of(Clock::now() - begin)) / 1e9;
    nlohmann::json r = latencies.summary();
    r["case"] = row;
    r["seconds"] = seconds;
    r["unit"] = bytes != 0 ? "MiB/s" : "op/s";
    const double units = static_cast<double>(done) *
                         (bytes != 0 ? static_cast<double>(bytes) / static_cast<double>(kMiB) : 1);
    r["value"] = seconds > 0 ? units / seconds : 0;
    done_ = done;
    rows_.push_back(std::move(r));
  }
  void missing(const std::string& row, const std::string& why) {
    rows_.push_back({{"case", row}, {"missing", why}});
  }
  uint64_t done() const { return done_; }  // operations of the last measurement
  const std::string& name() const { return name_; }
  nlohmann::json rows() const { return {{"rows", rows_}}; }

 private:
  std::string name_;
  IoOptions options_;
  uint64_t done_ = 0;
  std::vector<nlohmann::json> rows_;
};

void check(ssize_t got, size_t wanted, const char* what) {
  if (got != static_cast<ssize_t>(wanted)) impossible(what);
}

// --- data ----------------------------------------------------------------------------------------

enum class After { kNothing, kFsync, kFdatasyncEach };

void write_new(Case& c, size_t block, After after) {
  const uint64_t size = c.size_of(c.open("data", O_RDONLY));
  const Buffer buffer = make_buffer(block);
  c.settle();
  {
    const UniqueFd fd = c.open("new", O_CREAT | O_EXCL | O_WRONLY);
    c.measure(
        c.name(), size / block, block,
        [&](uint64_t) { check(::write(fd.get(), buffer.get(), block), block, "write"); },
        [&] {
          if (after == After::kFsync) ::fsync(fd.get());
        });
  }
  ::unlink(c.path("new").c_str());
  c.settle();
}

// Offsets in units of BLOCK: in order, or each anywhere.
class Places {
 public:
  Places(uint64_t size, size_t block, bool random)
      : blocks_(size / block), block_(block), random_(random) {}
  uint64_t blocks() const { return blocks_; }
  off_t at(uint64_t n) {
    const uint64_t index = random_ ? generator_() % blocks_ : n % blocks_;
    return static_cast<off_t>(index * block_);
  }

 private:
  uint64_t blocks_;
  uint64_t block_;
  bool random_;
  std::mt19937_64 generator_{42};
};

void rewrite(Case& c, size_t block, bool random, int flags, After after) {
  const UniqueFd fd = c.open("data", O_RDWR | flags);
  const uint64_t size = c.size_of(fd);
  Places places(size, block, random);
  const Buffer buffer = make_buffer(block);
  c.settle();
  c.measure(
      c.name(), places.blocks(), block,
      [&](uint64_t n) {
        check(::pwrite(fd.get(), buffer.get(), block, places.at(n)), block, "write");
        if (after == After::kFdatasyncEach && ::fdatasync(fd.get()) != 0) impossible("fdatasync");
      },
      [&] {
        if (after == After::kFsync && ::fsync(fd.get()) != 0) impossible("fsync");
      });
  c.settle();
}

void read_data(Case& c, size_t block, bool random, int flags, bool cold) {
  if (cold || flags != 0) {
    c.evict("data");
  } else {
    const UniqueFd fd = c.open("data", O_RDONLY);
    const Buffer whole = make_buffer(kMiB);
    while (::read(fd.get(), whole.get(), kMiB) > 0) {
    }
  }
  const UniqueFd fd = c.open("data", O_RDONLY | flags);
  Places places(c.size_of(fd), block, random);
  const Buffer buffer = make_buffer(block);
  c.measure(c.name(), places.blocks(), block, [&](uint64_t n) {
    check(::pread(fd.get(), buffer.get(), block, places.at(n)), block, "read");
  });
}

void map_data(Case& c, bool write) {
  const UniqueFd fd = c.open("data", write ? O_RDWR : O_RDONLY);
  const uint64_t size = c.size_of(fd);
  {
    const Buffer whole = make_buffer(kMiB);
    while (::read(fd.get(), whole.get(), kMiB) > 0) {
    }
  }
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

// --- names ---------------------------------------------------------------------------------------

std::vector<std::string> list(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) impossible("opendir " + path);
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  return names;
}

// Files of the tree `many`: "many/0/0", ...
std::vector<std::string> many(const Case& c) {
  std::vector<std::string> files;
  for (const auto& dir : list(c.path("many"))) {
    for (const auto& file : list(c.path("many/" + dir)))
      files.push_back("many/" + dir + "/" + file);
  }
  std::shuffle(files.begin(), files.end(), std::mt19937_64(7));
  return files;
}

void stat_files(Case& c, bool cold) {
  const auto files = many(c);
  struct stat st {};
  if (cold) {
    c.settle();
    const UniqueFd drop(::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC));
    if (!drop || ::write(drop.get(), "2", 1) != 1)
      throw Impossible{"dropping the kernel's cache of names needs root"};
  } else {
    for (const auto& file : files) ::stat(c.path(file).c_str(), &st);
  }
  c.measure(c.name(), files.size(), 0, [&](uint64_t n) {
    if (::stat(c.path(files[n]).c_str(), &st) != 0) impossible("stat");
  });
}

void open_files(Case& c) {
  const auto files = many(c);
  const Buffer buffer = make_buffer(kPage);
  const auto once = [&](uint64_t n) {
    const UniqueFd fd = c.open(files[n], O_RDONLY);
    if (::read(fd.get(), buffer.get(), kPage) < 0) impossible("read");
  };
  for (uint64_t n = 0; n < files.size(); ++n) once(n);
  c.measure(c.name(), files.size(), 0, once);
}

void read_directories(Case& c) {
  const auto dirs = list(c.path("many"));
  uint64_t entries = 0;
  const auto once = [&](uint64_t n) {
    entries += list(c.path("many/" + dirs[n % dirs.size()])).size();
  };
  for (uint64_t n = 0; n < dirs.size(); ++n) once(n);
  c.measure(c.name(), 20 * dirs.size(), 0, once);
}

// create, rename, unlink: one row each.
void change_names(Case& c) {
  const std::string top = c.path("made");
  if (::mkdir(top.c_str(), 0755) != 0) impossible("mkdir " + top);
  const Buffer buffer = make_buffer(kPage);
  const auto name = [&](const char* prefix, uint64_t n) {
    return "made/" + std::string(prefix) + std::to_string(n);
  };
  c.settle();
  c.measure("create", c.options().files, 0, [&](uint64_t n) {
    const UniqueFd fd = c.open(name("f", n), O_CREAT | O_EXCL | O_WRONLY);
    check(::write(fd.get(), buffer.get(), 1024), 1024, "write");
  });
  const uint64_t made = c.done();
  c.settle();
  c.measure("rename", made, 0, [&](uint64_t n) {
    if (::rename(c.path(name("f", n)).c_str(), c.path(name("g", n)).c_str()) != 0)
      impossible("rename");
  });
  const uint64_t renamed = c.done();
  c.settle();
  c.measure("unlink", renamed, 0, [&](uint64_t n) {
    if (::unlink(c.path(name("g", n)).c_str()) != 0) impossible("unlink");
  });
  for (uint64_t n = c.done(); n < renamed; ++n) ::unlink(c.path(name("g", n)).c_str());
  for (uint64_t n = renamed; n < made; ++n) ::unlink(c.path(name("f", n)).c_str());
  c.measure("mkdir", made, 0, [&](uint64_t n) {
    if (::mkdir(c.path(name("d", n)).c_str(), 0755) != 0) impossible("mkdir");
  });
  for (uint64_t n = 0; n < c.done(); ++n) ::rmdir(c.path(name("d", n)).c_str());
  if (::rmdir(top.c_str()) != 0) impossible("rmdir " + top);
  c.settle();
}

using Function = std::function<void(Case&)>;

// In the order in which they are run and shown.
const std::vector<std::pair<std::string, Function>>& cases() {
  using enum After;
  static const std::vector<std::pair<std::string, Function>> all = {
      {"write 1M, new file", [](Case& c) { write_new(c, kMiB, kNothing); }},
      {"write 1M, new file + fsync", [](Case& c) { write_new(c, kMiB, kFsync); }},
      {"write 4K, new file", [](Case& c) { write_new(c, kPage, kNothing); }},
      {"rewrite 1M", [](Case& c) { rewrite(c, kMiB, false, 0, kNothing); }},
      {"rewrite 4K random", [](Case& c) { rewrite(c, kPage, true, 0, kNothing); }},
      {"rewrite 4K random + fsync", [](Case& c) { rewrite(c, kPage, true, 0, kFsync); }},
      {"rewrite 4K random, fdatasync each",
       [](Case& c) { rewrite(c, kPage, true, 0, kFdatasyncEach); }},
      {"read 1M cached", [](Case& c) { read_data(c, kMiB, false, 0, false); }},
      {"read 4K random cached", [](Case& c) { read_data(c, kPage, true, 0, false); }},
      {"read 1M cold", [](Case& c) { read_data(c, kMiB, false, 0, true); }},
      {"O_DIRECT write 1M", [](Case& c) { rewrite(c, kMiB, false, O_DIRECT, kNothing); }},
      {"O_DIRECT write 4K random", [](Case& c) { rewrite(c, kPage, true, O_DIRECT, kNothing); }},
      {"O_DIRECT read 1M", [](Case& c) { read_data(c, kMiB, false, O_DIRECT, true); }},
      {"O_DIRECT read 4K random", [](Case& c) { read_data(c, kPage, true, O_DIRECT, true); }},
      {"mmap read 4K random", [](Case& c) { map_data(c, false); }},
      {"mmap write 4K random + msync", [](Case& c) { map_data(c, true); }},
      {"names", change_names},
      {"stat hot", [](Case& c) { stat_files(c, false); }},
      {"stat cold", [](Case& c) { stat_files(c, true); }},
      {"open+read+close", open_files},
      {"readdir", read_directories},
  };
  return all;
}

}  // namespace

std::vector<std::string> io_cases() {
  std::vector<std::string> names;
  for (const auto& [name, function] : cases()) names.push_back(name);
  return names;
}

nlohmann::json run_io(const std::string& name, const IoOptions& options) {
  for (const auto& [known, function] : cases()) {
    if (known != name) continue;
    Case c(name, options);
    try {
      function(c);
    } catch (const Impossible& e) {
      c.missing(name, e.why);
    }
    return c.rows();
  }
  throw Impossible{"there is no case '" + name + "'"};
}

}  // namespace clonefs::bench
