// A pool that somebody else has written to: rows of the catalog with any values, track tables and
// journal with any bytes, names in its tree that are other things. The engine refuses it with words
// or takes it up, perhaps with Failed clones; all commands then work or are refused; and nothing
// outside of the pool is changed but by what the case itself writes.
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <memory>
#include <string>
#include <vector>

#include "fs/status_text.h"
#include "tests/engine/direct_volume.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/journal_format.h"
#include "tests/fuzz/require.h"

namespace clonefs::test {
namespace {

namespace bfs = boost::filesystem;

constexpr const char* kNames[] = {"created", "precopy", "active", "copied", "ended"};

// The catalog through SQLite, whatever its tables are.
class CatalogEditor {
 public:
  explicit CatalogEditor(const std::string& file) {
    sqlite3_open_v2(file.c_str(), &db_, SQLITE_OPEN_READWRITE, nullptr);
  }
  ~CatalogEditor() { sqlite3_close(db_); }
  CatalogEditor(const CatalogEditor&) = delete;
  CatalogEditor& operator=(const CatalogEditor&) = delete;

  void edit(Input& in) {
    const auto tables = texts("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name", 0);
    if (tables.empty()) return;
    const std::string table = tables[in.below(tables.size())];
    const auto columns = texts("PRAGMA table_info(" + table + ")", 1);
    const auto rows = texts("SELECT count(*) FROM " + table, 0);
    if (columns.empty() || rows.empty()) return;
    const size_t row = in.below(static_cast<size_t>(std::atoi(rows[0].c_str())));
    const std::string column = columns[in.below(columns.size())];
    const std::string where = key_of(table, row);
    if (where.empty()) return;
    switch (in.byte() % 8) {
      case 0: run("DELETE FROM " + table + where, {}); break;
      case 1: {  // once more, with another value in this column
        std::string list;
        for (const auto& c : columns) list += (list.empty() ? "" : ",") + (c == column ? "?" : c);
        run("INSERT OR REPLACE INTO " + table + " SELECT " + list + " FROM " + table + where,
            value(in, table, columns));
        break;
      }
      default:
        run("UPDATE OR REPLACE " + table + " SET " + column + "=?" + where,
            value(in, table, columns));
    }
  }

 private:
  struct Value {
    enum { kNull, kNumber, kText, kBlob, kSql } type = kNull;
    int64_t number = 0;
    std::string bytes;
  };

  Value value(Input& in, const std::string& table, const std::vector<std::string>& columns) {
    constexpr int64_t kLimits[] = {0,  1,  -1,        2,         3,           100,
                                   16, 15, INT32_MAX, INT32_MIN, 1LL << 32,   UINT32_MAX,
                                   INT64_MAX, INT64_MIN, 1LL << 48, 4096, 1LL << 40, 65536};
    switch (in.byte() % 8) {
      case 0: return {};
      case 1: return {Value::kNumber, static_cast<int8_t>(in.byte()), {}};
      case 2: return {Value::kNumber, kLimits[in.below(std::size(kLimits))], {}};
      case 3: return {Value::kNumber, in.number<int64_t>(), {}};
      case 4: return {Value::kText, 0, in.string()};
      case 5: return {Value::kBlob, 0, in.string()};
      case 6: {  // what stands elsewhere in the table
        const std::string other = columns[in.below(columns.size())];
        const auto row = std::to_string(in.byte() % 16);
        return {Value::kSql, 0, "(SELECT " + other + " FROM " + table + " LIMIT 1 OFFSET " + row + ")"};
      }
      default: {
        constexpr const char* kTexts[] = {"../../outside", "..", ".", "", "dir/..", "active",
                                          "18446744073709551615:1,", "0:4096,", "1:"};
        return {Value::kText, 0, kTexts[in.below(std::size(kTexts))] + std::string(in.byte() % 2, '\0')};
      }
    }
  }

  std::vector<std::string> texts(const std::string& sql, int column) {
    std::vector<std::string> found;
    sqlite3_stmt* s = nullptr;
    if (sqlite3_prepare_v2(db_, sql.c_str(), -1, &s, nullptr) == SQLITE_OK) {
      while (sqlite3_step(s) == SQLITE_ROW) {
        const void* text = sqlite3_column_blob(s, column);
        found.emplace_back(static_cast<const char*>(text == nullptr ? "" : text),
                           static_cast<size_t>(sqlite3_column_bytes(s, column)));
      }
    }
    sqlite3_finalize(s);
    return found;
  }

