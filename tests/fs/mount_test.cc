// The mount table and the mount options.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <thread>

#include "fs/mount_options.h"
#include "fs/mount_table.h"

namespace clonefs {
namespace {

constexpr char kTable[] =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    "30 22 0:25 / /data rw - fuse.clonefs /data rw,user_id=0\n"
    "31 30 0:26 / /data/.clonefs/clones rw shared:7 master:2 - fuse.clonefs-clones /data rw\n"
    "32 22 0:27 / /my\\040dir\\134x rw - fuse.clonefs /my\\040dir\\134x rw\n"
    "33 22 0:28 / /data2 rw - tmpfs none rw\n"
    "broken line\n";

TEST(MountTable, Parse) {
  const auto table = parse_mount_table(kTable);
  ASSERT_EQ(table.size(), 5u);
  EXPECT_EQ(table[1].mountpoint, "/data");
  EXPECT_TRUE(table[1].is_volume());
  EXPECT_FALSE(table[1].is_clones());
  EXPECT_TRUE(table[2].is_clones());
  EXPECT_FALSE(table[2].is_volume());
  EXPECT_EQ(table[2].group + table[2].master + table[1].group, "72");
  EXPECT_EQ(table[3].mountpoint, "/my dir\\x");
  EXPECT_EQ(table[3].source, "/my dir\\x");
  EXPECT_FALSE(table[4].is_volume());
}

TEST(MountTable, WhichMountContainsAPath) {
  const auto table = parse_mount_table(kTable);
  const struct {
    const char* path;
    const char* mountpoint;
  } rows[] = {
      {"/data", "/data"},
      {"/data/x/y", "/data"},
      {"/data/.clonefs/clones/a/b", "/data/.clonefs/clones"},
      {"/data2/x", "/data2"},
      {"/dat", "/"},
      {"/my dir\\x/f", "/my dir\\x"},
  };
  for (const auto& row : rows) {
    const MountEntry* entry = mount_of(table, row.path);
    ASSERT_NE(entry, nullptr) << row.path;
    EXPECT_EQ(entry->mountpoint, row.mountpoint) << row.path;
  }
  // Mounted over once more: the later one counts.
  auto twice = table;
  twice.push_back({"/data", "tmpfs", "none", "0:29", "/", "", ""});
  EXPECT_EQ(mount_of(twice, "/data/x")->type, "tmpfs");
  EXPECT_EQ(mount_of({}, "/x"), nullptr);
}

TEST(MountTable, WhatIsBoundIsNoVolumeOfItsOwn) {
  const auto table = parse_mount_table(
      "20 1 0:25 /part /early rw - fuse.clonefs /data rw\n"
      "30 22 0:25 / /data rw - fuse.clonefs /data rw\n"
      "31 22 0:25 / /whole rw - fuse.clonefs /data rw\n"
      "32 22 0:26 / /other rw - fuse.clonefs /other rw\n");
  ASSERT_EQ(table.size(), 4u);
  for (const size_t bound : {0u, 1u, 2u}) {
    EXPECT_EQ(first_mount_of(table, table[bound]).mountpoint, "/data");
  }
  EXPECT_EQ(&first_mount_of(table, table[3]), &table[3]);
}

TEST(MountTable, TheMachines) {
  const auto table = read_mount_table();
  ASSERT_TRUE(table);
  EXPECT_NE(mount_of(*table, "/"), nullptr);
  EXPECT_FALSE(is_dead_mount("/"));
}

TEST(MountOptions, Taken) {
  ServerOptions options;
  ASSERT_TRUE(
      add_mount_options("rw,noauto,x-systemd.automount,cache=writethrough,pool=/p/"
                        "a,track-size=1M,columns=8,ro,nosuid",
                        &options));
  EXPECT_FALSE(options.writeback);
  EXPECT_EQ(options.pool, "/p/a");
  EXPECT_EQ(options.track_size, TrackSize(1 << 20));
  EXPECT_EQ(options.max_columns, 8u);
  EXPECT_EQ(options.mount_options, (std::vector<std::string>{"rw", "ro", "nosuid"}));
  EXPECT_TRUE(add_mount_options("", &options));
  EXPECT_TRUE(add_mount_options("defaults,_netdev,user", &options));
}

TEST(MountOptions, Refused) {
  for (const char* list :
       {"bogus", "cache=", "cache=x", "cache", "track-size=5000", "track-size=x", "columns=0",
        "columns=x", "columns=1T", "pool=", "rw,bogus=1", "ro=1", "fsname=x", "subtype=y"}) {
    ServerOptions options;
    const Status taken = add_mount_options(list, &options);
    ASSERT_FALSE(taken) << list;
    EXPECT_EQ(taken.error().code, EINVAL);
    EXPECT_FALSE(taken.error().message.empty());
  }
}

// Anybody can bind the address of the daemon's socket: what answers must be the daemon.
TEST(Unmount, AnotherProcessIsNotBelieved) {
  const pid_t daemon = fork();
  if (daemon == 0) {
    pause();
    _exit(0);
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "clonefs." + std::to_string(daemon);
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  const int liar = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(bind(liar, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(liar, 1), 0);
  std::thread answer([liar] {
    const int fd = accept(liar, nullptr, nullptr);
    (void)!send(fd, "ok", 2, MSG_NOSIGNAL);  // who asked may have gone already
    close(fd);
  });
  const Status done = ask_to_unmount(daemon);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, EPERM);
  EXPECT_NE(done.error().message.find(std::to_string(getpid())), std::string::npos)
      << done.error().message;
  answer.join();
  close(liar);
  kill(daemon, SIGKILL);
  waitpid(daemon, nullptr, 0);
}

}  // namespace
}  // namespace clonefs
