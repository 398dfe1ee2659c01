#include "engine/catalog.h"

#include <algorithm>
#include <type_traits>

#include "engine/engine.h"
#include "engine/row_rules.h"

namespace clonefs::detail {

// One prepared statement: bind in order, then step.
class Catalog::Statement {
 public:
  Statement(Catalog& catalog, const char* sql) : catalog_(catalog) {
    ok_ = sqlite3_prepare_v2(catalog.db_, sql, -1, &statement_, nullptr) == SQLITE_OK;
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  template <class T>
    requires std::is_integral_v<T>
  Statement& bind(T value) {
    if (ok_) ok_ = sqlite3_bind_int64(statement_, ++bound_, static_cast<int64_t>(value)) == 0;
    return *this;
  }
  Statement& bind(const std::string& value) {
    if (ok_)
      ok_ = sqlite3_bind_blob64(statement_, ++bound_, value.data(), value.size(),
                                SQLITE_TRANSIENT) == 0;
    return *this;
  }
  Statement& text(const std::string& value) {
    if (ok_)
      ok_ = sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT,
                                SQLITE_UTF8) == 0;
    return *this;
  }
  Statement& bind(const timespec& t) { return bind(t.tv_sec).bind(t.tv_nsec); }

  // SQLITE_ROW, SQLITE_DONE or an error.
  int step() { return ok_ ? sqlite3_step(statement_) : SQLITE_ERROR; }
  // Ready for the next values.
  Statement& again() {
    sqlite3_reset(statement_);
    bound_ = 0;
    return *this;
  }
  Status run(const char* what) {
    if (step() != SQLITE_DONE) return catalog_.error(what);
    return {};
  }

  int64_t number(int i) { return sqlite3_column_int64(statement_, i); }
  std::string bytes(int i) {
    const void* data = sqlite3_column_blob(statement_, i);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, i));
    return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
  }
  timespec time(int i) { return {number(i), number(i + 1)}; }

 private:
  Catalog& catalog_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  bool ok_ = false;
};

namespace {

// Names are unique, and have no slash.
std::string name_aside(const std::string& name, uint64_t id) {
  return name + "/" + std::to_string(id);
}

constexpr const char* kSchema = R"(
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE slots(name TEXT PRIMARY KEY, slot INTEGER UNIQUE) WITHOUT ROWID;
CREATE TABLE sessions(id INTEGER PRIMARY KEY, name TEXT UNIQUE, slot INTEGER, column_id INTEGER,
  state INTEGER, track_size INTEGER, nocopy INTEGER, created_s INTEGER, created_ns INTEGER,
  activated_s INTEGER, activated_ns INTEGER, fence_ns INTEGER, rate_limit INTEGER, error TEXT,
  paths BLOB, selection TEXT);
CREATE TABLE objects(session INTEGER, id INTEGER, type INTEGER, changed INTEGER, finished INTEGER,
  source_id INTEGER, source_handle BLOB, pool_ino INTEGER, pool_handle BLOB, size INTEGER,
  atime_s INTEGER, atime_ns INTEGER, mtime_s INTEGER, mtime_ns INTEGER, ctime_s INTEGER,
  ctime_ns INTEGER, column_base INTEGER, column_count INTEGER, column_capacity INTEGER,
  capability BLOB, parent INTEGER, altered INTEGER, PRIMARY KEY(session, id)) WITHOUT ROWID;
CREATE TABLE source_marks(session INTEGER, object INTEGER, ctime_s INTEGER, ctime_ns INTEGER,
  size INTEGER, column_base INTEGER, PRIMARY KEY(session, object)) WITHOUT ROWID;
)";
// Came later: made where it is missing.
constexpr const char* kGenerations =
    "CREATE TABLE IF NOT EXISTS generations(session INTEGER PRIMARY KEY, keep INTEGER, kept_of TEXT)";
