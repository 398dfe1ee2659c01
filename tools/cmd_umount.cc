// clonefs umount: asks the daemon; a dead mount is cleared without one.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <set>
#include <thread>
#include <vector>

#include "fs/command_paths.h"
#include "fs/json_text.h"
#include "fs/mount_table.h"
#include "fs/open_files.h"
#include "tools/commands.h"

namespace clonefs {

namespace {

// What is not to be named goes by itself, or is said after two seconds.
constexpr int kTries = 40;
constexpr auto kBetweenTries = std::chrono::milliseconds(50);

std::string list_of(const std::vector<int>& pids) {
  std::string text;
  for (const int pid : pids) text += (text.empty() ? "" : ", ") + std::to_string(pid);
  return text;
}

int unmounted(const MountEntry& entry, bool was_dead, const CommonOptions& common) {
  if (common.json) {
    Json json = new_answer();
    put_name(&json, "volume", entry.mountpoint);
    json["was_dead"] = was_dead;
    std::fputs(dump_json(json).c_str(), stdout);
  } else if (was_dead) {
    std::fprintf(stderr,
                 "clonefs: umount: the daemon of %s had ended; cleared the dead mount. Its clones "
                 "are checked at the next mount.\n",
                 entry.mountpoint.c_str());
  }
  return kExitDone;
}

// Other than the daemon; of its clones, too.
std::vector<ProcessInside> users_of(const MountEntry& entry, pid_t daemon) {
  std::set<std::string> devices;
  if (const auto table = read_mount_table()) {
    for (const MountEntry& other : *table) {
      std::string relative;
      if ((other.is_volume() || other.is_clones()) &&
          path_beneath(entry.mountpoint, other.mountpoint, &relative))
        devices.insert(other.device);
    }
  }
  auto users = processes_inside(entry.mountpoint, devices);
  std::erase_if(users, [&](const ProcessInside& process) { return process.pid == daemon; });
  return users;
}

// ERROR, and who uses the mount.
int still_used(const MountEntry& entry, const std::vector<ProcessInside>& users, const Error& error,
               const CommonOptions& common) {
  std::string relative;
  const auto cwd = absolute_path(".", false);
  const bool inside = cwd && path_beneath(entry.mountpoint, *cwd, &relative);
  if (common.json) {
    Json json = error_json(error);
    json["used_by"] = Json::array();
    for (const ProcessInside& process : users) {
      Json user{{"pid", process.pid}};
      put_name(&user, "name", process.name);
      put_name(&user, "what", process.what);
      json["used_by"].push_back(user);
    }
    std::fputs(dump_json(json).c_str(), stdout);
    return kExitFailed;
  }
  fail("umount", error, common);
  if (inside) std::fprintf(stderr, "  this command's working directory is in it: cd / first\n");
  for (const ProcessInside& process : users) {
    std::fprintf(stderr, "  %s (pid %d) uses %s\n", process.name.c_str(), process.pid,
                 process.what.c_str());
  }
  std::fprintf(stderr, "  it is still mounted. End these processes, or let them leave it.\n");
  return kExitFailed;
}

}  // namespace

int unmount_volume(const std::string& mountpoint, const CommonOptions& common) {
  const std::string verb = "umount";
  // Not followed first: looking at the mountpoint itself would ask a daemon that may be dead.
  const auto at = absolute_path(mountpoint, true);
  if (!at) return fail(verb, at.error(), common);
  const auto followed = absolute_path(mountpoint, false);
  const auto table = read_mount_table();
  if (!table) return fail(verb, table.error(), common);
  const MountEntry* found = nullptr;
  for (const std::string& path : {*at, followed ? *followed : *at}) {
    for (const MountEntry& entry : *table) {
      if (found == nullptr && entry.is_volume() && entry.mountpoint == path) found = &entry;
    }
  }
  if (found == nullptr) {
    return fail(verb, Error{EINVAL, mountpoint + " is not the mountpoint of a volume. Mounted ones "
                                                 "are listed by: findmnt -t fuse.clonefs"}, common);
  }
  if (&first_mount_of(*table, *found) != found) {  // bound: the volume itself goes on
    if (const Status done = unmount_path(found->mountpoint, false); !done) {
      return fail(verb, done.error(), common);
    }
    return unmounted(*found, false, common);
  }
  if (is_dead_mount(found->mountpoint)) {
    if (const Status cleared = unmount_path(found->mountpoint, true); !cleared) {
      return fail(verb, cleared.error(), common);
    }
    return unmounted(*found, true, common);
  }

  for (const MountEntry& entry : *table) {  // the daemon could not end before these are gone
    if (&entry == found || entry.device != found->device) continue;
    return fail(verb, Error{EBUSY, mountpoint + " is mounted at " + entry.mountpoint +
                                       " as well; unmount that first"}, common);
  }

  pid_t pid = 0;
  {
    const auto client = Client::find(found->mountpoint, {});
    if (!client) return fail(verb, client.error(), common);
    const auto status = client->read_file("status.json");
    if (!status && (status.error().code == EACCES || status.error().code == EPERM)) {
      return fail(verb, Error{EPERM, "only the owner of the volume " + found->mountpoint +
                                         " and root may unmount it."}, common);
    }
    if (!status) return fail(verb, status.error(), common);
    const auto json = Json::parse(*status, nullptr, false);
    if (json.is_object() && json.contains("pid")) pid = json["pid"].get<pid_t>();
  }
  for (int tries = 0;; ++tries) {
    const Status done = ask_to_unmount(pid);
    if (done) return unmounted(*found, false, common);
    const auto elsewhere = done.error().code == EXDEV ? kept_elsewhere(*found) : std::vector<int>();
    if (!elsewhere.empty()) {
      return fail(verb, Error{EXDEV, done.error().message + ". Processes there: " + list_of(elsewhere)}, common);
    }
    if (done.error().code != EBUSY) return fail(verb, done.error(), common);
    // Held for a moment by who looks through /proc, or by what is left of a program that has ended.
    const auto users = users_of(*found, pid);
    if (!users.empty() || tries == kTries) return still_used(*found, users, done.error(), common);
    std::this_thread::sleep_for(kBetweenTries);
  }
}

}  // namespace clonefs
