// The power-cut simulator: the model test (model.h) on a disk whose power fails at any moment. In
// parts, so that they run beside each other.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/engine/model.h"

namespace clonefs::test {
namespace {

// Short seeds, many of them: most of what can go wrong is near the beginning.
class Simulator : public testing::TestWithParam<unsigned> {};

TEST_P(Simulator, power_cuts) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr uint64_t kRuns = 250;
#else
  constexpr uint64_t kRuns = 2500;
#endif
  const bool one = std::getenv("CLONEFS_TEST_SEED") != nullptr;
  if (one && GetParam() != 0) GTEST_SKIP() << "the first part runs the seed";
  Seeds range = seeds(kRuns, 50000);
  if (!one) range.first += GetParam() * 1'000'000;
  run_model_seeds(range, {.power_cuts = true});
}

INSTANTIATE_TEST_SUITE_P(Parts, Simulator, testing::Range(0u, 4u));

}  // namespace
}  // namespace clonefs::test
