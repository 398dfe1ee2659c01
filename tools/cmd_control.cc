// The commands of the grammar: through the control file.
#include <cstdio>

#include "fs/json_text.h"
#include "fs/status_text.h"
#include "fs/words.h"
#include "tools/commands.h"
#include "tools/terminal.h"

namespace clonefs {

int fail(const std::string& verb, const Error& error, const CommonOptions& common) {
  if (common.json) {
    std::fputs(dump_json(error_json(error)).c_str(), stdout);
    return kExitFailed;
  }
  // Messages of a session's command begin with the command itself.
  const bool named = error.message.starts_with(verb + " ") || error.message.starts_with(verb + ":");
  std::fprintf(stderr, "clonefs: %s%s\n", named ? "" : (verb + ": ").c_str(),
               printable_lines(error.message).c_str());
  return kExitFailed;
}

int run_command(Command command, const CommonOptions& common) {
  const std::string verb = to_string(command.verb);
  const bool selects = command.verb == Verb::kCreate || command.verb == Verb::kCopy;
  std::vector<std::string> paths = command.create.paths;
  if (command.verb == Verb::kExtents && command.names[0].find('/') != std::string::npos) {
    paths = command.names;
  }
  const auto client = Client::find(common.mount, paths);
  if (!client) return fail(verb, client.error(), common);

  for (std::string& path : paths) {
    auto relative = client->volume_path(path);
    if (!relative) return fail(verb, relative.error(), common);
    path = std::move(*relative);
  }
  if (selects) {
    command.create.paths = paths;
  } else if (!paths.empty()) {
    command.names = paths;
  }
  command.json = common.json;
  if (command.verb == Verb::kMap) return draw_map(*client, command, common);
  if (command.watch) return watch(*client, command, common);

  auto reply = client->send(command);
  if (!reply && reply.error().code == ENOENT && command.verb == Verb::kExtents && paths.empty()) {
    // No session of that name, but perhaps a file in the working directory.
    const auto relative = client->volume_path(command.names[0]);
    if (relative && *relative != command.names[0]) {
      Command again = command;
      again.names = {*relative};
      reply = client->send(again);
    }
  }
  // With damage verify's report is told as the reason why it failed.
  if (!reply && reply.error().code == EUCLEAN && command.verb == Verb::kVerify) {
    std::printf("%s\n", reply.error().message.c_str());
    return 1;
  }
  if (!reply) return fail(verb, reply.error(), common);
  const bool shows = command.verb == Verb::kStatus || command.verb == Verb::kList ||
                     command.verb == Verb::kExtents || command.verb == Verb::kVerify;
  if (shows || command.json || !common.quiet) {
    std::fputs((command.json ? *reply : fit_lines(*reply, look_at_terminal())).c_str(), stdout);
  }
  return 0;
}

}  // namespace clonefs
