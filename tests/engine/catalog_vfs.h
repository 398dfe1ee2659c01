// CatalogVfs: SQLite's own files through a Disk, for catalogs that are opened while it lives. So the
// order between the catalog and everything else of the pool is part of what a PowerDisk tries.
//
// Promises what SQLite's own VFS does: sectors of 4096 bytes, a torn write leaves the bytes beside it
// alone (POWERSAFE_OVERWRITE); the name of a new write-ahead log is synced with its first sync. No
// locks and no shared memory: the catalog is opened exclusively.
#pragma once

#include <sqlite3.h>

#include <string>

#include "engine/disk.h"

namespace clonefs::test {

class CatalogVfs {
 public:
  explicit CatalogVfs(Disk& disk);
  ~CatalogVfs();
  CatalogVfs(const CatalogVfs&) = delete;
  CatalogVfs& operator=(const CatalogVfs&) = delete;

 private:
  Disk& disk_;
  sqlite3_vfs vfs_{};
};

}  // namespace clonefs::test