// Came later: made where they are missing.
constexpr const char* kTimetable = R"(
CREATE TABLE IF NOT EXISTS schedules(session INTEGER PRIMARY KEY, ttl INTEGER, precopy_at INTEGER,
  activate_at INTEGER, missed TEXT);
CREATE TABLE IF NOT EXISTS holds(session INTEGER, tag TEXT, since_s INTEGER, since_ns INTEGER,
  PRIMARY KEY(session, tag)) WITHOUT ROWID;
)";

}  // namespace

Result<std::unique_ptr<Catalog>> Catalog::open(const std::string& file) {
  sqlite3* db = nullptr;
  const int rc = sqlite3_open_v2(file.c_str(), &db,
                                 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                                 nullptr);
  std::unique_ptr<Catalog> catalog(new Catalog(db));
  if (rc != SQLITE_OK) return catalog->error("cannot open the catalog of the pool");
  sqlite3_extended_result_codes(db, 1);
  sqlite3_busy_timeout(db, 0);
  for (const char* pragma :
       {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
        "PRAGMA cell_size_check=ON", "PRAGMA temp_store=MEMORY", "PRAGMA trusted_schema=OFF"}) {
    if (auto s = catalog->run(pragma); !s) return s.error();
  }
  bool fresh = true;
  {
    Statement s(*catalog, "SELECT count(*) FROM sqlite_schema");
    if (s.step() != SQLITE_ROW) return catalog->error("cannot read the catalog of the pool");
    fresh = s.number(0) == 0;
  }
  if (fresh) {
    if (auto s = catalog->create(); !s) return s.error();
  } else {
    Statement check(*catalog, "PRAGMA quick_check(1)");
    if (check.step() != SQLITE_ROW) return catalog->error("cannot check the catalog of the pool");
    if (const auto found = check.bytes(0); found != "ok")
      return Error{EUCLEAN, "the catalog of the pool is damaged: " + found +
                                "; the clones in the pool that are Copied are plain trees and "
                                "can be read without clonefs"};
  }
  {
    Statement s(*catalog, "SELECT count(*) FROM sqlite_schema WHERE type IN ('view', 'trigger')");
    if (s.step() != SQLITE_ROW) return catalog->error("cannot read the catalog of the pool");
    if (s.number(0) != 0)
      return Error{EUCLEAN, "the catalog of the pool is damaged: it has views or triggers"};
  }
  auto format = catalog->meta("format");
  if (!format) return format.error();
  if (*format != kFormat)
    return Error{EUCLEAN, "the catalog of the pool has format '" + *format +
                              "', this clonefs knows format " + kFormat +
                              "; use the clonefs that made it"};
  if (auto s = catalog->run(kGenerations); !s) return s.error();
  if (auto s = catalog->run(kTimetable); !s) return s.error();
  return catalog;
}

Catalog::~Catalog() { sqlite3_close(db_); }

Error Catalog::error(const std::string& what) const {
  const int code = sqlite3_extended_errcode(db_);
  int e = EIO;
  switch (code & 0xff) {
    case SQLITE_FULL: e = ENOSPC; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: e = EBUSY; break;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT: e = EUCLEAN; break;
    case SQLITE_READONLY: e = EROFS; break;
    case SQLITE_NOMEM: e = ENOMEM; break;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM: e = EACCES; break;
    default: break;
  }
  return {e, what + ": " + sqlite3_errmsg(db_)};
}

Status Catalog::run(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    return error("the catalog of the pool");
  return {};
}

Status Catalog::create() {
  for (const char* sql : {"BEGIN IMMEDIATE", kSchema, "INSERT INTO meta VALUES('format', '1')",
                          "COMMIT"}) {
    if (auto s = run(sql); !s) return s;
  }
  return {};
}

Result<std::string> Catalog::meta(const std::string& key) {
  const std::lock_guard lock(mutex_);
  Statement s(*this, "SELECT value FROM meta WHERE key=?");
  s.text(key);
  const int rc = s.step();
  if (rc == SQLITE_ROW) return s.bytes(0);
  if (rc == SQLITE_DONE) return std::string();
  return error("cannot read the catalog of the pool");
}

