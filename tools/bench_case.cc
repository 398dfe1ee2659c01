#include "tools/bench_case.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <thread>

#include "tools/bench_result.h"

namespace clonefs::bench {

namespace {

// Until COUNT or END; returns how often.
uint64_t loop(uint64_t count, Clock::time_point begin, Clock::time_point end,
              const Case::Operation& op, Latencies& latencies) {
  auto at = begin;
  uint64_t done = 0;
  while (done < count && at < end) {
    op(done++);
    const auto next = Clock::now();
    latencies.add(ns_of(next - at));
    at = next;
  }
  return done;
}

}  // namespace

Buffer make_buffer(size_t size) {
  Buffer buffer(static_cast<char*>(std::aligned_alloc(kPage, size)));
  std::mt19937_64 random(size);
  for (size_t at = 0; at < size; at += 8) {
    const uint64_t word = random();
    std::memcpy(buffer.get() + at, &word, 8);
  }
  return buffer;
}

UniqueFd Case::open(const std::string& name, int flags) const {
  UniqueFd fd(::open(path(name).c_str(), flags | O_CLOEXEC, 0644));
  if (!fd) impossible("open " + name);
  return fd;
}

uint64_t Case::size_of(const UniqueFd& fd) {
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) impossible("stat");
  return static_cast<uint64_t>(st.st_size);
}

void Case::settle() const {
  const UniqueFd fd = open("", O_RDONLY | O_DIRECTORY);
  ::syncfs(fd.get());
  if (options_.beneath.empty()) return;
  const UniqueFd other(::open(options_.beneath.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (other) ::syncfs(other.get());
}

void Case::evict(const std::string& file) const {
  settle();
  for (const std::string& dir : {options_.dir, options_.beneath}) {
    if (dir.empty()) continue;
    const UniqueFd fd(::open((dir + "/" + file).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) impossible("open " + dir + "/" + file);
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

void Case::measure(const std::string& row, uint64_t count, uint64_t bytes, const Operation& op,
                   const std::function<void()>& last) {
  measure(row, count, bytes, std::vector<Operation>{op}, last);
}

void Case::measure(const std::string& row, uint64_t count, uint64_t bytes,
                   const std::vector<Operation>& ops, const std::function<void()>& last) {
  struct Worker {
    Latencies latencies;
    uint64_t done = 0;
    std::exception_ptr failed;
  };
  std::vector<Worker> workers(ops.size());
  const auto limit =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.seconds));
  for (auto& worker : workers) worker.latencies.reserve(std::min<uint64_t>(count, 1 << 20));
  const auto begin = Clock::now();
  const auto work = [&](size_t i) {
    try {
      workers[i].done = loop(count, begin, begin + limit, ops[i], workers[i].latencies);
    } catch (...) {
      workers[i].failed = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < ops.size(); ++i) others.emplace_back(work, i);
    work(0);
  }
  if (last) last();
  const double seconds = static_cast<double>(ns_of(Clock::now() - begin)) / 1e9;

  done_ = 0;
  Latencies all;
  for (auto& worker : workers) {
    if (worker.failed) std::rethrow_exception(worker.failed);
    done_ += worker.done;
    all.add(worker.latencies);
  }
  nlohmann::json r = all.summary();
  r["case"] = row;
  r["seconds"] = seconds;
  r["unit"] = bytes != 0 ? "MiB/s" : "op/s";
  const double units = static_cast<double>(done_) *
                       (bytes != 0 ? static_cast<double>(bytes) / static_cast<double>(kMiB) : 1);
  r["value"] = seconds > 0 ? units / seconds : 0;
  rows_.push_back(std::move(r));
}

}  // namespace clonefs::bench
