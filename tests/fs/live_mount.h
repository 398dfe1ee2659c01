// A live mount for tests, served by a child process with a real engine: a process that serves a
// mount must never use it.
#pragma once

#include <sys/types.h>

#include <string>

namespace clonefs::testing {

class LiveMount {
 public:
  struct Options {
    bool writeback = true;
    bool old_kernel = false;    // without what came after Linux 5.11, as far as it can be left out
    bool handles = true;        // false: as an ordinary user's daemon, and few descriptors
    bool copy_threads = false;  // nothing is drained but by drain()
  };
  explicit LiveMount(Options options);
  LiveMount() : LiveMount(Options{}) {}
  ~LiveMount();

  // Why there is no FUSE here; "": there is.
  static std::string unavailable();

  const std::string& source() const { return source_; }
  const std::string& path() const { return mountpoint_; }
  std::string at(const std::string& name) const { return mountpoint_ + "/" + name; }
  std::string beneath(const std::string& name) const { return source_ + "/" + name; }
  pid_t daemon() const { return daemon_; }
  // Also outside the volume: a directory for what a test compares with.
  std::string scratch(const std::string& name) const { return base_ + "/" + name; }

  // A command for the child, and its answer: "" done, else the error.
  //   flush | create NAME PATH | activate NAME | copy NAME PATH | drain NAME | lacks
  std::string command(const std::string& line);
  std::string clone_in_pool(const std::string& name);  // its directory

 private:
  std::string base_, source_, mountpoint_;
  pid_t daemon_ = -1;
  int channel_ = -1;
};

// "" if the trees are equal in names, kinds, modes, owners, sizes, mtimes, links, xattrs and data,
// else the first difference.
std::string tree_difference(const std::string& a, const std::string& b);

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& data);

}  // namespace clonefs::testing
