// The command line's side of the control files: finding the volume, and sending it commands.
#pragma once

#include <string>
#include <vector>

#include "extents/result.h"
#include "fs/command.h"

namespace clonefs {

// Of a volume that belongs to somebody else.
Error not_the_owner(const std::string& mountpoint, int code);

class Client {
 public:
  // The volume that is meant: MOUNT (--mount) or CLONEFS_MOUNT if given, else the one that the
  // PATHS lie in, else that of the working directory, else the only one.
  static Result<Client> find(const std::string& mount, const std::vector<std::string>& paths);

  const std::string& mountpoint() const { return mountpoint_; }
  // A path as the user wrote it, relative to the volume. It means what it means to every program: it is
  // absolute, or goes from the working directory. One from a working directory outside that does not lead
  // into the volume goes from its root. EINVAL: the one and the other are there.
  Result<std::string> volume_path(const std::string& path) const;
  // Sends COMMAND and waits for the reply.
  Result<std::string> send(const Command& command) const;
  // The same with a control line; VERB is for messages.
  Result<std::string> send_line(const std::string& line, const std::string& verb) const;
  Result<std::string> read_file(const std::string& name) const;  // of .clonefs

 private:
  explicit Client(std::string mountpoint) : mountpoint_(std::move(mountpoint)) {}
  std::string mountpoint_;
};

}  // namespace clonefs
