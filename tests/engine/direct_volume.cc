#include "tests/engine/direct_volume.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace clonefs::test {
namespace {

int result(ssize_t r) {
  return r < 0 ? -errno : static_cast<int>(r);
}

void must(Status status, const char* what) {
  if (!status) throw std::runtime_error(std::string(what) + ": " + status.error().message);
}


// A descriptor that is closed at the end of a scope; keeps errno.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  ~ScopedFd() {
    const int saved = errno;
    if (fd_ >= 0) ::close(fd_);
    errno = saved;
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::string pattern(uint64_t seed, size_t size) {
  std::string data(size, '\0');
  uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
  for (char& c : data) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(1 + (x >> 40) % 255);
  }
  return data;
}

TemporaryDirectory::TemporaryDirectory(Where where) {
  std::string base = "/dev/shm";
  if (where == Where::kDisk || access(base.c_str(), W_OK) != 0) {
    const char* tmp = std::getenv("TMPDIR");
    base = tmp != nullptr ? tmp : "/var/tmp";
  }
  path_ = base + "/clonefs-test-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no temporary directory: " + base);
}

TemporaryDirectory::~TemporaryDirectory() {
  boost::system::error_code ignored;
  boost::filesystem::remove_all(path_, ignored);
}

DirectVolume::DirectVolume(const Options& options) : options_(options), directory_(options.where) {
  if (options.pool) pool_ = std::make_unique<TemporaryDirectory>(*options.pool);
  root_ = ::open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  must(open(), "open");
}

DirectVolume::~DirectVolume() {
  engine_.reset();
  ::close(root_);
}

EngineOptions DirectVolume::engine_options() const {
  EngineOptions options;
  options.source = root_;
  options.source_name = directory_.path();
  if (pool_ != nullptr) options.pool = pool_->path() + "/pool";
  options.track_size = TrackSize(options_.track_size);
  options.max_columns = options_.max_columns;
  options.copy_threads = options_.copy_threads;
  options.copy_workers = options_.copy_workers;
  options.durability = options_.durability;
  options.on_error = options_.on_error;
  options.stall_limit = options_.stall_limit;
  options.boot = options_.boot;
  options.journal_limit = options_.journal_limit;
  options.journal_ahead = 16384;  // the simulated disk has it in memory
  options.no_clones = options_.no_clones;
  options.ctime_tick = options_.ctime_tick;
  options.tracked_at_least = options_.tracked_at_least;
  options.quiet = options_.quiet;
  return options;
}

Status DirectVolume::open() {
  auto engine = Engine::open(engine_options(), options_.disk ? *options_.disk : posix_disk());
  if (!engine) return engine.error();
  engine_ = std::move(*engine);
  return {};
}

Status DirectVolume::close() {
  Status status = engine_->close();
  engine_.reset();
  return status;
}

void DirectVolume::kill() {
  engine_.reset();
}

Status DirectVolume::reopen() {
  Status status = close();
  return status ? open() : status;
}

Status DirectVolume::kill_reopen() {
  kill();
  return open();
}

DirectVolume::Parent DirectVolume::parent(const std::string& path) const {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash);
  const int fd = openat(root_, directory.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return {result(fd), slash == std::string::npos ? path : path.substr(slash + 1)};
}

int DirectVolume::open_file(const std::string& path, int flags) const {
  return result(openat(root_, path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC));
}

SourceId DirectVolume::id_of(const struct stat& st) const {
  return engine_ != nullptr && st.st_dev == engine_->device() ? st.st_ino : 0;
}