  // WHERE of row number ROW by the table's key.
  std::string key_of(const std::string& table, size_t row) {
    const auto names = texts("SELECT name FROM pragma_table_info('" + table + "') WHERE pk>0", 0);
    std::string where;
    for (const auto& name : names) {
      const auto literal = texts("SELECT quote(" + name + ") FROM " + table + " LIMIT 1 OFFSET " +
                                     std::to_string(row), 0);
      if (literal.empty()) return {};
      where += (where.empty() ? " WHERE " : " AND ") + name + "=" + literal[0];
    }
    return where;
  }

  // The statement's one parameter, if it has one.
  void run(std::string sql, const Value& v) {
    if (v.type == Value::kSql) {
      if (const size_t at = sql.find('?'); at != std::string::npos) sql.replace(at, 1, v.bytes);
    }
    sqlite3_stmt* s = nullptr;
    if (sqlite3_prepare_v2(db_, sql.c_str(), -1, &s, nullptr) == SQLITE_OK) {
      const int size = static_cast<int>(v.bytes.size());
      if (v.type == Value::kNumber) sqlite3_bind_int64(s, 1, v.number);
      if (v.type == Value::kText) sqlite3_bind_text(s, 1, v.bytes.data(), size, SQLITE_TRANSIENT);
      if (v.type == Value::kBlob) sqlite3_bind_blob(s, 1, v.bytes.data(), size, SQLITE_TRANSIENT);
      sqlite3_step(s);
    }
    sqlite3_finalize(s);
  }

  sqlite3* db_ = nullptr;
};

class HostilePool {
 public:
  explicit HostilePool(Input in) : in_(in), choice_(in_.byte()), volume_(options(choice_)) {}

  void run() {
    build();
    for (int edits = 0; edits < 12 && !in_.empty(); ++edits) edit();
    const Tree expected = volume_.capture();
    const Tree beside = capture_outside();
    const Status status = volume_.open();
    if (!status) {
      REQUIRE(!status.error().message.empty() && status.error().code > 0, "an error without words");
    } else {
      use();
    }
    unchanged(expected, beside);
    if (status) write_and_remove();
    const std::string changed = change(beside, capture_outside());
    REQUIRE(changed.empty(), "beside the volume: " + changed);
  }

 private:
  static DirectVolume::Options options(uint8_t choice) {
    DirectVolume::Options o;
    if ((choice & 4) != 0) o.pool = Where::kMemory;
    if ((choice & 8) != 0) o.durability = Durability::kRelaxed;
    o.boot = "one";
    return o;
  }