Result<std::string> Catalog::integrity() {
  const std::lock_guard lock(mutex_);
  Statement s(*this, "PRAGMA integrity_check(1)");
  if (s.step() != SQLITE_ROW) return error("cannot check the catalog of the pool");
  return s.bytes(0);
}

Result<std::vector<SessionRow>> Catalog::sessions() {
  const std::lock_guard lock(mutex_);
  Statement s(*this,
              "SELECT id, name, slot, column_id, state, track_size, nocopy, created_s, created_ns,"
              " activated_s, activated_ns, fence_ns, rate_limit, error, paths, selection,"
              " coalesce(keep, 0), coalesce(kept_of, '')"
              " FROM sessions LEFT JOIN generations ON session=id ORDER BY id");
  std::vector<SessionRow> rows;
  int rc;
  while ((rc = s.step()) == SQLITE_ROW) {
    SessionRow r;
    r.id = static_cast<uint64_t>(s.number(0));
    r.name = s.bytes(1);
    const std::string behind = name_aside("", r.id);
    r.aside = r.name.ends_with(behind);
    if (r.aside) r.name.resize(r.name.size() - behind.size());
    r.slot = static_cast<unsigned>(s.number(2));
    r.column_id = static_cast<unsigned>(s.number(3));
    r.state = static_cast<int>(s.number(4));
    r.track_size = static_cast<uint64_t>(s.number(5));
    r.nocopy = s.number(6) != 0;
    r.created_at = s.time(7);
    r.activated_at = s.time(9);
    r.fence_ns = static_cast<uint64_t>(s.number(11));
    r.pace = static_cast<uint64_t>(s.number(12));
    r.error = s.bytes(13);
    r.paths = s.bytes(14);
    r.selection = s.bytes(15);
    r.keep = static_cast<unsigned>(std::clamp<int64_t>(s.number(16), 0, kMaxKept));
    r.kept_of = s.bytes(17);
    rows.push_back(std::move(r));
  }
  if (rc != SQLITE_DONE) return error("cannot read the sessions in the catalog");
  return rows;
}

Status Catalog::objects(uint64_t session, const std::function<Status(ObjectRow)>& fn) {
  const std::lock_guard lock(mutex_);
  Statement s(*this,
              "SELECT id, type, changed, finished, source_id, source_handle, pool_ino,"
              " pool_handle, size, atime_s, atime_ns, mtime_s, mtime_ns, ctime_s, ctime_ns,"
              " column_base, column_count, column_capacity, capability, parent, altered"
              " FROM objects WHERE session=? ORDER BY id");
  s.bind(session);
  int rc;
  while ((rc = s.step()) == SQLITE_ROW) {
    ObjectRow r;
    r.session = session;
    r.id = static_cast<uint32_t>(s.number(0));
    r.type = static_cast<unsigned>(s.number(1));
    r.changed = s.number(2) != 0;
    r.finished = s.number(3) != 0;
    r.source_id = static_cast<uint64_t>(s.number(4));
    r.source_handle = s.bytes(5);
    r.pool_ino = static_cast<uint64_t>(s.number(6));
    r.pool_handle = s.bytes(7);
    r.size = static_cast<uint64_t>(s.number(8));
    r.atime = s.time(9);
    r.mtime = s.time(11);
    r.ctime = s.time(13);
    r.column_base = s.number(15);
    r.column_count = static_cast<uint64_t>(s.number(16));
    r.column_capacity = static_cast<uint64_t>(s.number(17));
    r.capability = s.bytes(18);
    r.parent = static_cast<uint32_t>(s.number(19));
    r.altered = s.number(20) != 0;
    if (auto status = fn(std::move(r)); !status) return status;
  }
  if (rc != SQLITE_DONE) return error("cannot read the members in the catalog");
  return {};
}

