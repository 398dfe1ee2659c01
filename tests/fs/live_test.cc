// What applications do with files, through the live mount, with the writeback cache and without.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "fs/open_files.h"
#include "fs/unique_fd.h"
#include "tests/fs/live_mount.h"

namespace clonefs::testing {
namespace {

namespace stdfs = std::filesystem;

struct Mode {
  const char* name;
  bool writeback;
  bool handles;
  bool old_kernel = false;
};
void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }
constexpr Mode kModes[] = {
    {"Writeback", true, true}, {"Writethrough", false, true}, {"NoHandles", true, false},
    {"OldKernel", true, true, true}};

class Live : public ::testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    if (const std::string why = LiveMount::unavailable(); !why.empty()) GTEST_SKIP() << why;
    LiveMount::Options options;
    options.writeback = GetParam().writeback;
    options.handles = GetParam().handles;
    options.old_kernel = GetParam().old_kernel;
    mount_ = std::make_unique<LiveMount>(options);
  }
  std::string at(const std::string& name) const { return mount_->at(name); }
  std::string beneath(const std::string& name) const { return mount_->beneath(name); }
  int open_at(const std::string& name, int flags, mode_t mode = 0644) const {
    return open(at(name).c_str(), flags | O_CLOEXEC, mode);
  }
  static struct stat stat_of(const std::string& path) {
    struct stat st {};
    EXPECT_EQ(lstat(path.c_str(), &st), 0) << path << ": " << strerror(errno);
    return st;
  }
  size_t daemon_descriptors() const {
    const stdfs::path fds = "/proc/" + std::to_string(mount_->daemon()) + "/fd";
    return static_cast<size_t>(
        std::distance(stdfs::directory_iterator(fds), stdfs::directory_iterator()));
  }

  std::unique_ptr<LiveMount> mount_;
};

INSTANTIATE_TEST_SUITE_P(Cache, Live, ::testing::ValuesIn(kModes),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

// Runs ACT in a child with the ids; its result is the child's exit code.
int as_user(uid_t uid, gid_t gid, const std::vector<gid_t>& groups, mode_t mask,
            const std::function<int()>& act) {
  const pid_t child = fork();
  if (child == 0) {
    if (setgroups(groups.size(), groups.data()) != 0 || setgid(gid) != 0 || setuid(uid) != 0) {
      _exit(100);
    }
    umask(mask);
    _exit(act());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_P(Live, DataComesBackAndLiesInTheSourceAfterFsync) {
  const int fd = open_at("f", O_RDWR | O_CREAT | O_EXCL);
  ASSERT_GE(fd, 0);
  const std::string data(300000, 'x');
  ASSERT_EQ(pwrite(fd, data.data(), data.size(), 12345), static_cast<ssize_t>(data.size()));
  ASSERT_EQ(fsync(fd), 0);
  EXPECT_EQ(read_file(beneath("f")), std::string(12345, '\0') + data);
  close(fd);
  EXPECT_EQ(read_file(at("f")), read_file(beneath("f")));
}

TEST_P(Live, SaysWhatTheKernelLacks) {
  stat_of(mount_->path());
  const std::string said = mount_->command("lacks");
  for (const char* name : {"HANDLE_KILLPRIV_V2", "NO_EXPORT_SUPPORT", "DIRECT_IO_ALLOW_MMAP"}) {
    if (GetParam().old_kernel) {
      EXPECT_NE(said.find(name), std::string::npos) << said;
    } else if (std::string(name) == "HANDLE_KILLPRIV_V2") {  // there since Linux 5.12
      EXPECT_EQ(said.find(name), std::string::npos) << said;
    }
  }
}

TEST_P(Live, TheSourceHasTheTimesThatApplicationsSaw) {
  for (int i = 0; i < 50; ++i) {  // some of them within one tick of the clock
    const std::string name = "f" + std::to_string(i);
    const int fd = open_at(name, O_RDWR | O_CREAT | O_EXCL);
    ASSERT_EQ(write(fd, "abc", 3), 3);
    ASSERT_EQ(fsync(fd), 0);
    const struct stat through = stat_of(at(name));
    const struct stat real = stat_of(beneath(name));
    EXPECT_EQ(through.st_mtim.tv_sec, real.st_mtim.tv_sec);
    EXPECT_EQ(through.st_mtim.tv_nsec, real.st_mtim.tv_nsec) << i;
    close(fd);
  }
}

TEST_P(Live, AppendsOfSeveralHandlesFollowEachOther) {
  const int a = open_at("log", O_WRONLY | O_CREAT | O_APPEND);
  const int b = open_at("log", O_WRONLY | O_APPEND);
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(write(i % 2 == 0 ? a : b, "0123456789", 10), 10);
  }
  close(a);
  close(b);
  std::string expected;
  for (int i = 0; i < 100; ++i) expected += "0123456789";
  EXPECT_EQ(read_file(at("log")), expected);
  EXPECT_EQ(read_file(beneath("log")), expected);
}

TEST_P(Live, WriteOnlyHandlesCanWriteParts) {
  write_file(at("f"), std::string(10000, 'a'));
  const int fd = open_at("f", O_WRONLY);
  ASSERT_EQ(pwrite(fd, "bb", 2, 5001), 2);
  close(fd);
  std::string expected(10000, 'a');
  expected.replace(5001, 2, "bb");
  EXPECT_EQ(read_file(beneath("f")), expected);
}

TEST_P(Live, DirectAndMappedAndBufferedSeeTheSame) {
  const int fd = open_at("f", O_RDWR | O_CREAT);
  ASSERT_EQ(ftruncate(fd, 1 << 20), 0);
  char* map = static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_NE(map, MAP_FAILED);
  memcpy(map + 70000, "mapped", 6);
  char buffer[6];
  ASSERT_EQ(pread(fd, buffer, 6, 70000), 6);
  EXPECT_EQ(std::string(buffer, 6), "mapped");
  ASSERT_EQ(pwrite(fd, "buffer", 6, 4096), 6);
  EXPECT_EQ(memcmp(map + 4096, "buffer", 6), 0);
  ASSERT_EQ(msync(map, 1 << 20, MS_SYNC), 0);
  const int direct = open_at("f", O_RDWR | O_DIRECT);
  ASSERT_GE(direct, 0);
  char* block = static_cast<char*>(aligned_alloc(4096, 4096));
  ASSERT_EQ(pread(direct, block, 4096, 4096), 4096);
  EXPECT_EQ(std::string(block, 6), "buffer");
  memset(block, 'D', 4096);
  ASSERT_EQ(pwrite(direct, block, 4096, 8192), 4096);
  EXPECT_EQ(map[8192], 'D');
  free(block);
  munmap(map, 1 << 20);
  close(direct);
  close(fd);
  EXPECT_EQ(read_file(beneath("f")).substr(70000, 6), "mapped");
}

TEST_P(Live, DirectWritesMoveTheMtime) {
  write_file(at("file"), std::string(65536, 'a'));
  const timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, at("file").c_str(), old, 0), 0);
  const UniqueFd fd(open_at("file", O_RDWR | O_DIRECT));
  alignas(4096) static char block[4096];
  for (const off_t offset : {4096, 65536}) {  // within, and at the end
    const time_t before = stat_of(at("file")).st_mtim.tv_sec;
    timespec now{};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    ASSERT_EQ(pwrite(fd.get(), block, sizeof block, offset), 4096);
    const timespec after = stat_of(at("file")).st_mtim;
    EXPECT_GE(after.tv_sec, now.tv_sec) << before;
  }
  EXPECT_EQ(stat_of(at("file")).st_size, 65536 + 4096);
}

