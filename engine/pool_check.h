// check_pool: `clonefs fsck`. Looks through a pool that no daemon uses: the catalog (every row by the
// rules of row_rules.h that recovery goes by), track tables, digests, the journal, the trees, and what
// nobody owns. It says what it would do about it, and does exactly that when told to.
//
// Without REPAIR nothing in the pool changes, times of access included where the kernel lets us: the
// catalog is read from a copy in $TMPDIR, because SQLite cannot open one in WAL mode without writing.
// Whatever bytes the pool has, this ends with a report or an Error.
// Errors: the pool cannot be looked at; EBUSY: it is in use. Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/disk.h"
#include "extents/result.h"

namespace clonefs {

struct PoolCheckOptions {
  std::string pool;     // directory
  bool repair = false;
  bool data = false;    // compare the clones' data with their digests too
};

struct PoolFinding {
  // False: what a killed daemon may leave, and the next mount sees to; or what a user did.
  bool problem = true;
  std::string what;
  std::string repair;  // what is done about it: "" nothing can be
  bool done = false;   // it was
};

struct PoolReport {
  uint64_t sessions = 0;
  uint64_t members = 0;
  uint64_t tracks = 0;  // whose data was compared
  uint64_t problems = 0;
  std::vector<PoolFinding> findings;
};

Result<PoolReport> check_pool(const PoolCheckOptions& options, Disk& disk = posix_disk());

}  // namespace clonefs
