// The commands: one grammar for the command line of `clonefs` and for the control files.
//
// Errors: EINVAL with a message that names the word and the right form. Thread safety: a
// CommandGrammar belongs to one thread; the functions have no state.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "extents/result.h"

namespace CLI {  // NOLINT(readability-identifier-naming)
class App;
}

namespace clonefs {

enum class Verb {
  kCreate,
  kRecreate,
  kPrecopy,
  kActivate,
  kCopy,
  kStatus,
  kList,
  kWait,
  kTerminate,
  kDelete,
  kExtents,
  kRate,
  kResume,
  kVerify,
  kMap,
  kHold,
  kRelease,
  kLogLevel,
};

const char* to_string(Verb verb);

struct Command {
  Verb verb = Verb::kStatus;
  std::vector<std::string> names;  // sessions; extents: one session or path
  CreateOptions create;            // create, copy; the name is there
  RecreateOptions recreate;        // recreate; the names are in NAMES
  std::string tag;                 // hold, release
  bool json = false;
  size_t cells = 2048;  // of verb map
  // The command line's alone.
  bool watch = false;
  std::string svg;  // a file
  bool force = false;
  Engine::Goal goal = Engine::Goal::kCopied;
  std::optional<std::chrono::milliseconds> timeout;
  std::string level;          // log-level; "": only show it
  uint64_t rate = kPaceAuto;  // of verb rate: as CreateOptions::pace
};

// The command as one control line, without what is the command line's alone.
std::string format_command(const Command& command);

// The subcommands, for a CLI::App that parses once.
class CommandGrammar {
 public:
  // Adds them to APP; this must outlive its parsing. FOR_COMMAND_LINE: with what only the command
  // line can do.
  void add_to(CLI::App& app, bool for_command_line);
  // What was given; nothing if it was none of ours.
  const std::optional<Command>& command() const { return command_; }

 private:
  Command draft_;
  std::optional<Command> command_;
};

// "": TEXT is not empty; else why it is refused, for CLI11: a variable of a script that is not set must not
// mean the default.
std::string check_given(const std::string& text);
// "": NAME can be that of a session; else why not, for CLI11.
std::string check_name(const std::string& name);

// What CLI11 would take for something else ("[a,b]", "{}", "++") as it must be handed to it.
std::vector<std::string> protect_words(std::vector<std::string> words);

// A control line's words. Either COMMAND, or TEXT: help that was asked for.
struct ControlLine {
  std::optional<Command> command;
  std::string text;
};
Result<ControlLine> parse_control_words(const std::vector<std::string>& words);

}  // namespace clonefs
