// One run of random operations of all kinds against the engine and against a model that copies
// everything at activation. All choices come from a seed.
#pragma once

#include <cstdint>
#include <string>

#include "tests/engine/direct_volume.h"

namespace clonefs::test {

struct ModelOptions {
  Where where = Where::kMemory;
  bool verbose = false;  // print every action
  // The disk is a PowerDisk (for volume, pool and catalog) whose power fails at any moment, also
  // while the engine recovers.
  bool power_cuts = false;
};

struct ModelReport {
  std::string failure;  // "" or what went wrong, with the last actions
  uint64_t power_cuts = 0;
  uint64_t cuts_in_recovery = 0;
  uint64_t clones_checked = 0;  // activated clones that were compared after a power cut
  uint64_t failed_clones = 0;   // that were Failed where that is allowed
};

ModelReport run_model(uint64_t seed, const ModelOptions& options);

// Runs the seeds of a test; three failing ones are reported. Prints what was done with power cuts.
void run_model_seeds(const Seeds& range, const ModelOptions& options);

}  // namespace clonefs::test
