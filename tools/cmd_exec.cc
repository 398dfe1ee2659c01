// clonefs exec: a command in a clone, or, in place, with the clone where the volume is.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "fs/command_paths.h"
#include "fs/mount_table.h"
#include "tools/commands.h"

namespace clonefs {

namespace {

Status write_line(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool done = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int code = errno;
  if (fd >= 0) ::close(fd);
  if (!done) return Error::from_errno(code, path);
  return {};
}

// From here on mounts of this process are its own. An ordinary user needs a user namespace for that,
// in which everybody is who they were.
Status enter_namespace() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWNS) != 0) {
    if (errno != EPERM) return Error::from_errno(errno, "a mount namespace");
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return Error{errno, std::string("--in-place needs root or user namespaces, which this system "
                                      "does not allow: ") + std::strerror(errno) +
                              ". Without --in-place the command runs in the clone's directory."};
    }
    Status mapped = write_line("/proc/self/setgroups", "deny");
    const auto map = [&](const char* file, unsigned id) {
      if (mapped) mapped = write_line(file, std::to_string(id) + " " + std::to_string(id) + " 1");
    };
    map("/proc/self/uid_map", uid);
    map("/proc/self/gid_map", gid);
    if (!mapped) return mapped;
  }
  // A slave: an umount outside is refused while this one is in use, not hidden from it.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
    return Error::from_errno(errno, "a mount namespace");
  }
  return {};
}

// As a shell sees it: a directory of PATH that cannot be searched has no program.
bool is_in_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return true;
  const char* value = std::getenv("PATH");
  const std::string path = value != nullptr ? value : "/bin:/usr/bin";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const std::string directory = begin == end ? "." : path.substr(begin, end - begin);
    if (::access((directory + "/" + program).c_str(), F_OK) == 0) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace

int exec_in_clone(const ExecOptions& options, const CommonOptions& common) {
  const auto refuse = [&common](const Error& error) {
    fail("exec", error, common);
    return kExitExecFailed;
  };
  const auto client = Client::find(common.mount, {});
  if (!client) return refuse(client.error());
  const std::string& volume = client->mountpoint();
  const std::string& name = options.name;
  const std::string clone = volume + "/.clonefs/clones/" + name;
  struct stat st{};
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos) {
    return refuse({EINVAL, "'" + name + "' is not the name of a clone. clonefs list shows them."});
  }
  if (::stat(clone.c_str(), &st) != 0) {
    if (errno != ENOENT) return refuse(Error::from_errno(errno, clone));
    return refuse({ENOENT, "there is no clone " + name + " to be seen in " + volume +
                               ". clonefs list shows all; one that is Created or in Precopy is seen "
                               "after: clonefs activate " + name});
  }

  std::string relative;
  bool inside = false;
  if (options.in_place) {
    const auto cwd = absolute_path(".", false);
    inside = cwd && path_beneath(volume, *cwd, &relative);
    if (const Status entered = enter_namespace(); !entered) return refuse(entered.error());
    if (::mount(clone.c_str(), volume.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      return refuse(Error::from_errno(errno, "cannot show " + clone + " at " + volume));
    }
  }
  const std::string directory = !options.in_place ? clone
                                : inside          ? volume + "/" + relative
                                                  : ".";
  if (::chdir(directory.c_str()) != 0) {
    return refuse(Error{errno, "the clone " + name + " has no directory " +
                                   (relative.empty() ? directory : relative) +
                                   " to work in: " + std::strerror(errno) +
                                   ". Start from one that was cloned, or from outside the volume."});
  }
  // Kept open for the command: while it runs, no other generation takes the clone's place.
  (void)::open(options.in_place ? volume.c_str() : ".", O_RDONLY | O_DIRECTORY);
  ::setenv("CLONEFS_NAME", name.c_str(), 1);
  ::setenv("CLONEFS_CLONE", options.in_place ? volume.c_str() : clone.c_str(), 1);

  std::vector<char*> words;
  for (const std::string& word : options.command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  const int code = errno == EACCES && !is_in_path(options.command[0]) ? ENOENT : errno;
  fail("exec", Error{code, "cannot run " + options.command[0] + ": " + std::strerror(code) +
                               ". Write after -- a program's path, or the name of one in PATH."},
       common);
  return code == ENOENT ? kExitNotFound : kExitCannotRun;
}

}  // namespace clonefs