Result<std::vector<ScheduleRow>> Catalog::schedules() {
  const std::lock_guard lock(mutex_);
  Statement s(*this, "SELECT session, ttl, precopy_at, activate_at, missed FROM schedules");
  std::vector<ScheduleRow> rows;
  int rc;
  while ((rc = s.step()) == SQLITE_ROW)
    rows.push_back({static_cast<uint64_t>(s.number(0)), static_cast<uint64_t>(s.number(1)),
                    s.number(2), s.number(3), s.bytes(4)});
  if (rc != SQLITE_DONE) return error("cannot read the schedules in the catalog");
  return rows;
}

Result<std::vector<HoldRow>> Catalog::holds() {
  const std::lock_guard lock(mutex_);
  Statement s(*this, "SELECT session, tag, since_s, since_ns FROM holds ORDER BY since_s, since_ns");
  std::vector<HoldRow> rows;
  int rc;
  while ((rc = s.step()) == SQLITE_ROW)
    rows.push_back({static_cast<uint64_t>(s.number(0)), s.bytes(1), s.time(2)});
  if (rc != SQLITE_DONE) return error("cannot read the holds in the catalog");
  return rows;
}

Result<std::vector<SourceMark>> Catalog::marks(uint64_t session) {
  const std::lock_guard lock(mutex_);
  Statement s(*this, 
              "SELECT object, ctime_s, ctime_ns, size, column_base FROM source_marks WHERE session=?");
  s.bind(session);
  std::vector<SourceMark> marks;
  int rc;
  while ((rc = s.step()) == SQLITE_ROW)
    marks.push_back({static_cast<uint32_t>(s.number(0)), s.time(1),
                     static_cast<uint64_t>(s.number(3)), static_cast<uint64_t>(s.number(4))});
  if (rc != SQLITE_DONE) return error("cannot read the source marks in the catalog");
  return marks;
}

Result<std::pair<uint64_t, std::string>> Catalog::root(uint64_t session) {
  const std::lock_guard lock(mutex_);
  Statement s(*this, "SELECT pool_ino, pool_handle FROM objects WHERE session=? AND id=0");
  s.bind(session);
  const int rc = s.step();
  if (rc == SQLITE_ROW) return std::pair(static_cast<uint64_t>(s.number(0)), s.bytes(1));
  if (rc != SQLITE_DONE) return error("cannot read the members in the catalog");
  return std::pair(uint64_t{0}, std::string());
}

Catalog::Batch::Batch(Catalog& catalog) : lock_(catalog.mutex_), catalog_(catalog) {
  begun_ = catalog_.run("BEGIN IMMEDIATE");
  open_ = static_cast<bool>(begun_);
}

Catalog::Batch::~Batch() {
  put_object_.reset();
  if (open_) (void)catalog_.run("ROLLBACK");
}

Status Catalog::Batch::commit() {
  if (!begun_) return begun_;
  put_object_.reset();
  auto s = catalog_.run("COMMIT");
  if (s) open_ = false;
  return s;
}

Status Catalog::Batch::put_meta(const std::string& key, const std::string& value) {
  if (!begun_) return begun_;
  return Statement(catalog_, "INSERT OR REPLACE INTO meta VALUES(?, ?)")
      .text(key)
      .bind(value)
      .run("cannot write the catalog");
}