  void build() {
    DirectVolume& v = volume_;
    v.make("file", pattern(1, 5 * 4096 + 100));
    v.mkdir("dir");
    v.make("dir/a", pattern(2, 3 * 4096));
    v.link("dir/a", "dir/b");
    v.symlink("a", "dir/s");
    const std::string secret = outside_.path() + "/secret";
    const int fd = ::open(secret.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const std::string data = pattern(9, 4 * 4096);
    REQUIRE(posix_disk().pwrite_full(fd, data.data(), data.size(), 0) == 0, "secret");
    ::close(fd);
    ::mkdir((outside_.path() + "/kept").c_str(), 0700);
    for (const char* name : kNames) {
      CreateOptions o = v.options(name, {std::string(name) == "created" ? "dir" : "."});
      o.precopy = o.name == "precopy";
      o.activate = o.name == "active" || o.name == "copied" || o.name == "ended";
      const Status made = v.engine().create(o);
      REQUIRE(made, made.error().message);
    }
    v.engine().step("precopy");
    v.drain("copied");
    v.drain("ended");
    REQUIRE(v.engine().terminate({"ended"}, false), "terminate");
    REQUIRE(v.engine().checkpoint(), "checkpoint");
    v.write("file", 4096, pattern(3, 4096));  // a record in the journal
    pool_ = v.engine().pool_path();
    if ((choice_ & 1) != 0) {
      REQUIRE(v.close(), "close");
    } else {
      v.kill();
    }
    if ((choice_ & 2) != 0) v.use_boot("two");
  }

  void edit() {
    switch (in_.byte() % 8) {
      case 0: edit_bytes(); break;
      case 1: edit_journal(); break;
      case 2: edit_tree(); break;
      case 3: edit_handle(); break;
      default: CatalogEditor(pool_ + "/catalog.db").edit(in_); break;
    }
  }

  // A file of the pool: other bytes, another length.
  void edit_bytes() {
    std::vector<std::string> files;
    for (const char* folder : {"/tracks", "/journal"}) {
      if (!bfs::is_directory(pool_ + folder)) continue;
      for (const auto& entry : bfs::directory_iterator(pool_ + folder))
        files.push_back(entry.path().string());
    }
    std::sort(files.begin(), files.end());
    for (const char* name : {"/catalog.db", "/catalog.db-wal"}) files.push_back(pool_ + name);
    const std::string file = files[in_.below(files.size())];
    const int fd = ::open(file.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    const auto offset = in_.number<uint16_t>();
    if (in_.byte() % 4 == 0) {
      REQUIRE(::ftruncate(fd, offset) == 0, file);
    } else {
      const std::string bytes = in_.string();
      REQUIRE(posix_disk().pwrite_full(fd, bytes.data(), bytes.size(), offset) == 0, file);
    }
    ::close(fd);
  }

  void edit_journal() {
    JournalFile file;
    file.header(1, in_.byte());
    for (unsigned n = in_.byte() % 4; n > 0; --n) {
      const bool huge = in_.byte() == 0;
      const uint64_t session = huge ? in_.number<uint64_t>() : in_.byte() % 8;
      const uint32_t object = huge ? in_.number<uint32_t>() : in_.byte() % 8;
      const uint64_t offset = huge ? in_.number<uint64_t>() : in_.number<uint16_t>();
      const std::string data = in_.string();
      file.record(session, object, offset, data.size(), data);
    }
    file.raw(in_.string());
    const std::string path = pool_ + "/journal/" + std::to_string(in_.byte() % 2);
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    REQUIRE(posix_disk().pwrite_full(fd, file.bytes().data(), file.bytes().size(), 0) == 0, path);
    ::close(fd);
  }

  // A name in the pool becomes something else.
  void edit_tree() {
    std::vector<bfs::path> places;
    boost::system::error_code error;
    for (bfs::recursive_directory_iterator at(pool_, error), end; at != end && !error;
         at.increment(error))
      places.push_back(at->path());
    std::sort(places.begin(), places.end());
    if (places.empty()) return;
    const bfs::path place = places[in_.below(places.size())];
    const bfs::path other = places[in_.below(places.size())];
    const bfs::path outside = outside_.path();
    switch (in_.byte() % 6) {
      case 0: bfs::remove_all(place, error); break;
      case 1:
        bfs::remove_all(place, error);
        bfs::create_symlink(outside, place, error);
        break;
      case 2:
        bfs::remove_all(place, error);
        bfs::create_symlink(outside / "secret", place, error);
        break;
      case 3:
        bfs::remove_all(place, error);
        bfs::create_directory(place, error);
        break;
      case 4: bfs::rename(place, other, error); break;
      default: bfs::create_hard_link(other, place / "again", error); break;
    }
  }

  // A member's file is, by number and handle, a file outside.
  void edit_handle() {
    const std::string at = in_.byte() % 2 == 0 ? outside_.path() + "/secret"
                                               : volume_.directory() + "/file";
    const int fd = ::open(at.c_str(), O_PATH | O_CLOEXEC);
    struct stat st {};
    std::string handle;
    REQUIRE(::fstat(fd, &st) == 0, at);
    const bool has = posix_disk().handle_of(fd, &handle) == 0;
    ::close(fd);
    sqlite3* db = nullptr;
    sqlite3_open_v2((pool_ + "/catalog.db").c_str(), &db, SQLITE_OPEN_READWRITE, nullptr);
    sqlite3_stmt* s = nullptr;
    const std::string sql = "UPDATE objects SET pool_ino=?1, pool_handle=?2 WHERE session=" +
                            std::to_string(in_.byte() % 8) + " AND id=" +
                            std::to_string(in_.byte() % 8);
    if (has && sqlite3_prepare_v2(db, sql.c_str(), -1, &s, nullptr) == SQLITE_OK) {
      sqlite3_bind_int64(s, 1, static_cast<int64_t>(st.st_ino));
      sqlite3_bind_blob(s, 2, handle.data(), static_cast<int>(handle.size()), SQLITE_TRANSIENT);
      sqlite3_step(s);
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
  }

  void show() {
    const auto sessions = volume_.engine().status();
    const VolumeInfo info{volume_.directory(), volume_.directory(), pool_, 1};
    REQUIRE(!status_json(info, sessions, true).empty(), "JSON");
    REQUIRE(!status_table(sessions, true).empty(), "table");
    for (const SessionStatus& s : sessions) {
      REQUIRE(!status_details(s).empty(), "details");
      if (const auto members = volume_.engine().extents(s.name))
        (void)extents_json({{s.name, *members}});
    }
  }

  void read_clone(const std::string& name) {
    const auto clone = volume_.engine().clone(name);
    if (!clone) return;
    struct stat st {};
    (void)::fstat((*clone)->root(), &st);
    (*clone)->present(&st);
    for (const char* path : {"file", "dir/a", "dir/b"}) {
      auto open = volume_.open_clone(name, path, O_RDWR | O_NOFOLLOW);
      if (!open || ::fstat(open.fd, &st) != 0 || !S_ISREG(st.st_mode)) continue;
      (void)read_clone_file(*open.file, std::min<uint64_t>(static_cast<uint64_t>(st.st_size), 1 << 20));
      (void)open.file->seek(0, SEEK_DATA);
      (void)open.file->seek(0, SEEK_HOLE);
      (void)open.file->write("x", 1, 4097);
      (void)open.file->sync(false);
      (*clone)->present(&st);
    }
  }

  void use() {
    Engine& engine = volume_.engine();
    show();
    for (const char* name : kNames) read_clone(name);
    for (int round = 0; round < 3; ++round)
      for (const char* name : kNames) engine.step(name);
    (void)engine.checkpoint();
    (void)engine.activate({"created"});
    (void)engine.activate({"precopy"});
    for (const char* name : kNames) {
      for (int steps = 0; steps < 100 && engine.step(name); ++steps) {
      }
      read_clone(name);
    }
    show();
  }

  void write_and_remove() {
    Engine& engine = volume_.engine();
    volume_.write("file", 0, pattern(4, 3 * 4096));
    volume_.truncate("dir/a", 10);
    volume_.unlink("dir/b");
    CreateOptions fresh = volume_.options("fresh");
    fresh.activate = true;
    const Status made = engine.create(fresh);
    if (made) {
      const Tree expected = volume_.capture();
      REQUIRE(volume_.drain("fresh"), "a clone beside damaged ones is not drained");
      const std::string wrong = volume_.plain_difference("fresh", expected);
      REQUIRE(wrong.empty(), wrong);
    } else {
      REQUIRE(!made.error().message.empty(), "an error without words");
    }
    for (const SessionStatus& s : engine.status()) (void)engine.remove({s.name}, true);
    show();
    (void)volume_.close();
    (void)volume_.open();
  }

  Tree capture_outside() const {
    const int fd = ::open(outside_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Tree tree;
    capture(fd, ".", tree);
    ::close(fd);
    return tree;
  }
  // Content, types, modes and owners; "" or the first path where they differ.
  static std::string change(const Tree& before, const Tree& after) {
    for (const auto& [path, object] : before) {
      const auto it = after.find(path);
      if (it == after.end()) return path + " is gone";
      const TreeObject& now = *it->second;
      if (now.st.st_mode != object->st.st_mode || now.st.st_uid != object->st.st_uid)
        return path + " has another mode or owner";
      if (now.target != object->target || now.xattrs != object->xattrs)
        return path + " has another target or attribute";
      if (now.data != object->data) return path + ": " + difference(object->data, now.data);
    }
    for (const auto& [path, object] : after)
      if (!before.contains(path)) return path + " is new";
    return {};
  }
  void unchanged(const Tree& volume, const Tree& outside) {
    const std::string inside = change(volume, volume_.capture());
    REQUIRE(inside.empty(), "in the volume: " + inside);
    const std::string beside = change(outside, capture_outside());
    REQUIRE(beside.empty(), "beside the volume: " + beside);
  }

  Input in_;
  const uint8_t choice_;
  const TemporaryDirectory outside_{Where::kMemory};
  DirectVolume volume_;
  std::string pool_;
};

}  // namespace
}  // namespace clonefs::test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  clonefs::test::HostilePool({data, size}).run();
  return 0;
}
