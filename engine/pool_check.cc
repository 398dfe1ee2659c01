#include "engine/pool_check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "engine/catalog.h"
#include "engine/digest_file.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/row_rules.h"
#include "engine/track_file.h"
#include "extents/track_bits.h"

namespace clonefs {

namespace detail {
namespace {

namespace bfs = boost::filesystem;

constexpr size_t kMostFindings = 1000;        // of one session
constexpr uint64_t kChunk = 1 << 20;

// A directory of our own that goes with us.
class Scratch {
 public:
  Scratch() {
    const char* dir = std::getenv("TMPDIR");
    path_ = std::string(dir != nullptr && *dir == '/' ? dir : "/tmp") + "/clonefs-fsck-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~Scratch() {
    boost::system::error_code ignored;
    if (!path_.empty()) bfs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }  // "": none

 private:
  std::string path_;
};

class PoolChecker {
 public:
  PoolChecker(const PoolCheckOptions& options, Disk& disk) : options_(options), disk_(disk) {}

  Result<PoolReport> run() {
    if (auto status = open(); !status) return status.error();
    if (auto status = read_catalog(); !status) return status.error();
    if (catalog_ != nullptr) {
      clean_ = meta("clean") == "1";
      from_durable_ = !clean_ && meta("durability") == "power";
      auto rows = catalog_->sessions();
      if (!rows)
        catalog_damaged(rows.error().message);
      else
        for (const auto& row : *rows) check_session_row(row);
    }
    check_journal();
    check_strays();
    if (options_.repair) repair();
    for (const auto& f : report_.findings) report_.problems += f.problem ? 1 : 0;
    return std::move(report_);
  }

 private:
  Fd open_at(int dir, const std::string& name, int flags) {
    Fd fd(disk_, disk_.open(dir, name.c_str(), flags | O_NOFOLLOW | O_NOATIME));
    if (fd.get() == -EPERM) fd = Fd(disk_, disk_.open(dir, name.c_str(), flags | O_NOFOLLOW));
    return fd;
  }

  Status open() {
    pool_ = Fd(disk_, disk_.open(AT_FDCWD, options_.pool.c_str(), O_RDONLY | O_DIRECTORY));
    if (!pool_) return Error::from_errno(pool_.get(), "cannot open the pool " + options_.pool);
    bool any = false;
    struct stat st{};
    for (const char* name : {"catalog.db", "tracks", "clones", "incomplete"})
      any |= disk_.stat(pool_.get(), name, &st) == 0;
    if (!any)
      return Error{ENOENT, options_.pool + " is no pool of clonefs; a volume's own pool is "
                                           "VOLUME/.clonefs/pool, seen while it is not mounted"};
    lock_ = Fd(disk_, disk_.open(pool_.get(), "lock", O_RDONLY | O_NOFOLLOW));
    if (lock_ && disk_.lock(lock_.get()) == -EWOULDBLOCK)
      return Error{EBUSY, "the pool " + options_.pool +
                              " is in use: unmount the volume first (`clonefs umount MOUNTPOINT`)"};
    return {};
  }

  PoolFinding& found(bool problem, const std::string& what, const std::string& repair) {
    return report_.findings.emplace_back(PoolFinding{problem, what, repair, false});
  }

  // --- the catalog ---

  std::string meta(const std::string& key) {
    auto value = catalog_->meta(key);
    return value ? *value : std::string();
  }

  void catalog_damaged(const std::string& why) {
    set_catalog_aside_ = true;
    catalog_.reset();
    found(true, "the catalog cannot be used: " + why,
          "set it aside as " + aside("catalog.db") +
              "; the clones in clones/ stay as plain trees, all sessions are lost");
  }

  // A name that is free.
  std::string aside(const std::string& name) {
    struct stat st{};
    for (int i = 1;; ++i) {
      std::string free = name + ".damaged-" + std::to_string(i);
      if (disk_.stat(pool_.get(), free.c_str(), &st) < 0) return free;
    }
  }

