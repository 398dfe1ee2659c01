// Writers that go on at a steady pace while something else happens, and how long each of their
// writes took: what an application sees of a clone that is activated.
#pragma once

#include <cstdint>
#include <istream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace clonefs::bench {

struct WriterOptions {
  std::vector<std::string> files;
  // "buffered": write; "durable": write and fdatasync. One thread each.
  std::vector<std::string> modes;
  uint64_t pace_us = 500;  // from the begin of one write to the begin of the next
  uint64_t block = 4096;
  uint64_t hot = 0;            // only this many places of each file, spread evenly; 0: anywhere
  uint64_t hot_bytes = 65536;  // size of such a place
  bool sequential = false;     // block after block, from the begin again at the end
};

// Begins to write and says "ready" on stdout; then takes lines from COMMANDS:
//   window NAME BEGIN END   what fell into this time (ns of CLOCK_MONOTONIC) is to be reported
//   end                     stop, and report
// {MODE: {NAME: {"ops", "p50_us", "p99_us", "max_us"}}}. Throws Impossible.
nlohmann::json run_writer(const WriterOptions& options, std::istream& commands);

}  // namespace clonefs::bench
