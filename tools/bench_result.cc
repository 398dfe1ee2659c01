#include "tools/bench_result.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace clonefs::bench {

nlohmann::json Latencies::summary() {
  nlohmann::json r = {{"ops", ns_.size()}};
  if (ns_.empty()) return r;
  std::sort(ns_.begin(), ns_.end());
  const auto us = [&](double part) {
    const auto at = static_cast<size_t>(part * static_cast<double>(ns_.size() - 1));
    return static_cast<double>(ns_[at]) / 1e3;
  };
  r["p50_us"] = us(0.5);
  r["p99_us"] = us(0.99);
  r["max_us"] = us(1);
  return r;
}

void impossible(const std::string& what) {
  throw Impossible{what + ": " + std::strerror(errno)};
}

}  // namespace clonefs::bench
