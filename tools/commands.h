// What the verbs of the command line do. Each returns the exit code: 0 done, 1 refused or failed
// (it has said why on stderr).
#pragma once

#include <string>

#include "engine/pool_check.h"
#include "extents/result.h"
#include "fs/command.h"
#include "fs/volume_server.h"
#include "tools/client.h"

namespace clonefs {

struct CommonOptions {
  std::string mount;
  bool json = false;
  bool quiet = false;
};

int fail(const std::string& verb, const Error& error);

// A command of the grammar.
int run_command(Command command, const CommonOptions& common);
// status --watch.
int watch(const Client& client, const Command& command);
int unmount_volume(const std::string& mountpoint);
int fsck_pool(const PoolCheckOptions& options, bool json, bool quiet);

}  // namespace clonefs
