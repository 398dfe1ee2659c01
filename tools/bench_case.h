// One case of clonefs-bench io under way, and what its loops share. Thread safety: one thread,
// but measure() may run the operations in several.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fs/unique_fd.h"
#include "tools/bench_io.h"

namespace clonefs::bench {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPage = 4096;
// As a count of operations: for as long as the case may take.
constexpr uint64_t kUntilTheTimeIsOver = UINT64_MAX;

struct Free {
  void operator()(char* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<char, Free>;
// Aligned, as O_DIRECT wants it, and not compressible.
Buffer make_buffer(size_t size);

// Offsets in a file in units of BLOCK: in order, or each anywhere.
class Places {
 public:
  Places(uint64_t size, size_t block, bool random, uint64_t seed = 42)
      : blocks_(size / block), block_(block), random_(random), generator_(seed) {}
  uint64_t blocks() const { return blocks_; }
  off_t at(uint64_t n) {
    const uint64_t index = random_ ? generator_() % blocks_ : n % blocks_;
    return static_cast<off_t>(index * block_);
  }

 private:
  uint64_t blocks_;
  uint64_t block_;
  bool random_;
  std::mt19937_64 generator_;
};

class Case {
 public:
  using Operation = std::function<void(uint64_t n)>;

  Case(std::string name, const IoOptions& options) : name_(std::move(name)), options_(options) {}

  const std::string& name() const { return name_; }
  const IoOptions& options() const { return options_; }
  std::string path(const std::string& name) const { return options_.dir + "/" + name; }
  UniqueFd open(const std::string& name, int flags) const;  // throws Impossible, as all below
  static uint64_t size_of(const UniqueFd& fd);

  // What earlier cases left to be written back must not count here.
  void settle() const;
  // FILE out of all caches.
  void evict(const std::string& file) const;

  // Runs OP(0), OP(1), ... up to COUNT times or until the time is over, then LAST, which counts in
  // the time. A row: BYTES an operation, or 0 for operations a second.
  void measure(const std::string& row, uint64_t count, uint64_t bytes, const Operation& op,
               const std::function<void()>& last = {});
  // The same in as many threads as there are OPS, each up to COUNT times.
  void measure(const std::string& row, uint64_t count, uint64_t bytes,
               const std::vector<Operation>& ops, const std::function<void()>& last = {});
  void missing(const std::string& row, const std::string& why) {
    rows_.push_back({{"case", row}, {"missing", why}});
  }
  uint64_t done() const { return done_; }  // operations of the last measurement
  nlohmann::json rows() const { return {{"rows", rows_}}; }

 private:
  std::string name_;
  IoOptions options_;
  uint64_t done_ = 0;
  std::vector<nlohmann::json> rows_;
};

using NamedCase = std::pair<std::string, std::function<void(Case&)>>;
// In the order in which they are run and shown.
const std::vector<NamedCase>& data_cases();
const std::vector<NamedCase>& name_cases();

}  // namespace clonefs::bench
