// Catalog: the sessions of a pool in SQLite (pool/catalog.db, see FORMAT.md). Rows only, no rules.
//
// Every function reports an error of the database (full disk, damage) as an Error; what it was to
// write is then not written. A Batch is one transaction: all of it or nothing.
// Thread safety: all members; a Batch keeps others out while it lives.
// Durability: a committed batch survives a power cut (WAL, synchronous=FULL).
#pragma once

#include <sqlite3.h>
#include <time.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "extents/result.h"

namespace clonefs::detail {

struct SessionRow {
  uint64_t id = 0;
  std::string name;
  bool aside = false;  // another session has the name: this is the generation that follows, or one that
                       // is being removed. In the table "NAME/ID"
  unsigned slot = 0;
  unsigned column_id = 0;
  int state = 0;
  uint64_t track_size = 0;
  bool nocopy = false;
  timespec created_at{}, activated_at{};
  uint64_t fence_ns = 0;
  uint64_t pace = 0;  // column rate_limit; -1 there: automatic
  std::string error;
  unsigned keep = 0;      // of what its activation replaces: so many generations are kept
  std::string kept_of;    // it is an older generation of this name
  std::string paths;      // NUL after each
  std::string selection;  // "OFFSET:LENGTH,..." of bytes
};

struct ObjectRow {
  uint64_t session = 0;
  uint32_t id = 0;
  uint32_t parent = 0;
  unsigned type = 0;
  bool changed = false;
  bool finished = false;
  uint64_t source_id = 0;
  std::string source_handle;
  uint64_t pool_ino = 0;
  std::string pool_handle;
  uint64_t size = 0;
  timespec atime{}, mtime{}, ctime{};
  int64_t column_base = -1;  // -1: no column
  uint64_t column_count = 0;
  uint64_t column_capacity = 0;
  std::string capability;
  bool altered = false;
};

// What a source file with pending tracks looked like at a clean end.
struct SourceMark {
  uint32_t object = 0;
  timespec ctime{};
  uint64_t size = 0;
  uint64_t column_base = 0;  // the region whose bits go with it
};

struct ScheduleRow {
  uint64_t session = 0;
  uint64_t ttl_s = 0;
  int64_t precopy_at = 0, activate_at = 0;  // seconds since 1970
  std::string missed;
};

struct HoldRow {
  uint64_t session = 0;
  std::string tag;
  timespec since{};
};

class Catalog {
  class Statement;

 public:
  static constexpr const char* kFormat = "1";

  // Opens or creates FILE (a path, reached through the pool's descriptor). Errors: not a catalog,
  // damaged, of another format.
  static Result<std::unique_ptr<Catalog>> open(const std::string& file);
  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  class Batch {
   public:
    explicit Batch(Catalog& catalog);
    ~Batch();  // rolls back what was not committed
    Status commit();

    Status put_meta(const std::string& key, const std::string& value);
    Status put_session(const SessionRow& row);
    Status set_state(uint64_t session, int state, const std::string& error);
    Status set_rate(uint64_t session, uint64_t pace);
    // Another place and number for an older generation, which is Terminated then. NAME is free.
    Status set_kept(uint64_t session, const std::string& name, const std::string& kept_of);
    // It is being removed, and another has its name.
    Status set_removing(uint64_t session, const std::string& name);
    Status put_object(const ObjectRow& row);
    Status set_altered(uint64_t session, uint32_t object);
    Status drop_object(uint64_t session, uint32_t object);
    Status drop_session(uint64_t session);  // with its objects and marks
    Status put_schedule(uint64_t session, uint64_t ttl_s, int64_t precopy_at, int64_t activate_at,
                        const std::string& missed);
    Status put_hold(uint64_t session, const std::string& tag, const timespec& since);
    Status drop_hold(uint64_t session, const std::string& tag);
    Status put_mark(uint64_t session, const SourceMark& mark);
    Status drop_marks(uint64_t session);
    Status clear_marks();
    Status drop_orphans();  // members of sessions that are not there
    // The slot of a name: a small number, the same for ever.
    Result<unsigned> slot(const std::string& name);

   private:
    std::unique_lock<std::mutex> lock_;
    Catalog& catalog_;
    bool open_ = false;
    Status begun_;
    std::unique_ptr<Statement> put_object_;  // used for many rows
  };

  Result<std::string> meta(const std::string& key);  // "" when there is none
  Result<std::string> integrity();                    // "ok", or what SQLite finds first
  Result<std::vector<SessionRow>> sessions();
  Status objects(uint64_t session, const std::function<Status(ObjectRow)>& fn);
  Result<std::vector<ScheduleRow>> schedules();
  Result<std::vector<HoldRow>> holds();
  Result<std::vector<SourceMark>> marks(uint64_t session);
  // Number and handle in the pool of the root of its tree; 0: it has none.
  Result<std::pair<uint64_t, std::string>> root(uint64_t session);

 private:
  explicit Catalog(sqlite3* db) : db_(db) {}
  Error error(const std::string& what) const;
  Status run(const char* sql);
  Status create();

  sqlite3* db_;
  std::mutex mutex_;
};

}  // namespace clonefs::detail
