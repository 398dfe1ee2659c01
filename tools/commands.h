// What the verbs of the command line do. Each returns the exit code: 0 done, 1 refused or failed
// (it has said why on stderr).
#pragma once

#include <string>
#include <vector>

#include "engine/pool_check.h"
#include "extents/result.h"
#include "fs/command.h"
#include "fs/volume_server.h"
#include "tools/client.h"
#include "tools/exit_codes.h"

namespace clonefs {

struct CommonOptions {
  std::string mount;
  bool json = false;
  bool quiet = false;
};

int fail(const std::string& verb, const Error& error);
// As JSON, on stdout, if that was asked for.
int fail(const std::string& verb, const Error& error, const CommonOptions& common);

// A command of the grammar.
int run_command(Command command, const CommonOptions& common);
// status --watch.
int watch(const Client& client, const Command& command);
struct ExecOptions {
  std::string name;  // of the clone
  bool in_place = false;
  std::vector<std::string> command;
};
// Runs a command in a clone; does not return if that worked. 125: refused, 126: the command cannot be
// run, 127: there is none of that name.
int exec_in_clone(const ExecOptions& options, const CommonOptions& common);
struct DiffCommand {
  std::string name;  // of the clone
  std::vector<std::string> paths;
  bool exit_code = false;
  bool thorough = false;
};
int diff_clone(const DiffCommand& command, const CommonOptions& common);
struct RestoreCommand {
  std::string name;  // of the clone
  std::vector<std::string> paths;
  std::string to;  // another directory; "": the volume
  bool guard = false;
  bool dry_run = false;
  bool remove = false;  // what only the volume has
  bool thorough = false;
};
int restore_clone(const RestoreCommand& command, const CommonOptions& common);
int unmount_volume(const std::string& mountpoint);
// doctor. 0: no problems.
int examine_system(const CommonOptions& common);
int fsck_pool(const PoolCheckOptions& options, bool json, bool quiet);

}  // namespace clonefs
