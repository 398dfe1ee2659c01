// The measured loops of a directory: data and names. DIR holds what tools/bench_places.py makes:
// the file `data` and the tree `many`. Each case leaves it as it was, but for the contents of
// `data`.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace clonefs::bench {

struct IoOptions {
  std::string dir;
  std::string beneath;    // the same directory past the mount, to evict its cache; may be empty
  double seconds = 2;     // no loop goes on for longer
  uint64_t files = 2000;  // to create
};

std::vector<std::string> io_cases();
// {"rows": [{"case", "unit", "value", "seconds", "ops", "p50_us", "p99_us", "max_us"}]}; a row that
// cannot be measured has "missing" instead. Throws Impossible.
nlohmann::json run_io(const std::string& name, const IoOptions& options);

}  // namespace clonefs::bench