// Pages of the file that are in the page cache.
size_t cached_pages(int fd, size_t size) {
  void* map = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  EXPECT_NE(map, MAP_FAILED);
  std::vector<unsigned char> state((size + 4095) / 4096);
  EXPECT_EQ(mincore(map, size, state.data()), 0);
  munmap(map, size);
  return static_cast<size_t>(std::count_if(state.begin(), state.end(), [](auto s) { return s & 1; }));
}

TEST_P(Live, LargeReadsAreCachedOnce) {
  constexpr size_t kSize = size_t{8} << 20;
  write_file(beneath("file"), std::string(kSize, 'x'));
  const UniqueFd source(open(beneath("file").c_str(), O_RDWR | O_CLOEXEC));
  char byte = 0;
  const iovec one{&byte, 1};
  if (preadv2(source.get(), &one, 1, 0, 0x80) != 1) GTEST_SKIP() << "no RWF_DONTCACHE here";
  ASSERT_EQ(fsync(source.get()), 0);
  ASSERT_EQ(posix_fadvise(source.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  if (cached_pages(source.get(), kSize) > 0) GTEST_SKIP() << "a source in memory";
  EXPECT_EQ(read_file(at("file")), std::string(kSize, 'x'));
  EXPECT_LT(cached_pages(source.get(), kSize), kSize / 4096 / 4);
  const UniqueFd seen(open_at("file", O_RDONLY));
  EXPECT_EQ(cached_pages(seen.get(), kSize), kSize / 4096);
}

// All ways at the same time, as one page cache has it.
TEST_P(Live, DirectAndMappedAndBufferedMixAtRandom) {
  constexpr size_t kBlock = 4096, kBlocks = 64;
  write_file(at("file"), std::string(kBlock * kBlocks, '\0'));
  const UniqueFd direct(open_at("file", O_RDWR | O_DIRECT)), cached(open_at("file", O_RDWR));
  std::vector<char*> maps;
  for (const int fd : {direct.get(), cached.get()}) {
    void* map = mmap(nullptr, kBlock * kBlocks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(map, MAP_FAILED) << strerror(errno);
    maps.push_back(static_cast<char*>(map));
  }
  alignas(4096) static char block[kBlock];
  std::vector<char> model(kBlocks, '\0');
  std::mt19937 random(3);
  for (int turn = 0; turn < 3000; ++turn) {
    size_t at_block = random() % kBlocks;
    const auto offset = static_cast<off_t>(at_block * kBlock);
    const char value = static_cast<char>(random());
    memset(block, value, kBlock);
    switch (const unsigned way = random() % 4) {
      case 0: ASSERT_EQ(pwrite(direct.get(), block, kBlock, offset), 4096); break;
      case 1: ASSERT_EQ(pwrite(cached.get(), block, kBlock, offset), 4096); break;
      default: memset(maps[way - 2] + offset, value, kBlock);
    }
    model[at_block] = value;
    at_block = random() % kBlocks;
    const auto look = static_cast<off_t>(at_block * kBlock);
    const unsigned way = random() % 4;
    switch (way) {
      case 0: ASSERT_EQ(pread(direct.get(), block, kBlock, look), 4096); break;
      case 1: ASSERT_EQ(pread(cached.get(), block, kBlock, look), 4096); break;
      default: memcpy(block, maps[way - 2] + look, kBlock);
    }
    ASSERT_EQ(std::string(block, kBlock), std::string(kBlock, model[at_block]))
        << "turn " << turn << ", way " << way;
  }
  for (char* map : maps) munmap(map, kBlock * kBlocks);
}

TEST_P(Live, PrivateMappingsStayPrivate) {
  write_file(at("f"), std::string(8192, 'a'));
  const int fd = open_at("f", O_RDONLY);
  char* map = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  ASSERT_NE(map, MAP_FAILED);
  map[0] = 'b';
  munmap(map, 8192);
  close(fd);
  EXPECT_EQ(read_file(at("f")), std::string(8192, 'a'));
}

TEST_P(Live, OpenTruncates) {
  write_file(at("f"), "long content");
  const int fd = open_at("f", O_WRONLY | O_TRUNC);
  ASSERT_EQ(write(fd, "s", 1), 1);
  close(fd);
  EXPECT_EQ(read_file(at("f")), "s");
  EXPECT_EQ(read_file(beneath("f")), "s");
}

TEST_P(Live, TmpfileIsLinkedOrVanishes) {
  const int fd = open(mount_->path().c_str(), O_TMPFILE | O_RDWR, 0600);
  if (fd < 0 && errno == EOPNOTSUPP) GTEST_SKIP() << "no O_TMPFILE here";
  ASSERT_GE(fd, 0) << strerror(errno);
  ASSERT_EQ(write(fd, "data", 4), 4);
  EXPECT_TRUE(stdfs::is_empty(mount_->path()));
  ASSERT_EQ(linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), AT_FDCWD,
                   at("named").c_str(), AT_SYMLINK_FOLLOW),
            0);
  close(fd);
  EXPECT_EQ(read_file(at("named")), "data");
  EXPECT_EQ(stat_of(at("named")).st_nlink, 1u);
}

// Holes are told where the source knows them, and data that only the kernel has is never a hole.
TEST_P(Live, SeekNeverCallsDataAHole) {
  const int fd = open_at("f", O_RDWR | O_CREAT);
  ASSERT_EQ(ftruncate(fd, 4 << 20), 0);
  ASSERT_EQ(pwrite(fd, "data", 4, 3 << 20), 4);
  const off_t data = lseek(fd, 0, SEEK_DATA);
  ASSERT_GE(data, 0) << strerror(errno);
  EXPECT_LE(data, 3 << 20);
  EXPECT_GT(lseek(fd, 3 << 20, SEEK_HOLE), 3 << 20);
  EXPECT_EQ(lseek(fd, 4 << 20, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
  ASSERT_EQ(pwrite(fd, "more", 4, 6 << 20), 4);  // beyond the size that the source has
  EXPECT_LE(lseek(fd, 5 << 20, SEEK_DATA), 6 << 20);
  close(fd);
  const int reader = open_at("f", O_RDONLY);
  // The daemon hears a moment after close that the writer has gone.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (lseek(reader, 0, SEEK_HOLE) != 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(lseek(reader, 0, SEEK_HOLE), 0);
  EXPECT_EQ(lseek(reader, 0, SEEK_DATA), 3 << 20);
  close(reader);
}

TEST_P(Live, FallocateModes) {
  const int fd = open_at("f", O_RDWR | O_CREAT);
  ASSERT_EQ(fallocate(fd, 0, 0, 100000), 0);
  EXPECT_EQ(stat_of(at("f")).st_size, 100000);
  ASSERT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
  EXPECT_EQ(stat_of(at("f")).st_size, 100000);
  const std::string data(100000, 'z');
  ASSERT_EQ(pwrite(fd, data.data(), data.size(), 0), 100000);
  ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192), 0);
  if (fallocate(fd, FALLOC_FL_ZERO_RANGE, 50000, 100) != 0) {
    ASSERT_EQ(errno, EOPNOTSUPP);  // the source's file system has none
    ASSERT_EQ(pwrite(fd, std::string(100, '\0').data(), 100, 50000), 100);
  }
  close(fd);
  std::string expected = data;
  expected.replace(4096, 8192, 8192, '\0');
  expected.replace(50000, 100, 100, '\0');
  EXPECT_EQ(read_file(at("f")), expected);
  EXPECT_EQ(read_file(beneath("f")), expected);
}

TEST_P(Live, CopyFileRangeTakesWhatIsNotWrittenBackYet) {
  const int from = open_at("from", O_RDWR | O_CREAT);
  const int to = open_at("to", O_RDWR | O_CREAT);
  const std::string data(200000, 'q');
  ASSERT_EQ(write(from, data.data(), data.size()), 200000);
  off_t in = 1000, out = 7;
  ASSERT_EQ(copy_file_range(from, &in, to, &out, 100000, 0), 100000) << strerror(errno);
  close(from);
  close(to);
  EXPECT_EQ(read_file(at("to")), std::string(7, '\0') + std::string(100000, 'q'));
}

TEST_P(Live, FilesAreAsLargeAsTheSourceAdmits) {
  const int fd = open_at("f", O_RDWR | O_CREAT);
  const int real = open(beneath("g").c_str(), O_RDWR | O_CREAT, 0644);
  for (const off_t size : {off_t{1} << 32, off_t{1} << 42, off_t{1} << 50, INT64_MAX - 4096}) {
    const bool admitted = ftruncate(real, size) == 0;
    EXPECT_EQ(ftruncate(fd, size) == 0, admitted) << size;
    if (admitted) {
      EXPECT_EQ(stat_of(at("f")).st_size, size);
    }
  }
  close(real);
  close(fd);
}

TEST_P(Live, HardLinksAreOneFile) {
  write_file(at("a"), "1");
  ASSERT_EQ(link(at("a").c_str(), at("b").c_str()), 0);
  EXPECT_EQ(stat_of(at("a")).st_nlink, 2u);
  EXPECT_EQ(stat_of(at("a")).st_ino, stat_of(at("b")).st_ino);
  ASSERT_EQ(chmod(at("a").c_str(), 0600), 0);
  EXPECT_EQ(stat_of(at("b")).st_mode & 07777, 0600u);
  const int fd = open_at("b", O_WRONLY);
  ASSERT_EQ(pwrite(fd, "22", 2, 0), 2);
  close(fd);
  EXPECT_EQ(read_file(at("a")), "22");
  write_file(at("c"), "3");
  ASSERT_EQ(rename(at("c").c_str(), at("a").c_str()), 0);
  EXPECT_EQ(stat_of(at("b")).st_nlink, 1u);
  EXPECT_EQ(read_file(at("a")), "3");
}

TEST_P(Live, RenameFlags) {
  write_file(at("a"), "a");
  write_file(at("b"), "b");
  EXPECT_EQ(renameat2(AT_FDCWD, at("a").c_str(), AT_FDCWD, at("b").c_str(), RENAME_NOREPLACE), -1);
  EXPECT_EQ(errno, EEXIST);
  ASSERT_EQ(renameat2(AT_FDCWD, at("a").c_str(), AT_FDCWD, at("b").c_str(), RENAME_EXCHANGE), 0);
  EXPECT_EQ(read_file(at("a")), "b");
  ASSERT_EQ(renameat2(AT_FDCWD, at("a").c_str(), AT_FDCWD, at("n").c_str(), RENAME_NOREPLACE), 0);
  EXPECT_EQ(read_file(at("n")), "b");
}

TEST_P(Live, DeletedObjectsLiveWhileTheyAreHeld) {
  write_file(at("f"), "content");
  const int held = open_at("f", O_RDWR);
  const int path_only = open_at("f", O_PATH);
  ASSERT_EQ(unlink(at("f").c_str()), 0);
  struct stat st {};
  ASSERT_EQ(fstat(held, &st), 0);
  EXPECT_EQ(st.st_nlink, 0u);
  ASSERT_EQ(pwrite(held, "C", 1, 0), 1);
  ASSERT_EQ(fchmod(held, 0600), 0);
  close(held);
  write_file(at("f"), "another, perhaps with the same inode number");
  ASSERT_EQ(fstat(path_only, &st), 0) << strerror(errno);
  EXPECT_EQ(st.st_nlink, 0u);
  EXPECT_EQ(read_file("/proc/self/fd/" + std::to_string(path_only)), "Content");
  close(path_only);

  ASSERT_EQ(mkdir(at("d").c_str(), 0755), 0);
  const int dir = open_at("d", O_PATH | O_DIRECTORY);
  ASSERT_EQ(rmdir(at("d").c_str()), 0);
  EXPECT_EQ(openat(dir, "x", O_CREAT | O_WRONLY, 0644), -1);
  EXPECT_EQ(errno, ENOENT);
  ASSERT_EQ(fstat(dir, &st), 0);
  close(dir);
}

TEST_P(Live, NewFilesWithOldInodeNumbersAreNew) {
  for (int i = 0; i < 50; ++i) {
    write_file(at("f"), std::to_string(i));
    const int path_only = open_at("f", O_PATH);
    ASSERT_EQ(unlink(at("f").c_str()), 0);
    write_file(at("f"), "new" + std::to_string(i));
    EXPECT_EQ(read_file(at("f")), "new" + std::to_string(i));
    close(path_only);
    ASSERT_EQ(unlink(at("f").c_str()), 0);
  }
}

TEST_P(Live, SpecialFiles) {
  ASSERT_EQ(mkfifo(at("fifo").c_str(), 0640), 0);
  EXPECT_TRUE(S_ISFIFO(stat_of(beneath("fifo")).st_mode));
  const int reader = open_at("fifo", O_RDONLY | O_NONBLOCK);
  const int writer = open_at("fifo", O_WRONLY);
  ASSERT_EQ(write(writer, "through", 7), 7);
  char buffer[8];
  EXPECT_EQ(read(reader, buffer, sizeof buffer), 7);
  close(reader);
  close(writer);

  ASSERT_EQ(chdir(mount_->path().c_str()), 0);  // socket names are short
  const int server = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, "socket");
  ASSERT_EQ(bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(server, 1), 0);
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(client);
  close(server);
  ASSERT_EQ(chdir("/"), 0);

  const std::string target(1000, 't');  // XFS admits 1023
  ASSERT_EQ(symlink(target.c_str(), at("link").c_str()), 0);
  EXPECT_EQ(stdfs::read_symlink(at("link")).string(), target);
  EXPECT_EQ(stat_of(at("link")).st_size, 1000);

  if (geteuid() != 0) return;
  ASSERT_EQ(mknod(at("null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  EXPECT_EQ(stat_of(beneath("null")).st_rdev, makedev(1, 3));
  const int null = open_at("null", O_RDWR);
  EXPECT_EQ(read(null, buffer, 1), 0);
  close(null);
}

TEST_P(Live, LocksHoldBetweenProcesses) {
  write_file(at("f"), "x");
  const int fd = open_at("f", O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(fd, F_SETLK, &lock), 0);
  const pid_t child = fork();
  if (child == 0) {
    const int other = open_at("f", O_RDWR);
    struct flock mine {};
    mine.l_type = F_WRLCK;
    const bool refused = flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK &&
                         fcntl(other, F_SETLK, &mine) == -1;
    _exit(refused ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  close(fd);
}

TEST_P(Live, Xattrs) {
  write_file(at("f"), "x");
  const std::string f = at("f");
  ASSERT_EQ(setxattr(f.c_str(), "user.a", "value", 5, XATTR_CREATE), 0);
  EXPECT_EQ(setxattr(f.c_str(), "user.a", "other", 5, XATTR_CREATE), -1);
  EXPECT_EQ(errno, EEXIST);
  char buffer[100];
  EXPECT_EQ(getxattr(f.c_str(), "user.a", buffer, sizeof buffer), 5);
  EXPECT_EQ(getxattr(f.c_str(), "user.a", buffer, 2), -1);
  EXPECT_EQ(errno, ERANGE);
  EXPECT_EQ(getxattr(f.c_str(), "user.none", buffer, sizeof buffer), -1);
  EXPECT_EQ(errno, ENODATA);
  EXPECT_EQ(listxattr(f.c_str(), buffer, sizeof buffer), 7);
  EXPECT_EQ(getxattr(beneath("f").c_str(), "user.a", buffer, sizeof buffer), 5);
  ASSERT_EQ(removexattr(f.c_str(), "user.a"), 0);
  EXPECT_EQ(listxattr(f.c_str(), buffer, sizeof buffer), 0);
}

TEST_P(Live, NamesOfAnyBytes) {
  std::string odd = "a\x01\xff\n\"' b";
  const std::string longest(255, 'n');
  for (const std::string& name : {odd, longest, std::string("\xc3\x28"), std::string("...")}) {
    write_file(at(name), name);
    EXPECT_EQ(read_file(at(name)), name);
    EXPECT_TRUE(stdfs::exists(beneath(name)));
  }
  EXPECT_EQ(open_at(std::string(256, 'n'), O_CREAT | O_WRONLY), -1);
  EXPECT_EQ(errno, ENAMETOOLONG);
}

TEST_P(Live, LargeDirectories) {
  if (GetParam().old_kernel) GTEST_SKIP() << "a request an entry takes its time";
  constexpr int kFiles = 100000;
  ASSERT_EQ(mkdir(at("d").c_str(), 0755), 0);
  const int real = open(beneath("d").c_str(), O_PATH);  // quicker, and seen: nobody has looked yet
  for (int i = 0; i < kFiles; ++i) {
    const int fd = openat(real, ("name" + std::to_string(i)).c_str(), O_CREAT | O_WRONLY, 0644);
    ASSERT_GE(fd, 0);
    close(fd);
  }
  close(real);
  const size_t before = daemon_descriptors();
  for (int round = 0; round < 2; ++round) {  // the second from the kernel's cache
    DIR* dir = opendir(at("d").c_str());
    ASSERT_NE(dir, nullptr);
    std::set<std::string> names;
    std::vector<std::pair<long, std::string>> marks;
    size_t count = 0;
    for (;;) {
      const long position = telldir(dir);
      const dirent* entry = readdir(dir);
      if (entry == nullptr) break;
      if (count % 9973 == 0) marks.emplace_back(position, entry->d_name);
      names.insert(entry->d_name);
      ++count;
    }
    EXPECT_EQ(count, kFiles + 2u);
    EXPECT_EQ(names.size(), count);
    for (auto mark = marks.rbegin(); mark != marks.rend(); ++mark) {
      seekdir(dir, mark->first);
      const dirent* entry = readdir(dir);
      ASSERT_NE(entry, nullptr);
      EXPECT_EQ(entry->d_name, mark->second);
    }
    closedir(dir);
  }
  // No descriptor for each of them.
  for (int i = 0; i < kFiles; i += 10) stat_of(at("d/name" + std::to_string(i)));
  if (geteuid() == 0) {
    EXPECT_LT(daemon_descriptors(), before + 100);
  }
}

TEST_P(Live, ListingsShowWhatChanged) {
  const auto names = [&] {
    std::set<std::string> result;
    for (const auto& entry : stdfs::directory_iterator(mount_->path())) {
      result.insert(entry.path().filename());
    }
    return result;
  };
  using Names = std::set<std::string>;
  EXPECT_EQ(names(), Names{});
  write_file(at("a"), "");
  EXPECT_EQ(names(), Names{"a"});
  ASSERT_EQ(rename(at("a").c_str(), at("b").c_str()), 0);
  EXPECT_EQ(names(), Names{"b"});
  EXPECT_FALSE(stdfs::exists(at("a")));
  ASSERT_EQ(unlink(at("b").c_str()), 0);
  EXPECT_EQ(names(), Names{});
}

// More objects than descriptors: each is still reached after it was moved about.
TEST_P(Live, ManyObjectsAreReachedWhereverTheyWent) {
  constexpr int kCount = 600;
  ASSERT_EQ(mkdir(at("a").c_str(), 0755), 0);
  ASSERT_EQ(mkdir(at("b").c_str(), 0755), 0);
  std::vector<int> held;
  for (int i = 0; i < kCount; ++i) {
    const std::string n = std::to_string(i);
    write_file(at("a/" + n), n);
    held.push_back(open_at("a/" + n, O_PATH));
    ASSERT_GE(held.back(), 0) << strerror(errno);
  }
  ASSERT_EQ(rename(at("a").c_str(), at("c").c_str()), 0);
  for (int i = 0; i < kCount; ++i) {
    const std::string n = std::to_string(i);
    const std::string from = at("c/" + n), to = at("b/" + n);
    switch (i % 5) {
      case 0:
        ASSERT_EQ(rename(from.c_str(), to.c_str()), 0);
        break;
      case 1:
        ASSERT_EQ(link(from.c_str(), to.c_str()), 0);
        ASSERT_EQ(unlink(from.c_str()), 0);
        break;
      case 2:
        ASSERT_EQ(unlink(from.c_str()), 0);
        break;
      case 3:
        write_file(to, "other");
        ASSERT_EQ(renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE), 0);
        break;
      default:
        write_file(at("b/over"), "x");
        ASSERT_EQ(link(from.c_str(), to.c_str()), 0);
        ASSERT_EQ(rename(at("b/over").c_str(), from.c_str()), 0);
        break;
    }
  }
  for (int i = 0; i < kCount; ++i) {
    struct stat st {};
    ASSERT_EQ(fstat(held[static_cast<size_t>(i)], &st), 0);
    EXPECT_EQ(st.st_nlink, i % 5 == 2 ? 0u : 1u) << i;
    EXPECT_EQ(read_file("/proc/self/fd/" + std::to_string(held[static_cast<size_t>(i)])),
              std::to_string(i));
    close(held[static_cast<size_t>(i)]);
    if (i % 5 != 2) {
      EXPECT_EQ(read_file(at("b/" + std::to_string(i))), std::to_string(i));
    }
  }
}

TEST_P(Live, ThePoolIsOutOfReach) {
  ASSERT_TRUE(stdfs::exists(beneath(".clonefs")));
  EXPECT_TRUE(stdfs::is_empty(mount_->path()));
  EXPECT_FALSE(stdfs::exists(at(".clonefs")));  // nobody serves control files here
  EXPECT_EQ(mkdir(at(".clonefs").c_str(), 0755), -1);
  EXPECT_EQ(errno, EPERM);
  write_file(at("f"), "x");
  EXPECT_EQ(rename(at("f").c_str(), at(".clonefs").c_str()), -1);
  EXPECT_EQ(link(at("f").c_str(), at(".clonefs").c_str()), -1);
  ASSERT_EQ(mkdir(at("d").c_str(), 0755), 0);
  EXPECT_EQ(mkdir(at("d/.clonefs").c_str(), 0755), 0);  // an ordinary name elsewhere
}

TEST_P(Live, StatfsIsTheSources) {
  struct statvfs through {
  }, real{};
  ASSERT_EQ(statvfs(mount_->path().c_str(), &through), 0);
  ASSERT_EQ(statvfs(mount_->source().c_str(), &real), 0);
  EXPECT_EQ(through.f_blocks, real.f_blocks);
  EXPECT_EQ(through.f_files, real.f_files);
  EXPECT_EQ(through.f_namemax, real.f_namemax);
}

TEST_P(Live, FlushBringsAllDirtyPages) {
  const int written = open_at("written", O_WRONLY | O_CREAT);
  const std::string data(500000, 'w');
  ASSERT_EQ(write(written, data.data(), data.size()), 500000);
  const int mapped = open_at("mapped", O_RDWR | O_CREAT);
  ASSERT_EQ(ftruncate(mapped, 100000), 0);
  char* map =
      static_cast<char*>(mmap(nullptr, 100000, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0));
  ASSERT_NE(map, MAP_FAILED);
  close(mapped);  // the mapping holds it
  memset(map, 'm', 100000);
  const int deleted = open_at("deleted", O_RDWR | O_CREAT);
  ASSERT_EQ(write(deleted, "deleted", 7), 7);
  ASSERT_EQ(link(at("deleted").c_str(), at("other name").c_str()), 0);
  ASSERT_EQ(unlink(at("deleted").c_str()), 0);
  ASSERT_EQ(mount_->command("flush"), "");
  EXPECT_EQ(read_file(beneath("written")), data);
  EXPECT_EQ(read_file(beneath("mapped")), std::string(100000, 'm'));
  EXPECT_EQ(read_file(beneath("other name")), "deleted");
  memset(map, 'M', 10);  // again dirty, again flushed
  ASSERT_EQ(mount_->command("flush"), "");
  EXPECT_EQ(read_file(beneath("mapped")).substr(0, 12), "MMMMMMMMMMmm");
  munmap(map, 100000);
  close(written);
  close(deleted);
  EXPECT_EQ(stdfs::directory_iterator(mount_->path()) == stdfs::directory_iterator(), false);
  for (const auto& entry : stdfs::directory_iterator(mount_->path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(".clonefs")) << entry.path();
  }
}

TEST_P(Live, WhatIsCreatedBelongsToItsCreator) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(mkdir(at("d").c_str(), 0777), 0);
  ASSERT_EQ(chmod(at("d").c_str(), 0777), 0);
  ASSERT_EQ(as_user(1234, 2345, {}, 027,
                    [&] {
                      const int fd = open_at("d/file", O_CREAT | O_WRONLY, 0666);
                      if (fd < 0) return 1;
                      if (mkdir(at("d/dir").c_str(), 0777) != 0) return 2;
                      if (symlink("x", at("d/link").c_str()) != 0) return 3;
                      return mkfifo(at("d/fifo").c_str(), 0666) != 0 ? 4 : 0;
                    }),
            0);
  for (const char* name : {"d/file", "d/dir", "d/link", "d/fifo"}) {
    const struct stat st = stat_of(beneath(name));
    EXPECT_EQ(st.st_uid, 1234u) << name;
    EXPECT_EQ(st.st_gid, 2345u) << name;
  }
  EXPECT_EQ(stat_of(at("d/file")).st_mode & 07777, 0640u);
  EXPECT_EQ(stat_of(at("d/dir")).st_mode & 07777, 0750u);
  EXPECT_EQ(stat_of(at("d/fifo")).st_mode & 07777, 0640u);
  // The daemon's own umask and ids are as before.
  write_file(at("d/roots"), "");
  EXPECT_EQ(stat_of(at("d/roots")).st_uid, 0u);
}

TEST_P(Live, SetGidDirectoriesAndSupplementaryGroups) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(mkdir(at("d").c_str(), 0755), 0);
  ASSERT_EQ(chown(at("d").c_str(), 0, 5000), 0);
  ASSERT_EQ(chmod(at("d").c_str(), 02775), 0);
  const auto create = [&](const std::string& name) {
    const int fd = open_at(name, O_CREAT | O_WRONLY, 02755);
    if (fd < 0) return errno;
    close(fd);
    return mkdir(at(name + "dir").c_str(), 0755) == 0 ? 0 : errno;
  };
  EXPECT_EQ(as_user(1234, 2345, {5000, 6000}, 0, [&] { return create("d/member"); }), 0);
  EXPECT_EQ(as_user(1234, 2345, {6000}, 0, [&] { return create("d/stranger"); }), EACCES);
  const struct stat st = stat_of(at("d/member"));
  EXPECT_EQ(st.st_gid, 5000u);
  EXPECT_EQ(stat_of(at("d/memberdir")).st_mode & 07777, 02755u);
}

TEST_P(Live, DefaultAclsReplaceTheUmask) {
  ASSERT_EQ(mkdir(at("d").c_str(), 0755), 0);
  struct Entry {
    uint16_t tag, perm;
    uint32_t id;
  };
  const Entry entries[] = {{1, 7, 0xffffffff},
                           {2, 6, 1234},
                           {4, 5, 0xffffffff},
                           {16, 7, 0xffffffff},
                           {32, 0, 0xffffffff}};
  std::string acl("\x02\0\0\0", 4);
  acl.append(reinterpret_cast<const char*>(entries), sizeof entries);
  if (setxattr(at("d").c_str(), "system.posix_acl_default", acl.data(), acl.size(), 0) != 0) {
    GTEST_SKIP() << "no ACLs in the source: " << strerror(errno);
  }
  const mode_t mask = umask(077);
  close(open_at("d/file", O_CREAT | O_WRONLY, 0666));
  umask(mask);
  EXPECT_EQ(stat_of(at("d/file")).st_mode & 07777, 0660u);
  if (geteuid() != 0) return;
  ASSERT_EQ(chmod(at("d").c_str(), 0755), 0);
  // The named user may write what the mode alone does not let him.
  EXPECT_EQ(as_user(1234, 1, {}, 0, [&] { return open_at("d/file", O_RDWR) >= 0 ? 0 : 1; }), 0);
  EXPECT_EQ(as_user(1235, 1, {}, 0, [&] { return open_at("d/file", O_RDONLY) >= 0 ? 0 : 1; }), 1);
}

TEST_P(Live, SetIdBitsGoWhenOthersChangeTheFile) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  struct Case {
    const char* name;
    std::function<int(const std::string& path)> change;
  };
  const Case cases[] = {
      {"write",
       [](const std::string& path) {
         const int fd = open(path.c_str(), O_WRONLY);
         return write(fd, "x", 1) == 1 ? 0 : 1;
       }},
      {"truncate", [](const std::string& path) { return truncate(path.c_str(), 0); }},
      {"open", [](const std::string& path) { return open(path.c_str(), O_WRONLY | O_TRUNC) < 0; }},
      {"fallocate",
       [](const std::string& path) {
         const int fd = open(path.c_str(), O_WRONLY);
         return fallocate(fd, 0, 0, 100) == 0 ? 0 : 1;
       }},
  };
  for (const Case& c : cases) {
    const std::string path = at(c.name);
    write_file(path, "content");
    ASSERT_EQ(chmod(path.c_str(), 06777), 0);
    EXPECT_EQ(stat_of(path).st_mode & 07777, 06777u);
    ASSERT_EQ(as_user(1234, 2345, {}, 0, [&] { return c.change(path); }), 0) << c.name;
    EXPECT_EQ(stat_of(path).st_mode & 07777, 0777u) << c.name;
    EXPECT_EQ(stat_of(beneath(c.name)).st_mode & 07777, 0777u) << c.name;
  }
  const std::string owned = at("owned");
  write_file(owned, "x");
  ASSERT_EQ(chmod(owned.c_str(), 06755), 0);
  ASSERT_EQ(chown(owned.c_str(), 5, 6), 0);
  EXPECT_EQ(stat_of(owned).st_mode & 07777, 0755u);
}

TEST_P(Live, PermissionsAreChecked) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  write_file(at("secret"), "x");
  ASSERT_EQ(chmod(at("secret").c_str(), 0600), 0);
  EXPECT_EQ(as_user(1234, 2345, {}, 0, [&] { return open_at("secret", O_RDONLY) < 0 ? errno : 0; }),
            EACCES);
  EXPECT_EQ(as_user(1234, 2345, {}, 0, [&] { return unlink(at("secret").c_str()) ? errno : 0; }),
            EACCES);
  EXPECT_EQ(
      as_user(1234, 2345, {}, 0, [&] { return chmod(at("secret").c_str(), 0666) ? errno : 0; }),
      EPERM);
}