SourceId DirectVolume::id(const std::string& path) const {
  struct stat st {};
  return fstatat(root_, path.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 ? id_of(st) : 0;
}

bool DirectVolume::exists(const std::string& path) const {
  return faccessat(root_, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Tree DirectVolume::capture(const std::vector<std::string>& paths) const {
  Tree tree;
  for (const std::string& path : paths) test::capture(root_, path, tree);
  if (options_.present) {
    for (auto& [path, object] : tree) options_.present(&object->st);
  }
  return tree;
}

std::string DirectVolume::content(const std::string& path) const {
  const ScopedFd fd(openat(root_, path.c_str(), O_RDONLY | O_CLOEXEC));
  return fd.get() < 0 ? std::string("cannot open ") + path : read_all(fd.get());
}

DirectVolume::Told::Told(const DirectVolume& volume, const std::function<Change()>& about)
    : before_end(volume.before_end) {
  if (volume.intercept) change.emplace(about());
  if (volume.after_begin) volume.after_begin();
}

DirectVolume::Told::~Told() {
  if (before_end) before_end();
}

namespace {
SourceId id_of_fd(const DirectVolume& volume, int fd) {
  struct stat st {};
  return fstat(fd, &st) == 0 ? volume.id_of(st) : 0;
}
}  // namespace

int DirectVolume::write(const std::string& path, uint64_t offset, std::string_view data) {
  const ScopedFd fd(openat(root_, path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  return fd.get() < 0 ? -errno : write_fd(fd.get(), offset, data);
}

int DirectVolume::write_fd(int fd, uint64_t offset, std::string_view data) {
  const Told change(*this, [&] {
    return engine_->change_data(id_of_fd(*this, fd), fd, {offset, data.size()});
  });
  if (change.error() != 0) return -change.error();
  return changes().pwrite_full(fd, data.data(), data.size(), offset);
}

int DirectVolume::truncate(const std::string& path, uint64_t size) {
  const ScopedFd fd(openat(root_, path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  return fd.get() < 0 ? -errno : truncate_fd(fd.get(), size);
}

int DirectVolume::truncate_fd(int fd, uint64_t size, bool readable) {
  const Told change(
      *this, [&] { return engine_->change_size(id_of_fd(*this, fd), readable ? fd : -1, size); });
  if (change.error() != 0) return -change.error();
  return changes().truncate(fd, size);
}

int DirectVolume::allocate(const std::string& path, int mode, uint64_t offset, uint64_t length) {
  const ScopedFd fd(openat(root_, path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return -errno;
  const Told change(*this, [&] {
    return engine_->change_data(id(path), fd.get(), {offset, length});
  });
  if (change.error() != 0) return -change.error();
  return changes().allocate(fd.get(), mode, offset, length);
}

int DirectVolume::copy_range(const std::string& from, uint64_t from_offset, const std::string& to,
                             uint64_t to_offset, uint64_t length) {
  const ScopedFd in(openat(root_, from.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  const ScopedFd out(openat(root_, to.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (in.get() < 0 || out.get() < 0) return -errno;
  const Told change(*this, [&] {
    return engine_->change_data(id(to), out.get(), {to_offset, length});
  });
  if (change.error() != 0) return -change.error();
  if (options_.volume_disk != nullptr) {
    std::string data(length, '\0');
    const ssize_t there = changes().pread_full(in.get(), data.data(), length, from_offset);
    if (there < 0) return static_cast<int>(there);
    return changes().pwrite_full(out.get(), data.data(), static_cast<size_t>(there), to_offset);
  }
  auto in_offset = static_cast<off64_t>(from_offset);
  auto out_offset = static_cast<off64_t>(to_offset);
  const ssize_t n =
      copy_file_range(in.get(), &in_offset, out.get(), &out_offset, static_cast<size_t>(length), 0);
  return n < 0 ? -errno : 0;
}

int DirectVolume::create(const std::string& path, mode_t mode) {
  const auto [fd, name] = parent(path);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  const Told change(*this, [&] { return engine_->change_names(names); });
  if (change.error() != 0) return -change.error();
  const ScopedFd file(changes().open(fd, name.c_str(), O_CREAT | O_EXCL | O_RDWR, mode));
  if (file.get() < 0) return file.get();
  return changes().chmod(file.get(), mode);  // whatever the umask of who runs the test
}

int DirectVolume::make(const std::string& path, std::string_view data, mode_t mode) {
  const int r = create(path, mode);
  if (r < 0 || data.empty()) return r;
  return write(path, 0, data);
}

int DirectVolume::mkdir(const std::string& path, mode_t mode) {
  const auto [fd, name] = parent(path);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  const Told change(*this, [&] { return engine_->change_names(names); });
  return change.error() != 0 ? -change.error() : changes().mkdir(fd, name.c_str(), mode);
}

int DirectVolume::mknod(const std::string& path, mode_t mode, dev_t device) {
  const auto [fd, name] = parent(path);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  const Told change(*this, [&] { return engine_->change_names(names); });
  return change.error() != 0 ? -change.error() : changes().mknod(fd, name.c_str(), mode, device);
}

int DirectVolume::symlink(const std::string& target, const std::string& path) {
  const auto [fd, name] = parent(path);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  const Told change(*this, [&] { return engine_->change_names(names); });
  return change.error() != 0 ? -change.error()
                             : changes().symlink(target.c_str(), fd, name.c_str());
}

int DirectVolume::link(const std::string& from, const std::string& to) {
  const auto [fd, name] = parent(to);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  names.objects[0] = id(from);
  const ScopedFd linked(openat(root_, from.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (linked.get() < 0) return -errno;
  const Told change(*this, [&] { return engine_->change_names(names); });
  return change.error() != 0 ? -change.error() : changes().link(linked.get(), fd, name.c_str());
}

int DirectVolume::tmpfile(const std::string& directory) {
  return result(openat(root_, directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
}

int DirectVolume::link_fd(int file, const std::string& to) {
  const auto [fd, name] = parent(to);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  names.objects[0] = id_of_fd(*this, file);
  const Told change(*this, [&] { return engine_->change_names(names); });
  if (change.error() != 0) return -change.error();
  return changes().link(file, fd, name.c_str());
}

int DirectVolume::unlink(const std::string& path) {
  const auto [fd, name] = parent(path);
  if (fd < 0) return fd;
  const ScopedFd closed(fd);
  struct stat st {};
  if (fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return -errno;
  NamesChange names;
  names.parents[0] = id_of_fd(*this, fd);
  names.names[0] = name;
  names.objects[0] = id_of(st);
  names.victim = id_of(st);
  names.victim_dir = fd;
  names.victim_name = name;
  const Told change(*this, [&] { return engine_->change_names(names); });
  if (change.error() != 0) return -change.error();
  return changes().unlink(fd, name.c_str(), S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
}

int DirectVolume::rename(const std::string& from, const std::string& to, unsigned flags) {
  const auto [from_fd, from_name] = parent(from);
  if (from_fd < 0) return from_fd;
  const ScopedFd closed_from(from_fd);
  const auto [to_fd, to_name] = parent(to);
  if (to_fd < 0) return to_fd;
  const ScopedFd closed_to(to_fd);
  NamesChange names;
  names.parents[0] = id_of_fd(*this, from_fd);
  names.parents[1] = id_of_fd(*this, to_fd);
  names.names[0] = from_name;
  names.names[1] = to_name;
  names.objects[0] = id(from);
  names.objects[1] = id(to);
  // Renaming over another name of the same object does nothing.
  if (flags == 0 && names.objects[1] != 0 && names.objects[1] != names.objects[0]) {
    names.victim = names.objects[1];
    names.victim_dir = to_fd;
    names.victim_name = to_name;
  }
  const Told change(*this, [&] { return engine_->change_names(names); });
  if (change.error() != 0) return -change.error();
  return changes().rename(from_fd, from_name.c_str(), to_fd, to_name.c_str(), flags);
}

template <class Call>
int DirectVolume::change_attributes(const std::string& path, Call call) {
  const ScopedFd fd(openat(root_, path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return -errno;
  const Told change(*this, [&] { return engine_->change_attributes(id(path)); });
  return change.error() != 0 ? -change.error() : call(fd.get());
}

int DirectVolume::chmod(const std::string& path, mode_t mode) {
  return change_attributes(path, [&](int fd) { return changes().chmod(fd, mode); });
}

int DirectVolume::chown(const std::string& path, uid_t uid, gid_t gid) {
  return change_attributes(path, [&](int fd) { return changes().chown(fd, uid, gid); });
}

int DirectVolume::utimes(const std::string& path, const timespec times[2]) {
  return change_attributes(path, [&](int fd) { return changes().utimes(fd, times); });
}

int DirectVolume::set_xattr(const std::string& path, const std::string& name,
                            const std::string& value) {
  return change_attributes(
      path, [&](int fd) { return changes().set_xattr(fd, name.c_str(), value); });
}

int DirectVolume::remove_xattr(const std::string& path, const std::string& name) {
  return change_attributes(path, [&](int fd) { return changes().remove_xattr(fd, name.c_str()); });
}

int DirectVolume::sync(const std::string& path) {
  const ScopedFd fd(openat(root_, path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  return fd.get() < 0 ? -errno : changes().sync(fd.get());
}

CreateOptions DirectVolume::options(const std::string& name, std::vector<std::string> paths) const {
  CreateOptions options;
  options.name = name;
  options.paths = std::move(paths);
  return options;
}

bool DirectVolume::drain(const std::string& name) {
  for (int i = 0; i < 100000; ++i) {
    if (!engine_->step(name)) return true;
  }
  return false;
}

SessionStatus DirectVolume::status(const std::string& name) const {
  auto status = engine_->status(name);
  return status ? *status : SessionStatus{};
}

std::string DirectVolume::clone_difference(const std::string& name, const Tree& expected,
                                           const std::vector<std::string>& selected) {
  auto clone = engine_->clone(name);
  if (!clone) return "no clone: " + clone.error().message;
  for (const auto& [path, object] : expected) {
    struct stat st {};
    look_up(**clone, path, &st);
  }
  TreeView view;
  view.root = (*clone)->root();
  view.present = [&](struct stat* st) {
    const uint64_t ino = st->st_ino;
    (*clone)->present(st);
    if ((*clone)->present_ino(ino) != st->st_ino) st->st_ino = 0;  // then identities clash
  };
  view.read = [&](int fd, const struct stat& shown) -> std::string {
    struct stat st {};
    fstat(fd, &st);
    auto file = engine_->open_clone_file(*clone, fd, st.st_ino);
    if (!file) return "cannot open: " + file.error().message;
    return read_clone_file(**file, static_cast<uint64_t>(shown.st_size));
  };
  const std::string found = difference(expected, selected, view);
  return found.empty() ? damage(name) : found;
}

std::string DirectVolume::damage(const std::string& name) {
  const auto report = engine_->verify(name);
  if (!report) return "not verified: " + report.error().message;
  std::string text;
  for (const auto& f : report->findings) {
    text += f.path + " " + std::to_string(f.range.offset) + "+" + std::to_string(f.range.length) +
            " " + f.what + "\n";
  }
  return text;
}

std::string DirectVolume::plain_difference(const std::string& name, const Tree& expected,
                                           const std::vector<std::string>& selected) {
  const SessionStatus there = status(name);
  // The next generation is prepared elsewhere.
  const std::string destination = there.previous_at.tv_sec == 0
                                      ? there.destination
                                      : engine_->pool_path() + "/clones/" + name;
  const ScopedFd root(::open(destination.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) return "no destination: " + destination;
  TreeView view;
  view.root = root.get();
  view.ctime = false;  // nothing can give a file an old ctime
  return difference(expected, selected, view);
}

DirectVolume::OpenClone::OpenClone(OpenClone&& other) noexcept
    : clone(std::move(other.clone)),
      use(std::move(other.use)),
      fd(other.fd),
      ino(other.ino),
      file(std::move(other.file)) {
  other.fd = -1;
}

DirectVolume::OpenClone::~OpenClone() {
  file.reset();
  if (fd >= 0) ::close(fd);
}

DirectVolume::OpenClone DirectVolume::open_clone(const std::string& name, const std::string& path,
                                                 int flags) {
  OpenClone open;
  auto clone = engine_->clone(name);
  if (!clone) return open;
  open.clone = *clone;
  open.use = open.clone->use();
  struct stat st {};
  look_up(*open.clone, path, &st);
  open.fd = openat(open.clone->root(), path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
  if (open.fd < 0) return open;
  fstat(open.fd, &st);
  open.ino = st.st_ino;
  auto file = engine_->open_clone_file(open.clone, open.fd, st.st_ino);
  if (file) open.file = std::move(*file);
  return open;
}

bool look_up(Clone& clone, const std::string& path, struct stat* st) {
  const ScopedFd fd(openat(clone.root(), path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0 || fstat(fd.get(), st) != 0) return false;
  std::string handle;
  if (posix_disk().handle_of(fd.get(), &handle) == 0) clone.seen(st->st_ino, handle);
  return true;
}

std::string read_clone_file(CloneFile& file, uint64_t size) {
  std::string data(size + 1, '\0');  // one more: it must end where it should
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = file.read(data.data() + done, data.size() - done, done);
    if (n < 0) return "error " + std::to_string(-n);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  data.resize(done);
  return data;
}

Seeds seeds(uint64_t runs, uint64_t long_runs) {
  const auto number = [](const char* name) -> std::optional<uint64_t> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return std::strtoull(value, nullptr, 10);
  };
  if (const auto seed = number("CLONEFS_TEST_SEED")) {
    return {*seed, number("CLONEFS_TEST_SEEDS").value_or(1)};
  }
  if (const auto count = number("CLONEFS_TEST_SEEDS")) return {1, *count};
  return {1, std::getenv("CLONEFS_LONG") != nullptr ? long_runs : runs};
}

}  // namespace clonefs::test
