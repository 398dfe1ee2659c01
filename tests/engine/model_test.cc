// The model test (model.h) on disks that work. A failure prints its seed, and CLONEFS_TEST_SEED=N
// runs that one alone, with every action printed.
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/engine/model.h"

namespace clonefs::test {
namespace {

TEST(Model, random_operations_in_memory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr uint64_t kRuns = 500;
#else
  constexpr uint64_t kRuns = 1500;
#endif
  run_model_seeds(seeds(kRuns, 20000), {});
}

// Without file handles the engine finds its objects in other ways.
TEST(Model, random_operations_as_an_ordinary_user) {
  if (geteuid() != 0) GTEST_SKIP() << "all of this test is run by an ordinary user already";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 ||
        setresuid(kNobody, kNobody, kNobody) != 0) {
      _exit(3);
    }
    run_model_seeds(seeds(300, 3000), {});
    fflush(stdout);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

// Inode numbers come back at once; most of the time goes into waiting for syncs.
TEST(Model, random_operations_on_disk) {
  run_model_seeds(seeds(60, 2000), {.where = Where::kDisk});
}

}  // namespace
}  // namespace clonefs::test
