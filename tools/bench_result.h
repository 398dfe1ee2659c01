// What one measured loop took. Thread safety: as a plain value.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace clonefs::bench {

using Clock = std::chrono::steady_clock;

inline uint64_t ns_of(Clock::duration d) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(d).count());
}

// Durations of the operations of one loop.
class Latencies {
 public:
  void reserve(size_t count) { ns_.reserve(count); }
  void add(uint64_t ns) { ns_.push_back(ns); }
  void add(const Latencies& other) { ns_.insert(ns_.end(), other.ns_.begin(), other.ns_.end()); }
  // {"ops", "p50_us", "p99_us", "max_us"}
  nlohmann::json summary();

 private:
  std::vector<uint64_t> ns_;
};

// Thrown where a case cannot be measured here; the text says why.
struct Impossible {
  std::string why;
};

// Throws Impossible with the text of errno.
[[noreturn]] void impossible(const std::string& what);

}  // namespace clonefs::bench
