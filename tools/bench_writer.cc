#include "tools/bench_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <sstream>
#include <thread>

#include "fs/unique_fd.h"
#include "tools/bench_result.h"

namespace clonefs::bench {

namespace {

struct Sample {
  uint64_t begin_ns;
  uint64_t length_ns;
};

uint64_t monotonic_ns() {
  return ns_of(Clock::now().time_since_epoch());
}

class Writer {
 public:
  Writer(const WriterOptions& options, std::string mode)
      : options_(options), mode_(std::move(mode)) {
    for (const auto& path : options_.files) {
      UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      struct stat st {};
      if (!fd || ::fstat(fd.get(), &st) != 0) impossible("open " + path);
      files_.push_back({std::move(fd), static_cast<uint64_t>(st.st_size)});
    }
    samples_.reserve(1 << 20);
  }

  const std::string& mode() const { return mode_; }

  // Until STOP. What went wrong is in error().
  void run(const std::atomic<bool>& stop) {
    std::mt19937_64 random(mode_.size());
    std::vector<char> block(options_.block);
    auto due = Clock::now();
    while (!stop.load(std::memory_order_relaxed)) {
      const uint64_t number = random();
      for (size_t at = 0; at + sizeof number <= block.size(); at += 512)
        std::memcpy(&block[at], &number, sizeof number);
      const auto& file = files_[random() % files_.size()];
      const auto at = static_cast<off_t>(place(file.size, random));
      const uint64_t begin = monotonic_ns();
      if (::pwrite(file.fd.get(), block.data(), block.size(), at) < 0 ||
          (mode_ == "durable" && ::fdatasync(file.fd.get()) != 0)) {
        error_ = mode_ + " write: " + std::strerror(errno);
        return;
      }
      samples_.push_back({begin, monotonic_ns() - begin});
      due = std::max(due + std::chrono::microseconds(options_.pace_us), Clock::now());
      std::this_thread::sleep_until(due);
    }
  }

  const std::string& error() const { return error_; }

  nlohmann::json window(uint64_t begin, uint64_t end) const {
    Latencies latencies;
    for (const auto& s : samples_)
      if (s.begin_ns < end && s.begin_ns + s.length_ns > begin) latencies.add(s.length_ns);
    return latencies.summary();
  }

 private:
  uint64_t place(uint64_t size, std::mt19937_64& random) {
    const uint64_t block = options_.block;
    if (options_.sequential) return size <= block ? 0 : next_++ % (size / block) * block;
    if (options_.hot == 0 || options_.hot * options_.hot_bytes >= size)
      return size <= block ? 0 : random() % (size / block) * block;
    const uint64_t stride = size / options_.hot / options_.hot_bytes * options_.hot_bytes;
    return random() % options_.hot * stride + random() % (options_.hot_bytes / block) * block;
  }

  struct File {
    UniqueFd fd;
    uint64_t size;
  };
  const WriterOptions& options_;
  const std::string mode_;
  std::vector<File> files_;
  std::vector<Sample> samples_;
  uint64_t next_ = 0;
  std::string error_;
};

}  // namespace

nlohmann::json run_writer(const WriterOptions& options, std::istream& commands) {
  std::vector<std::unique_ptr<Writer>> writers;
  for (const auto& mode : options.modes) {
    if (mode != "buffered" && mode != "durable") throw Impossible{"no such mode: " + mode};
    writers.push_back(std::make_unique<Writer>(options, mode));
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (auto& writer : writers) threads.emplace_back([&stop, w = writer.get()] { w->run(stop); });
  std::puts("ready");
  std::fflush(stdout);

  struct Window {
    std::string name;
    uint64_t begin, end;
  };
  std::vector<Window> windows;
  for (std::string line; std::getline(commands, line) && line != "end";) {
    std::istringstream words(line);
    std::string verb;
    Window w;
    if (words >> verb >> w.name >> w.begin >> w.end && verb == "window")
      windows.push_back(std::move(w));
  }
  stop.store(true);
  for (auto& thread : threads) thread.join();

  nlohmann::json r = nlohmann::json::object();
  for (const auto& writer : writers) {
    if (!writer->error().empty()) throw Impossible{writer->error()};
    for (const auto& w : windows) r[writer->mode()][w.name] = writer->window(w.begin, w.end);
  }
  return r;
}

}  // namespace clonefs::bench
