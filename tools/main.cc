// clonefs: the command line. Called as mount.fuse.clonefs or umount.fuse.clonefs it is mount(8)'s
// helper.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "fs/json_text.h"
#include "fs/mount_options.h"
#include "tools/commands.h"
#include "tools/generate.h"

namespace clonefs {

namespace {

int wrong_usage(const std::string& text, const std::string& help, bool json = false) {
  if (json) {
    const std::string separator = text.ends_with('.') ? " " : ". ";
    std::fputs(dump_json(error_json({EINVAL, text + separator + "Try: " + help})).c_str(), stdout);
    return kExitUsage;
  }
  std::fprintf(stderr, "clonefs: %s\nTry: %s\n", text.c_str(), help.c_str());
  return kExitUsage;
}

const CLI::Validator kGiven([](const std::string& text) { return check_given(text); }, "", "given");

// Of mount: what -o takes.
std::string mount_footer() {
  std::string text = "Options of -o are the above without --:";
  for (const MountOption& option : mount_options()) {
    text += std::string(&option == &mount_options().front() ? " " : ", ") + option.name +
            (option.value == nullptr ? "" : "=");
  }
  return text +
         "; and: allow_other, allow_root (let other users in; root's default is allow_other), ro, nodev, "
         "nosuid, noexec, noatime.\n"
         "In place (without MOUNTPOINT) every change is seen; aside is for trying things out.";
}

int run(int argc, char** argv) {
  CLI::App app(
      "clonefs makes instant point-in-time clones of the files in a mounted directory.\n"
      "  clonefs mount DIR          mount a directory in place\n"
      "  clonefs copy NAME PATH...  clone files or trees now ('.' is everything)\n"
      "  clonefs status             how far the background copy is\n"
      "The clones are in DIR/.clonefs/clones/NAME.",
      "clonefs");
  app.require_subcommand(1);
  app.set_help_flag("-h,--help", "say how a command is used");
  app.set_version_flag("--version",
                       std::string("clonefs ") + CLONEFS_VERSION + " (" + fuse_description() + ")");

  CommonOptions common;
  app.add_option("--mount", common.mount,
                 "the volume: its mountpoint (default: CLONEFS_MOUNT, or found from the paths, the "
                 "working directory, or because it is the only one)")
      ->type_name("DIR")
      ->check(kGiven);
  app.add_flag("--json", common.json, "answer as JSON");
  app.add_flag("-q,--quiet", common.quiet, "say nothing when all is well");

  ServerOptions server;
  Status options_taken;
  const auto take = [&options_taken](const Status& status) {
    if (!status && options_taken) options_taken = status;
  };
  CLI::App* mount = app.add_subcommand("mount", "Mount a directory as a volume");
  mount->fallthrough();
  mount->add_option("SOURCE", server.source, "the directory")->required();
  mount->add_option("MOUNTPOINT", server.mountpoint, "where; default: in place, over SOURCE");
  mount
      ->add_option_function<std::vector<std::string>>(
          "-o",
          [&](const std::vector<std::string>& lists) {
            for (const std::string& list : lists) take(add_mount_options(list, &server));
          },
          "mount options, separated by commas")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  for (const MountOption& option : mount_options()) {
    const std::string name = std::string("--") + option.name;
    if (option.value == nullptr) {
      mount->add_flag_callback(name, [&, set = option.set] { take(set("", &server)); }, option.help);
    } else {
      mount
          ->add_option_function<std::string>(
              name, [&, set = option.set](const std::string& text) { take(set(text, &server)); }, option.help)
          ->type_name(option.value);
    }
  }
  mount->add_flag("-f,--foreground", server.foreground, "stay in the foreground");
  mount->footer(mount_footer());

  std::string unmounted;
  CLI::App* unmount = app.add_subcommand("umount", "Unmount a volume and end its daemon cleanly");
  unmount->fallthrough();
  unmount->add_option("MOUNTPOINT", unmounted, "where it is mounted")->required();

  ExecOptions exec;
  CLI::App* in_clone = app.add_subcommand("exec", "Run a command in a clone");
  in_clone->fallthrough();
  in_clone->add_option("NAME", exec.name, "the clone")->required();
  in_clone->add_flag("--in-place", exec.in_place,
                     "the command sees the clone where the volume is mounted (in a mount namespace of "
                     "its own), so that backup jobs keep their paths");
  in_clone->add_option("COMMAND", exec.command, "after --: the command and its words")->required();
  in_clone->footer(
      "Without --in-place the command's working directory is the clone. CLONEFS_NAME is the clone's name,\n"
      "CLONEFS_CLONE where it is seen. The exit code is the command's own; 125: refused, 126: the command\n"
      "cannot be run, 127: there is no such command.");

  DiffCommand diff;
  CLI::App* differences = app.add_subcommand("diff", "List what changed between a clone and now");
  differences->fallthrough();
  const CLI::Validator a_name([](const std::string& name) { return check_name(name); }, "", "name");
  differences->add_option("NAME", diff.name, "the clone")->required()->check(a_name);
  differences->add_option("PATH", diff.paths, "files and directories; default: all that was cloned");
  differences->add_flag("--exit-code", diff.exit_code, "exit code 3 when there are differences");
  differences->add_flag("--thorough", diff.thorough, "compare all data, whatever the times say");

  RestoreCommand restore;
  CLI::App* back = app.add_subcommand("restore", "Copy back from a clone what differs from it");
  back->fallthrough();
  back->add_option("NAME", restore.name, "the clone")->required()->check(a_name);
  back->add_option("PATH", restore.paths, "files and directories; default: all that was cloned");
  CLI::Option* to = back->add_option("--to", restore.to,
                                     "a directory to restore to, instead of the volume; made if missing")
                        ->check(kGiven);
  back->add_flag("--guard", restore.guard, "first clone the present state; says the clone's name")
      ->excludes(to);
  back->add_flag("--delete", restore.remove,
                 "remove what the clone hasn't, and give what was renamed its old name; else it is kept")
      ->excludes(to);
  back->add_flag("-n,--dry-run", restore.dry_run, "say what would be done");
  back->add_flag("--thorough", restore.thorough, "compare all data, whatever the times say");

  std::string reported, html;
  CLI::App* report = app.add_subcommand("report", "Write all that is known of a session as a page");
  report->fallthrough();
  report->add_option("NAME", reported, "the session")->required()->check(a_name);
  report->add_option("--html", html, "the file, which needs no other")->required()->check(kGiven);

  PlanOptions plan;
  CLI::App* planned = app.add_subcommand("plan", "Show, run or install a plan: clones that are made together");
  planned->fallthrough();
  planned->add_option("FILE", plan.file, "the plan, in TOML (docs/PLANS.md)")->required();
  auto* dry_run = planned->add_flag("--dry-run", plan.dry_run, "show its timetable and do nothing (the default)");
  auto* plan_run = planned->add_flag("--run", plan.run, "carry it out, and wait in the foreground until it is done");
  auto* plan_install = planned->add_flag(
      "--install", plan.install, "write the systemd units that run it by its calendar");
  plan_run->excludes(dry_run)->excludes(plan_install);
  plan_install->excludes(dry_run);
  planned->add_option("--unit-dir", plan.unit_dir, "where --install writes them")->needs(plan_install)->check(kGiven);
  planned->add_option("--now", plan.now, "the timetable as of this time")->excludes(plan_run);

  CLI::App* doctor = app.add_subcommand("doctor", "Look for what stands in clonefs's way on this system");
  doctor->fallthrough();

  EventsOptions events;
  CLI::App* happened = app.add_subcommand("events", "Show what happened to a volume since it was mounted");
  happened->fallthrough();
  happened->add_flag("--follow", events.follow, "go on showing until the volume is unmounted");
  happened->add_flag("--json", common.json, "answer as JSON: an object a line");

  MetricsOptions metrics;
  CLI::App* measured = app.add_subcommand("metrics", "Show the metrics of all volumes, for Prometheus");
  measured->fallthrough();
  measured->add_option("--output", metrics.output,
                       "write them to this file, all at once: for the textfile collector of node_exporter")
      ->type_name("FILE")
      ->check(kGiven);
  measured
      ->add_option("--timeout", metrics.timeout_s,
                   "how long each daemon is waited for (default 10); then its clonefs_up is 0")
      ->type_name("SECONDS");

  PoolCheckOptions check;
  CLI::App* fsck = app.add_subcommand("fsck", "Look through a pool whose volume is not mounted");
  fsck->fallthrough();
  fsck->add_option("POOL", check.pool, "the directory; a volume's own is VOLUME/.clonefs/pool")->required();
  fsck->add_flag("--repair", check.repair, "do what is said about each finding");
  fsck->add_flag("--data", check.data, "compare the clones' data with their digests too");

  std::string generated;
  std::string page;
  CLI::App* generator = app.add_subcommand("generate", "Man pages and completions, for the build");
  generator->group("");  // hidden
  generator->add_option("WHAT", generated, "man, bash, zsh or fish")->required();
  generator->add_option("TEMPLATE", page, "of the man page");

  CommandGrammar grammar;
  grammar.add_to(app, true);
  for (CLI::App* verb : app.get_subcommands([](CLI::App*) { return true; })) {
    if (verb->get_option_no_throw("--json") == nullptr) {
      verb->add_flag("--json", common.json, "answer as JSON");
    }
  }

  std::vector<std::string> words(argv + 1, argv + argc);
  // Also what is not understood is answered as it was asked for.
  const auto options_end = std::find(words.begin(), words.end(), "--");
  const bool json = std::find(words.begin(), options_end, "--json") != options_end;
  words = protect_words(std::move(words));
  std::reverse(words.begin(), words.end());
  try {
    app.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return kExitDone;
  } catch (const CLI::CallForVersion& version) {
    std::printf("%s\n", version.what());
    return kExitDone;
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    const std::string verb = chosen.empty() ? "" : chosen.front()->get_name();
    if (verb.empty() && app.remaining_size() > 0) {
      return wrong_usage("unknown command '" + app.remaining().front() + "'", "clonefs --help", json);
    }
    return wrong_usage((verb.empty() ? "" : verb + ": ") + error.what(),
                       "clonefs " + (verb.empty() ? "" : verb + " ") + "--help", json);
  }
  common.json = json;

  if (mount->parsed()) {
    if (!options_taken) {
      return wrong_usage("mount: " + options_taken.error().message, "clonefs mount --help", json);
    }
    server.json = json;
    return mount_volume(std::move(server));
  }
  if (unmount->parsed()) return unmount_volume(unmounted, common);
  if (in_clone->parsed()) {
    // As they were written, not as CLI11 needs them.
    if (const auto end = std::find(argv + 1, argv + argc, std::string_view("--")); end != argv + argc) {
      exec.command.assign(end + 1, argv + argc);
    }
    return exec_in_clone(exec, common);
  }
  if (differences->parsed()) return diff_clone(diff, common);
  if (back->parsed()) return restore_clone(restore, common);
  if (report->parsed()) return report_session(reported, html, common);
  if (planned->parsed()) return run_plan(plan, common);
  if (doctor->parsed()) return examine_system(common);
  if (generator->parsed()) {
    const auto text = generate(app, generated, page);
    if (!text) return fail("generate", text.error(), common);
    std::fputs(text->c_str(), stdout);
    return kExitDone;
  }
  if (happened->parsed()) return show_events(events, common);
  if (measured->parsed()) return show_metrics(metrics, common);
  if (fsck->parsed()) return fsck_pool(check, common);
  return run_command(*grammar.command(), common);
}

// mount(8): SOURCE MOUNTPOINT [-sfnv] [-N namespace] [-o OPTIONS] [-t TYPE].
int run_mount_helper(int argc, char** argv) {
  ServerOptions server;
  std::vector<std::string> places;
  // The kernel's alone to do: what it keeps of a mounted volume are its own flags.
  for (int i = 1; i + 1 < argc; i++) {
    if (std::strcmp(argv[i], "-o") != 0 ||
        ("," + std::string(argv[i + 1]) + ",").find(",remount,") == std::string::npos) {
      continue;
    }
    std::vector<char*> words{const_cast<char*>("mount"), const_cast<char*>("-i")};
    words.insert(words.end(), argv + 1, argv + argc);
    words.push_back(nullptr);
    ::execvp("mount", words.data());
    std::fprintf(stderr, "mount.fuse.clonefs: cannot run mount: %s\n", std::strerror(errno));
    return kExitFailed;
  }
  for (int i = 1; i < argc; i++) {
    const std::string word = argv[i];
    const bool takes_value = word == "-o" || word == "-t" || word == "-N";
    if (takes_value && i + 1 == argc) return wrong_usage(word + " needs a value", "mount -h");
    if (word == "-o") {
      if (const Status taken = add_mount_options(argv[++i], &server); !taken) {
        std::fprintf(stderr, "mount.fuse.clonefs: %s\n", taken.error().message.c_str());
        return kExitFailed;
      }
    } else if (takes_value) {
      i++;
    } else if (word == "-f") {
      return kExitDone;  // fake
    } else if (word.size() > 1 && word[0] == '-') {
      continue;  // -s, -n, -v
    } else {
      places.push_back(word);
    }
  }
  if (places.size() != 2) {
    return wrong_usage("mount.fuse.clonefs SOURCE MOUNTPOINT [-o OPTIONS]", "clonefs mount --help");
  }
  server.source = places[0];
  server.mountpoint = places[1];
  return mount_volume(std::move(server));
}

// umount(8): MOUNTPOINT [-flnrv] [-N namespace] [-t TYPE].
int run_umount_helper(int argc, char** argv) {
  std::string mountpoint;
  for (int i = 1; i < argc; i++) {
    const std::string word = argv[i];
    if (word == "-t" || word == "-N") {
      i++;
    } else if (word.empty() || word[0] != '-') {
      mountpoint = word;
    }
  }
  if (mountpoint.empty()) return wrong_usage("umount: no mountpoint", "clonefs umount --help");
  return unmount_volume(mountpoint, {});
}

}  // namespace

}  // namespace clonefs

int main(int argc, char** argv) {
  const char* slash = std::strrchr(argv[0], '/');
  const std::string name = slash != nullptr ? slash + 1 : argv[0];
  try {
    if (name.starts_with("mount.")) return clonefs::run_mount_helper(argc, argv);
    if (name.starts_with("umount.")) return clonefs::run_umount_helper(argc, argv);
    return clonefs::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "clonefs: %s\n", error.what());
    return 1;
  }
}