  Status read_catalog() {
    struct stat st{};
    if (disk_.stat(pool_.get(), "catalog.db", &st) == -ENOENT) {
      found(!is_empty("incomplete") || !is_empty("tracks"),
            "there is no catalog: what was no plain tree yet is lost", "the next mount makes a new one");
      return {};
    }
    if (scratch_.path().empty())
      return Error::from_errno(errno, "cannot make a directory for a copy of the catalog (TMPDIR)");
    for (const char* suffix : {"", "-wal"}) {
      const std::string name = std::string("catalog.db") + suffix;
      const Fd from = open_at(pool_.get(), name, O_RDONLY);
      if (from.get() == -ENOENT && *suffix != '\0') continue;
      if (!from || disk_.stat(from.get(), "", &st) < 0 || !S_ISREG(st.st_mode)) {
        catalog_damaged(name + " cannot be read");
        return {};
      }
      const Fd to(disk_, disk_.open(AT_FDCWD, (scratch_.path() + "/" + name).c_str(),
                                    O_WRONLY | O_CREAT | O_EXCL, 0600));
      int e = to ? 0 : to.get();
      std::vector<char> buffer(kChunk);
      for (uint64_t at = 0; e == 0;) {
        const ssize_t n = disk_.pread_full(from.get(), buffer.data(), buffer.size(), at);
        if (n <= 0) {
          e = static_cast<int>(n);
          break;
        }
        e = disk_.pwrite_full(to.get(), buffer.data(), static_cast<size_t>(n), at);
        at += static_cast<uint64_t>(n);
      }
      if (e < 0) return Error::from_errno(e, "cannot copy the catalog to " + scratch_.path());
    }
    if (disk_.stat(pool_.get(), "catalog.db", &st) == 0 && st.st_size == 0) {
      // A new one that was never written, or what is left of one.
      found(!is_empty("incomplete") || !is_empty("tracks") || !is_empty("clones"),
            "the catalog is empty", "the next mount makes a new one");
      return {};
    }
    auto catalog = Catalog::open(scratch_.path() + "/catalog.db");
    if (!catalog) {
      catalog_damaged(catalog.error().message);
      return {};
    }
    catalog_ = std::move(*catalog);
    if (auto text = catalog_->integrity(); !text || *text != "ok")
      catalog_damaged(text ? *text : text.error().message);
    return {};
  }

  // --- sessions ---

  // What makes a session Failed. The first reason counts, all are told.
  void lost(const std::string& why) {
    if (++told_ <= kMostFindings)
      found(true, session_ + ": " + why, "set it Failed with this reason");
    failed_.emplace(id_, why);
  }

  void check_session_row(const SessionRow& row) {
    ++report_.sessions;
    session_ = row.name;
    id_ = row.id;
    told_ = 0;
    if (auto status = check_identity(row); !status) {
      catalog_damaged(status.error().message);
      return;
    }
    const std::string place = row.name + (row.aside ? "/" + std::to_string(row.id) : "");
    if (!names_.emplace(place).second || !ids_.emplace(row.id).second) {
      catalog_damaged("two sessions have the name " + row.name + " or its number");
      return;
    }
    if (row.state == kRemovingState) {
      found(false, row.name + " is being removed", "the next mount goes on with it");
      return;
    }
    if (auto text = check_session(row); !text) return lost(text.error().message);
    state_ = static_cast<SessionState>(row.state);
    track_size_ = TrackSize(row.track_size);
    if (state_ == SessionState::kFailed) {
      found(false, row.name + " is Failed: " + row.error, "");
      return;
    }
    std::vector<ObjectRow> objects;
    std::unordered_set<uint64_t> inodes, sources;
    std::vector<std::pair<uint64_t, uint64_t>> regions;
    auto status = catalog_->objects(row.id, [&](ObjectRow r) -> Status {
      if (auto ok = check_object(r); !ok) return ok;
      if ((!objects.empty() && r.id <= objects.back().id) || !inodes.insert(r.pool_ino).second ||
          !sources.insert(r.source_id).second)
        return Error{EUCLEAN, "its members in the catalog are damaged: one is there twice"};
      if (r.column_base >= 0 && r.column_capacity > 0)
        regions.emplace_back(static_cast<uint64_t>(r.column_base), r.column_capacity);
      objects.push_back(std::move(r));
      return {};
    });
    if (status) status = check_regions(std::move(regions));
    if (status && (objects.empty() || objects.front().id != 0 || !S_ISDIR(objects.front().type)))
      status = Error{EUCLEAN, "its members in the catalog are damaged: there is no root"};
    if (!status) return lost(status.error().message);
    report_.members += objects.size();
    const bool activated = state_ != SessionState::kCreated && state_ != SessionState::kPrecopy;
    if (state_ != SessionState::kTerminated) check_tables(objects, activated);
    DigestFile digests = check_digests(activated);
    check_tree(row, objects, activated, digests);
  }