Status Catalog::Batch::put_session(const SessionRow& r) {
  if (!begun_) return begun_;
  auto s = r.keep == 0 && r.kept_of.empty()
               ? Statement(catalog_, "DELETE FROM generations WHERE session=?")
                     .bind(r.id)
                     .run("cannot write the session to the catalog")
               : Statement(catalog_, "INSERT OR REPLACE INTO generations VALUES(?,?,?)")
                     .bind(r.id)
                     .bind(r.keep)
                     .text(r.kept_of)
                     .run("cannot write the session to the catalog");
  if (!s) return s;
  return Statement(catalog_,
                   "INSERT OR REPLACE INTO sessions VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
      .bind(r.id)
      .text(r.aside ? name_aside(r.name, r.id) : r.name)
      .bind(r.slot)
      .bind(r.column_id)
      .bind(r.state)
      .bind(r.track_size)
      .bind(r.nocopy)
      .bind(r.created_at)
      .bind(r.activated_at)
      .bind(r.fence_ns)
      .bind(r.pace)
      .text(r.error)
      .bind(r.paths)
      .text(r.selection)
      .run("cannot write the session to the catalog");
}

Status Catalog::Batch::set_state(uint64_t session, int state, const std::string& error) {
  if (!begun_) return begun_;
  return Statement(catalog_, "UPDATE sessions SET state=?, error=? WHERE id=?")
      .bind(state)
      .text(error)
      .bind(session)
      .run("cannot write the state to the catalog");
}

Status Catalog::Batch::set_kept(uint64_t session, const std::string& name,
                                const std::string& kept_of) {
  const auto number = slot(name);
  if (!number) return number.error();
  auto s = Statement(catalog_, "UPDATE sessions SET state=?, name=?, slot=? WHERE id=?")
               .bind(static_cast<int>(SessionState::kTerminated))
               .text(name)
               .bind(*number)
               .bind(session)
               .run("cannot write the session to the catalog");
  if (!s) return s;
  return Statement(catalog_, "INSERT OR REPLACE INTO generations VALUES(?,0,?)")
      .bind(session)
      .text(kept_of)
      .run("cannot write the session to the catalog");
}

Status Catalog::Batch::set_removing(uint64_t session, const std::string& name) {
  if (!begun_) return begun_;
  return Statement(catalog_, "UPDATE sessions SET state=?, error='', name=? WHERE id=?")
      .bind(kRemovingState)
      .text(name_aside(name, session))
      .bind(session)
      .run("cannot write the state to the catalog");
}

Status Catalog::Batch::set_rate(uint64_t session, uint64_t pace) {
  if (!begun_) return begun_;
  return Statement(catalog_, "UPDATE sessions SET rate_limit=? WHERE id=?")
      .bind(pace)
      .bind(session)
      .run("cannot write the rate to the catalog");
}

Status Catalog::Batch::put_object(const ObjectRow& r) {
  if (!begun_) return begun_;
  if (put_object_ == nullptr)
    put_object_ = std::make_unique<Statement>(
        catalog_, "INSERT OR REPLACE INTO objects VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  return put_object_->again()
      .bind(r.session)
      .bind(r.id)
      .bind(r.type)
      .bind(r.changed)
      .bind(r.finished)
      .bind(r.source_id)
      .bind(r.source_handle)
      .bind(r.pool_ino)
      .bind(r.pool_handle)
      .bind(r.size)
      .bind(r.atime)
      .bind(r.mtime)
      .bind(r.ctime)
      .bind(r.column_base)
      .bind(r.column_count)
      .bind(r.column_capacity)
      .bind(r.capability)
      .bind(r.parent)
      .bind(r.altered)
      .run("cannot write a member to the catalog");
}

Status Catalog::Batch::set_altered(uint64_t session, uint32_t object) {
  if (!begun_) return begun_;
  return Statement(catalog_, "UPDATE objects SET altered=1 WHERE session=? AND id=?")
      .bind(session)
      .bind(object)
      .run("cannot write a member to the catalog");
}

Status Catalog::Batch::drop_object(uint64_t session, uint32_t object) {
  if (!begun_) return begun_;
  return Statement(catalog_, "DELETE FROM objects WHERE session=? AND id=?")
      .bind(session)
      .bind(object)
      .run("cannot write the catalog");
}

Status Catalog::Batch::drop_session(uint64_t session) {
  if (!begun_) return begun_;
  for (const char* sql : {"DELETE FROM objects WHERE session=?",
                          "DELETE FROM source_marks WHERE session=?",
                          "DELETE FROM generations WHERE session=?",
                          "DELETE FROM schedules WHERE session=?",
                          "DELETE FROM holds WHERE session=?",
                          "DELETE FROM sessions WHERE id=?"}) {
    if (auto s = Statement(catalog_, sql).bind(session).run("cannot write the catalog"); !s)
      return s;
  }
  return {};
}

Status Catalog::Batch::put_schedule(uint64_t session, uint64_t ttl_s, int64_t precopy_at,
                                    int64_t activate_at, const std::string& missed) {
  if (!begun_) return begun_;
  return Statement(catalog_, "INSERT OR REPLACE INTO schedules VALUES(?,?,?,?,?)")
      .bind(session)
      .bind(ttl_s)
      .bind(precopy_at)
      .bind(activate_at)
      .text(missed)
      .run("cannot write the schedule to the catalog");
}

Status Catalog::Batch::put_hold(uint64_t session, const std::string& tag, const timespec& since) {
  if (!begun_) return begun_;
  return Statement(catalog_, "INSERT INTO holds VALUES(?,?,?,?)")
      .bind(session)
      .text(tag)
      .bind(since)
      .run("cannot write the hold to the catalog");
}

Status Catalog::Batch::drop_hold(uint64_t session, const std::string& tag) {
  if (!begun_) return begun_;
  return Statement(catalog_, "DELETE FROM holds WHERE session=? AND tag=?")
      .bind(session)
      .text(tag)
      .run("cannot write the hold to the catalog");
}

Status Catalog::Batch::put_mark(uint64_t session, const SourceMark& mark) {
  if (!begun_) return begun_;
  return Statement(catalog_, "INSERT OR REPLACE INTO source_marks VALUES(?,?,?,?,?,?)")
      .bind(session)
      .bind(mark.object)
      .bind(mark.ctime)
      .bind(mark.size)
      .bind(mark.column_base)
      .run("cannot write a source mark to the catalog");
}

Status Catalog::Batch::drop_marks(uint64_t session) {
  if (!begun_) return begun_;
  return Statement(catalog_, "DELETE FROM source_marks WHERE session=?")
      .bind(session)
      .run("cannot write the catalog");
}

Status Catalog::Batch::clear_marks() {
  if (!begun_) return begun_;
  return Statement(catalog_, "DELETE FROM source_marks").run("cannot write the catalog");
}

Status Catalog::Batch::drop_orphans() {
  if (!begun_) return begun_;
  for (const char* sql : {"DELETE FROM objects WHERE session NOT IN (SELECT id FROM sessions)",
                          "DELETE FROM schedules WHERE session NOT IN (SELECT id FROM sessions)",
                          "DELETE FROM holds WHERE session NOT IN (SELECT id FROM sessions)"}) {
    if (auto s = Statement(catalog_, sql).run("cannot write the catalog"); !s) return s;
  }
  return {};
}

static Result<unsigned> checked_slot(int64_t slot) {
  if (slot > 0 && slot <= kMaxSlot) return static_cast<unsigned>(slot);
  return Error{ENOSPC, "the pool has no inode numbers for a further name of a clone (" +
                           std::to_string(kMaxSlot) + " were given); use a name again"};
}

Result<unsigned> Catalog::Batch::slot(const std::string& name) {
  if (!begun_) return begun_.error();
  {
    Statement s(catalog_, "SELECT slot FROM slots WHERE name=?");
    s.text(name);
    const int rc = s.step();
    if (rc == SQLITE_ROW) return checked_slot(s.number(0));
    if (rc != SQLITE_DONE) return catalog_.error("cannot read the catalog");
  }
  if (auto s = Statement(catalog_,
                         "INSERT INTO slots SELECT ?, coalesce(max(slot), 0) + 1 FROM slots")
                   .text(name)
                   .run("cannot write the catalog");
      !s)
    return s.error();
  Statement s(catalog_, "SELECT slot FROM slots WHERE name=?");
  s.text(name);
  if (s.step() != SQLITE_ROW) return catalog_.error("cannot read the catalog");
  return checked_slot(s.number(0));
}

}  // namespace clonefs::detail