TEST_P(Live, SyncOfDirectoriesAndFiles) {
  const int dir = open(mount_->path().c_str(), O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(fsync(dir), 0);
  EXPECT_EQ(fdatasync(dir), 0);
  EXPECT_EQ(syncfs(dir), 0);
  close(dir);
}

// Threads that do everything to the same few names, while the daemon flushes. Each call may find
// that another was quicker; what is left must be the same through the mount and in the source.
TEST_P(Live, ManyThreadsOnTheSameNames) {
  for (const char* dir : {"t", "t/a", "t/b"}) ASSERT_EQ(mkdir(at(dir).c_str(), 0755), 0);
  std::atomic<int> wrong{0};
  const std::set<int> quicker = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY,
                                 EBUSY,  ENXIO,  EINVAL,  ELOOP,  EPERM};
  const auto expected = [&](int result, const char* what) {
    if (result >= 0) return true;
    if (const int error = errno; !quicker.contains(error)) {
      ++wrong;
      ADD_FAILURE() << what << ": " << strerror(error);
    }
    return false;
  };
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    const auto name = [&] {
      static const char* const kDirs[] = {"t/", "t/a/", "t/b/"};
      return at(kDirs[random() % 3] + std::string(1, static_cast<char>('p' + random() % 6)));
    };
    for (int i = 0; i < 400; ++i) {
      const std::string one = name(), two = name();
      struct stat st {};
      switch (random() % 12) {
        case 0:
        case 1:
        case 2: {
          const int flags = O_RDWR | O_CREAT | (random() % 4 == 0 ? O_TRUNC : 0);
          const int fd = open(one.c_str(), flags | O_NONBLOCK | O_CLOEXEC, 0644);
          if (!expected(fd, "open")) break;
          const std::string data(random() % 20000, static_cast<char>('a' + i % 26));
          expected(static_cast<int>(pwrite(fd, data.data(), data.size(), random() % 50000)), "write");
          lseek(fd, 0, SEEK_DATA);
          if (random() % 3 == 0) expected(ftruncate(fd, random() % 30000), "truncate");
          if (random() % 8 == 0) expected(fsync(fd), "fsync");
          close(fd);
          break;
        }
        case 3:
          expected(rename(one.c_str(), two.c_str()), "rename");
          break;
        case 4:
          expected(renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), RENAME_EXCHANGE), "exchange");
          break;
        case 5:
          expected(link(one.c_str(), two.c_str()), "link");
          break;
        case 6:
          expected(unlink(one.c_str()), "unlink");
          break;
        case 7:
          expected(mkdir(one.c_str(), 0755), "mkdir");
          break;
        case 8:
          expected(rmdir(one.c_str()), "rmdir");
          break;
        case 9:
          expected(lstat(one.c_str(), &st), "lstat");
          break;
        case 10:
          if (DIR* dir = opendir(at("t/a").c_str())) {
            while (readdir(dir) != nullptr) {
            }
            closedir(dir);
          }
          break;
        default:
          expected(symlink("somewhere", one.c_str()), "symlink");
          break;
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 6; ++i) threads.emplace_back(work, 7 + i);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(mount_->command("flush"), "");
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  // Of a truncation and a late write to the same file either gives its mtime last, to the kernel and, in
  // another order, to the daemon. From here on there is one.
  for (const auto& entry : stdfs::recursive_directory_iterator(at("t"))) {
    if (entry.is_regular_file() && !entry.is_symlink()) {
      EXPECT_EQ(utimensat(AT_FDCWD, entry.path().c_str(), nullptr, 0), 0);
    }
  }
  EXPECT_EQ(tree_difference(at("t"), beneath("t")), "");
}

TEST(OpenFiles, SaysWhoIsInside) {
  std::string pattern = (stdfs::temp_directory_path() / "clonefs-inside-XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  write_file(pattern + "/file", "x");
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  EXPECT_TRUE(processes_inside(pattern).empty());
  const pid_t child = fork();
  if (child == 0) {
    const int fd = open((pattern + "/file").c_str(), O_RDONLY);
    if (fd < 0 || write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto found = processes_inside(pattern);
  struct stat st {};
  EXPECT_EQ(stat(pattern.c_str(), &st), 0);
  const auto here = std::to_string(major(st.st_dev)) + ":" + std::to_string(minor(st.st_dev));
  EXPECT_EQ(processes_inside(pattern, {here}).size(), 1u);
  EXPECT_TRUE(processes_inside(pattern, {"0:0"}).empty()) << "another file system's";
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].pid, child);
  EXPECT_EQ(found[0].what, pattern + "/file (open)");
  EXPECT_TRUE(processes_inside(pattern + "/fil").empty());  // not a prefix of a name
  close(ready[0]);
  close(ready[1]);
  stdfs::remove_all(pattern);
}

}  // namespace
}  // namespace clonefs::testing