  // The bits of a whole track table; "": it is fit for use.
  std::string read_table(const std::string& name, bool* failed, Fd* file, uint64_t* end) {
    const Fd tracks(disk_, disk_.open(pool_.get(), "tracks", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    *file = tracks ? open_at(tracks.get(), name, O_RDONLY) : Fd();
    struct stat st{};
    if (!*file || disk_.stat(file->get(), "", &st) < 0 || !S_ISREG(st.st_mode))
      return "its track table tracks/" + name + " cannot be read";
    char header[TrackFile::kHeaderSize] = {};
    const ssize_t n = disk_.pread_full(file->get(), header, sizeof header, 0);
    if (n != sizeof header || !TrackFile::is_header(header, failed))
      return "its track table tracks/" + name + " is damaged: it has no header";
    *end = static_cast<uint64_t>(st.st_size);
    return "";
  }

  void check_tables(const std::vector<ObjectRow>& objects, bool activated) {
    for (const bool durable : {false, true}) {
      if (durable && !from_durable_ && state_ != SessionState::kCopyInProgress) continue;
      const std::string name = std::to_string(id_) + (durable ? ".durable" : "");
      Fd file;
      bool failed = false;
      uint64_t end = 0;
      if (const auto why = read_table(name, &failed, &file, &end); !why.empty()) {
        // Before activation the volatile one says something after a clean end only.
        if (activated || clean_ || durable) lost(why);
        continue;
      }
      if (failed) {
        lost("a track could not be saved before it was overwritten");
        continue;
      }
      std::vector<TrackBits> bits;
      for (const auto& o : objects) {
        if (o.column_base < 0 || o.column_count == 0) continue;
        const auto base = static_cast<uint64_t>(o.column_base);
        if (base + o.column_count > end) {
          // A checkpoint may not have seen the region; then it is copied again, before activation.
          if (activated || (clean_ && !durable))
            lost("its track table tracks/" + name + " is too short");
          break;
        }
        for (uint64_t at = 0; at < o.column_count; at += bits.size()) {
          bits.resize(std::min<uint64_t>(kChunk, o.column_count - at));
          const ssize_t n = disk_.pread_full(file.get(), bits.data(), bits.size(), base + at);
          // (The last end may have left notes of what was written since.)
          const bool good = n == static_cast<ssize_t>(bits.size()) &&
                            std::all_of(bits.begin(), bits.end(),
                                        [](TrackBits b) { return is_possible(b & ~kChanged); });
          if (good) continue;
          if (activated || (clean_ && !durable))
            lost("its track table tracks/" + name + " is damaged: impossible bits");
          at = o.column_count;
        }
      }
    }
  }

  DigestFile check_digests(bool activated) {
    const Fd tracks(disk_, disk_.open(pool_.get(), "tracks", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    auto digests = DigestFile::read_only(disk_, tracks.get(), std::to_string(id_) + ".digests");
    if (digests) return std::move(*digests);
    found(activated, session_ + ": " + digests.error().message +
                         (activated ? "; the clone is what it was, but verify cannot compare it"
                                    : "; all is copied again before the activation"),
          "");
    return {};
  }

  // --- trees ---

  struct Found {
    mode_t type;
    uint64_t size;
    std::string path;
  };

  void check_tree(const SessionRow& row, const std::vector<ObjectRow>& objects, bool activated,
                  const DigestFile& digests) {
    Fd tree;
    struct stat st{};
    bool another = false;
    // Two generations of a name lie in one place each.
    for (const char* place : {"incomplete", "clones"}) {
      const Fd dir(disk_, disk_.open(pool_.get(), place, O_PATH | O_DIRECTORY | O_NOFOLLOW));
      if (!dir || tree) continue;
      tree = open_at(dir.get(), row.name, O_RDONLY | O_DIRECTORY);
      if (tree && disk_.stat(tree.get(), "", &st) == 0 && st.st_ino == objects.front().pool_ino) continue;
      another |= static_cast<bool>(tree);
      tree.reset();
    }
    if (!tree)
      return lost(another ? "its tree in the pool is another than the one that was made"
                          : "its tree is not in the pool any more");
    if (!activated) return;  // compared with the source again and again

    std::unordered_map<uint64_t, const ObjectRow*> by_inode;
    std::unordered_map<uint32_t, const ObjectRow*> by_id;
    for (const auto& o : objects) {
      by_inode[o.pool_ino] = &o;
      by_id[o.id] = &o;
    }
    std::unordered_map<uint64_t, Found> there;
    there.emplace(st.st_ino, Found{S_IFDIR, 0, "."});
    std::vector<std::pair<Fd, std::string>> dirs;
    dirs.emplace_back(Fd(disk_, disk_.duplicate(tree.get())), "");
    bool whole = true;
    uint64_t own = 0;
    while (!dirs.empty()) {
      const auto [dir, path] = std::move(dirs.back());
      dirs.pop_back();
      struct stat in{};
      disk_.stat(dir.get(), "", &in);
      const auto owner = by_inode.find(in.st_ino);
      const bool altered = owner == by_inode.end() || owner->second->altered;
      std::vector<std::string> names;
      int e = disk_.list(dir.get(), [&](const Disk::Entry& entry) {
        names.push_back(entry.name);
        return true;
      });
      for (const auto& name : names) {
        struct stat at{};
        if (e = disk_.stat(dir.get(), name.c_str(), &at); e < 0) break;
        const std::string full = path.empty() ? name : path + "/" + name;
        if (by_inode.count(at.st_ino) == 0) {
          if (altered)
            ++own;
          else
            found(false, session_ + ": " + full + " is in its tree, and nothing that clonefs put there",
                  "");
        }
        there.emplace(at.st_ino,
                      Found{at.st_mode & S_IFMT, static_cast<uint64_t>(at.st_size), full});
        if (!S_ISDIR(at.st_mode)) continue;
        Fd inner = open_at(dir.get(), name, O_RDONLY | O_DIRECTORY);
        if (!inner) e = inner.get();
        if (inner) dirs.emplace_back(std::move(inner), full);
      }
      if (e < 0) {
        whole = false;
        found(false, Error::from_errno(e, session_ + ": cannot look into " +
                                              (path.empty() ? std::string("its tree") : path))
                         .message,
              "");
      }
    }
    for (const auto& o : objects) {
      const auto it = there.find(o.pool_ino);
      if (it == there.end()) {
        const auto parent = by_id.find(o.parent);
        if (!whole || o.altered || (parent != by_id.end() && parent->second->altered)) continue;
        const auto in = parent == by_id.end() ? there.end() : there.find(parent->second->pool_ino);
        lost("a member is missing from its tree, in " +
             (in == there.end() ? std::string("a directory that is missing too") : in->second.path));
        continue;
      }
      const Found& f = it->second;
      if (f.type != (o.type & S_IFMT)) {
        lost(f.path + " is of another type than it was");
      } else if (S_ISREG(f.type) && !o.altered) {
        if (f.size != o.size)
          lost(f.path + " has " + std::to_string(f.size) + " bytes, had " + std::to_string(o.size));
        else if (options_.data && digests)
          compare(tree.get(), o, f.path, digests);
      }
    }
  }

  void compare(int tree, const ObjectRow& o, const std::string& path, const DigestFile& digests) {
    const Fd file = open_at(tree, path, O_RDONLY);
    struct stat st{};
    if (!file || disk_.stat(file.get(), "", &st) < 0 || st.st_ino != o.pool_ino)
      return lost(path + " cannot be read");
    // Which tracks are pending; none in a clone that is drained.
    Fd table;
    bool failed = false;
    uint64_t end = 0;
    const bool drained = state_ != SessionState::kCopyInProgress;
    if (!drained && !read_table(std::to_string(id_) + (from_durable_ ? ".durable" : ""), &failed,
                                &table, &end)
                         .empty())
      return;
    disk_.drop_cache(file.get());
    const uint64_t tracks = track_size_.tracks_in(o.size);
    const uint64_t at_once = std::max<uint64_t>(1, kChunk / track_size_.bytes());
    std::vector<char> data;
    std::vector<uint64_t> expected;
    std::vector<TrackBits> bits;
    for (uint64_t t = 0; t < tracks; t += at_once) {
      const uint64_t n = std::min(at_once, tracks - t);
      const uint64_t known = o.column_base < 0 || o.column_count <= t ? 0
                                                                     : std::min(n, o.column_count - t);
      if (known == 0) {
        // Nothing was copied there: only data, if there is any, is of interest.
        const int64_t next = disk_.seek(file.get(), track_size_.offset_of(t), SEEK_DATA);
        if (next == -ENXIO) return;
        if (next > 0 && track_size_.track_of(static_cast<uint64_t>(next)) >= t + at_once) {
          t = track_size_.track_of(static_cast<uint64_t>(next)) / at_once * at_once - at_once;
          continue;
        }
      }
      expected.assign(n, 0);
      bits.assign(n, kDone);
      const uint64_t base = static_cast<uint64_t>(std::max<int64_t>(o.column_base, 0)) + t;
      if (known > 0 && digests.read(base, expected.data(), known) < 0) return lost("its digests cannot be read");
      if (known > 0 && !drained && disk_.pread_full(table.get(), bits.data(), known, base) < 0) return;
      const uint64_t from = track_size_.offset_of(t);
      data.resize(std::min(n * track_size_.bytes(), o.size - from));
      if (const ssize_t r = disk_.pread_full(file.get(), data.data(), data.size(), from);
          r != static_cast<ssize_t>(data.size()))
        return lost(path + " cannot be read");
      for (uint64_t i = 0; i < n; ++i) {
        if (is_pending(bits[i])) continue;
        ++report_.tracks;
        const uint64_t at = i * track_size_.bytes();
        const uint64_t length = std::min<uint64_t>(track_size_.bytes(), data.size() - at);
        if (digest_of(data.data() + at, length) != expected[i])
          lost(path + ": bytes " + std::to_string(from + at) + " to " +
               std::to_string(from + at + length - 1) + " are not what was copied");
      }
    }
  }

  // --- the journal, and what nobody owns ---

  void check_journal() {
    const Fd dir(disk_, disk_.open(pool_.get(), "journal", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    for (const char* name : {"0", "1"}) {
      const Fd file = dir ? open_at(dir.get(), name, O_RDONLY) : Fd();
      struct stat st{};
      if (!file || disk_.stat(file.get(), "", &st) < 0 || st.st_size == 0) continue;
      const auto check = Journal::check(disk_, file.get(), static_cast<uint64_t>(st.st_size));
      const std::string what = std::string("journal/") + name;
      if (check.error.empty()) continue;
      if (!check.certain) {
        found(false, what + ": " + check.error + ": torn by a power cut, or damaged", "");
        continue;
      }
      found(true, what + ": " + check.error,
            "set it aside as " + what + ".damaged" +
                (clean_ ? "; after a clean end it is not needed"
                        : ", and sessions that are being drained Failed"));
      journals_aside_.emplace_back(what, report_.findings.size() - 1);
      // After a clean end it is not needed.
      if (clean_ || catalog_ == nullptr) continue;
      if (auto rows = catalog_->sessions()) {
        for (const auto& row : *rows)
          if (row.state == static_cast<int>(SessionState::kCopyInProgress))
            failed_.emplace(row.id, "tracks of it may have been lost with a damaged " + what);
      }
    }
  }

  bool is_empty(const char* place) {
    bool empty = true;
    const Fd dir = open_at(pool_.get(), place, O_RDONLY | O_DIRECTORY);
    if (dir) disk_.list(dir.get(), [&](const Disk::Entry&) { return empty = false; });
    return empty;
  }

  void check_strays() {
    std::unordered_set<std::string> tables;
    for (const uint64_t id : ids_)
      for (const char* suffix : {"", ".durable", ".digests"})
        tables.insert(std::to_string(id) + suffix);
    const std::unordered_set<std::string> none;
    struct Place {
      const char* name;
      const std::unordered_set<std::string>& owned;
      bool plain;
    };
    for (const auto& [name, owned, plain] :
         {Place{"incomplete", names_, false}, Place{"tracks", tables, false},
          Place{"stage", none, false}, Place{"clones", names_, true}}) {
      const Fd dir = open_at(pool_.get(), name, O_RDONLY | O_DIRECTORY);
      if (!dir) continue;
      disk_.list(dir.get(), [&, name = name, plain = plain, &owned = owned](const Disk::Entry& e) {
        if (owned.count(e.name) != 0) return true;
        const std::string path = std::string(name) + "/" + e.name;
        if (plain) {
          found(false, path + " is a plain tree that no session knows", "");
        } else {
          found(false, path + " belongs to no session", "remove it");
          strays_.emplace_back(path, report_.findings.size() - 1);
        }
        return true;
      });
    }
    check_limbo();
  }

  // Of a pool that lies in its volume.
  void check_limbo() {
    const Fd limbo(disk_, disk_.open(pool_.get(), "../limbo", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (!limbo || bfs::path(options_.pool).lexically_normal().parent_path().filename() != ".clonefs")
      return;
    disk_.list(limbo.get(), [&](const Disk::Entry& e) {
      char name[20];
      std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(e.ino));
      if (e.name != name)
        found(false, "limbo/" + e.name + " is no name that clonefs gives", "the next mount removes it");
      return true;
    });
  }

  // --- what was said is done ---

  void repair() {
    if (!failed_.empty() && !set_catalog_aside_) {
      auto catalog = Catalog::open("/proc/self/fd/" + std::to_string(pool_.get()) + "/catalog.db");
      Status status = catalog ? Status() : Status(catalog.error());
      if (status) {
        Catalog::Batch batch(**catalog);
        for (const auto& [id, why] : failed_)
          if (status)
            status = batch.set_state(id, static_cast<int>(SessionState::kFailed), why + " (found by fsck)");
        if (status) status = batch.commit();
      }
      for (auto& f : report_.findings)
        if (f.repair.starts_with("set it Failed")) f.done = static_cast<bool>(status);
      if (!status) found(true, "sessions could not be set Failed: " + status.error().message, "");
    }
    if (set_catalog_aside_) {
      const std::string to = aside("catalog.db");
      const int e = disk_.rename(pool_.get(), "catalog.db", pool_.get(), to.c_str(), RENAME_NOREPLACE);
      disk_.rename(pool_.get(), "catalog.db-wal", pool_.get(), (to + "-wal").c_str(), RENAME_NOREPLACE);
      for (auto& f : report_.findings)
        if (f.repair.starts_with("set it aside as catalog")) f.done = e == 0;
    }
    for (const auto& [what, index] : journals_aside_)
      report_.findings[index].done =
          disk_.rename(pool_.get(), what.c_str(), pool_.get(), (what + ".damaged").c_str(), 0) == 0;
    for (const auto& [path, index] : strays_) {
      boost::system::error_code error;
      bfs::remove_all(options_.pool + "/" + path, error);
      report_.findings[index].done = !error;
    }
    disk_.syncfs(pool_.get());
  }

  const PoolCheckOptions& options_;
  Disk& disk_;
  Scratch scratch_;
  Fd pool_, lock_;
  std::unique_ptr<Catalog> catalog_;
  bool clean_ = false;
  bool from_durable_ = false;  // the durable tables count
  PoolReport report_;

  // The session that is looked at.
  std::string session_;
  uint64_t id_ = 0;
  SessionState state_ = SessionState::kCreated;
  TrackSize track_size_;
  size_t told_ = 0;

  std::unordered_set<std::string> names_;
  std::unordered_set<uint64_t> ids_;
  // What there is to do.
  std::map<uint64_t, std::string> failed_;
  bool set_catalog_aside_ = false;
  std::vector<std::pair<std::string, size_t>> journals_aside_;
  std::vector<std::pair<std::string, size_t>> strays_;
};

}  // namespace
}  // namespace detail

Result<PoolReport> check_pool(const PoolCheckOptions& options, Disk& disk) {
  return detail::PoolChecker(options, disk).run();
}

}  // namespace clonefs
