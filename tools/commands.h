// What the verbs of the command line do. Each returns the exit code (tools/exit_codes.h) and has said
// why it refused or failed: on stderr, or, with --json, as the one object that it answers, on stdout.
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

// Says why VERB failed; its exit code.
int fail(const std::string& verb, const Error& error, const CommonOptions& common);

// A command of the grammar.
int run_command(Command command, const CommonOptions& common);
// status --watch.
int watch(const Client& client, const Command& command, const CommonOptions& common);
// map.
int draw_map(const Client& client, const Command& command, const CommonOptions& common);
// HTML: the file.
int report_session(const std::string& name, const std::string& html, const CommonOptions& common);
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
struct PlanOptions {
  std::string file;
  bool dry_run = false;
  bool run = false;
  bool install = false;
  std::string unit_dir;  // of install; empty: systemd's
  std::string now;       // of the timetable; empty: it is what the clock says
};
int run_plan(const PlanOptions& options, const CommonOptions& common);
int unmount_volume(const std::string& mountpoint, const CommonOptions& common);
struct EventsOptions {
  bool follow = false;
};
int show_events(const EventsOptions& options, const CommonOptions& common);
struct MetricsOptions {
  std::string output;      // file; "": stdout
  unsigned timeout_s = 10;  // for each volume
};
// metrics. 0 also when a daemon does not answer: the text says so.
int show_metrics(const MetricsOptions& options, const CommonOptions& common);
// doctor. 0: no problems.
int examine_system(const CommonOptions& common);
int fsck_pool(const PoolCheckOptions& options, const CommonOptions& common);

}  // namespace clonefs
