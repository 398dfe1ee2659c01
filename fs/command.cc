#include "fs/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "engine/moment.h"
#include "fs/words.h"

namespace clonefs {

namespace {

using Check = std::function<std::string(std::string&)>;

[[noreturn]] void refuse(const std::string& why) {
  throw CLI::ValidationError(why, EINVAL);
}

uint64_t size_of(const std::string& text) {
  auto size = parse_size(text);
  if (!size) refuse(size.error().message);
  return *size;
}

ByteRange extent_of(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) {
    refuse("'" + text + "' is not an extent. Write OFFSET:LENGTH, for instance 0:64K.");
  }
  const ByteRange range{size_of(text.substr(0, colon)), size_of(text.substr(colon + 1))};
  if (range.length == 0) refuse("the extent '" + text + "' is empty. Its length must not be 0.");
  return range;
}

TrackSize track_size_of(const std::string& text) {
  const uint64_t bytes = size_of(text);
  if (!TrackSize::valid(bytes)) {
    refuse("'" + text + "' is no track size. Use a power of two from 4K to 16M.");
  }
  return TrackSize(bytes);
}

uint64_t duration_of(const std::string& text) {
  const auto duration = parse_duration(text);
  if (!duration) refuse(duration.error().message);
  return *duration;
}

int64_t moment_of(const std::string& text) {
  const auto moment = parse_moment(text, ::time(nullptr));
  if (!moment) refuse(moment.error().message);
  return *moment;
}

std::chrono::milliseconds seconds_of(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(seconds >= 0 && seconds <= 1e9)) {
    refuse("'" + text + "' is not a time in seconds.");
  }
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

constexpr Verb kVerbs[] = {Verb::kCreate, Verb::kRecreate, Verb::kPrecopy, Verb::kActivate, Verb::kCopy,
                           Verb::kStatus, Verb::kList,    Verb::kWait,     Verb::kTerminate,
                           Verb::kDelete, Verb::kExtents, Verb::kRate,     Verb::kResume,
                           Verb::kVerify, Verb::kMap,     Verb::kHold,     Verb::kRelease,
                           Verb::kLogLevel};

bool is_verb(const std::string& word) {
  return std::any_of(std::begin(kVerbs), std::end(kVerbs),
                     [&word](Verb verb) { return word == to_string(verb); });
}

std::string verb_list() {
  std::string list;
  for (const Verb verb : kVerbs) list += (list.empty() ? "" : ", ") + std::string(to_string(verb));
  return list;
}

// What CLI11 says of a wrong command, behind the command's name.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  std::string text = error.what();
  const auto chosen = app.get_subcommands();
  if (chosen.empty()) return text;
  if (!text.empty() && text.back() != '.') text += '.';
  return chosen.front()->get_name() + ": " + text;
}

unsigned kept_of(const std::string& text) {
  unsigned count = 0;
  const char* const end = text.data() + text.size();
  const auto r = std::from_chars(text.data(), end, count);
  if (r.ec != std::errc() || r.ptr != end) refuse("'" + text + "' is no number of generations.");
  return count;
}

uint64_t pace_of(const std::string& text) {
  if (text == "auto") return kPaceAuto;
  if (text == "max" || text == "unlimited") return kPaceMax;
  const uint64_t bytes = size_of(text);
  if (bytes == 0) refuse("a pace of 0 would never end. Write auto, max (or unlimited), or bytes a second.");
  return bytes;
}

constexpr uint64_t kMostCells = 65536;

std::string pace_word(uint64_t pace) {
  if (pace == kPaceAuto) return "auto";
  return pace == kPaceMax ? "max" : std::to_string(pace);
}

}  // namespace

const char* to_string(Verb verb) {
  switch (verb) {
    case Verb::kCreate:
      return "create";
    case Verb::kRecreate:
      return "recreate";
    case Verb::kPrecopy:
      return "precopy";
    case Verb::kActivate:
      return "activate";
    case Verb::kCopy:
      return "copy";
    case Verb::kStatus:
      return "status";
    case Verb::kList:
      return "list";
    case Verb::kWait:
      return "wait";
    case Verb::kTerminate:
      return "terminate";
    case Verb::kDelete:
      return "delete";
    case Verb::kExtents:
      return "extents";
    case Verb::kRate:
      return "rate";
    case Verb::kResume:
      return "resume";
    case Verb::kVerify:
      return "verify";
    case Verb::kMap:
      return "map";
    case Verb::kHold:
      return "hold";
    case Verb::kRelease:
      return "release";
    case Verb::kLogLevel:
      return "log-level";
  }
  return "?";
}

std::string format_command(const Command& command) {
  std::vector<std::string> words{to_string(command.verb)};
  const CreateOptions& create = command.create;
  if (command.json) words.emplace_back("--json");
  if (command.force) words.emplace_back("--force");
  if (create.precopy || command.recreate.precopy) words.emplace_back("--precopy");
  if (command.recreate.in_place) words.emplace_back("--in-place-refresh");
  if (command.recreate.keep > 0) {
    words.push_back("--keep=" + std::to_string(command.recreate.keep));
  }
  if (create.nocopy) words.emplace_back("--nocopy");
  if (create.thin) words.emplace_back("--thin");
  if (create.pace != kPaceAuto) words.push_back("--pace=" + pace_word(create.pace));
  const uint64_t ttl_s = create.ttl_s != 0 ? create.ttl_s : command.recreate.ttl_s.value_or(0);
  if (ttl_s != 0 || command.recreate.ttl_s)
    words.push_back("--ttl=" + (ttl_s == 0 ? "never" : format_duration(ttl_s)));
  const int64_t precopy_at = std::max(create.precopy_at, command.recreate.precopy_at);
  if (precopy_at != 0) words.push_back("--precopy-at=" + format_moment(precopy_at));
  const int64_t activate_at = std::max(create.activate_at, command.recreate.activate_at);
  if (activate_at != 0) words.push_back("--activate-at=" + format_moment(activate_at));
  for (const ByteRange& range : create.extents) {
    words.push_back("--extent=" + std::to_string(range.offset) + ":" +
                    std::to_string(range.length));
  }
  if (create.track_size) {
    words.push_back("--track-size=" + std::to_string(create.track_size->bytes()));
  }
  if (command.verb == Verb::kWait) {
    words.emplace_back(command.goal == Engine::Goal::kCopied ? "--for=copied" : "--for=precopied");
    if (command.timeout) {
      const auto ms = command.timeout->count();
      const std::string rest = std::to_string(ms % 1000 + 1000).substr(1);
      words.push_back("--timeout=" + std::to_string(ms / 1000) + "." + rest);
    }
  }
  if (command.verb == Verb::kMap) words.push_back("--cells=" + std::to_string(command.cells));
  words.emplace_back("--");
  if (!create.name.empty()) words.push_back(create.name);
  words.insert(words.end(), create.paths.begin(), create.paths.end());
  words.insert(words.end(), command.names.begin(), command.names.end());
  if (!command.tag.empty()) words.push_back(command.tag);
  if (!command.level.empty()) words.push_back(command.level);
  if (command.verb == Verb::kRate) {
    words.push_back(pace_word(command.rate));
  }
  return join_words(words) + "\n";
}

void CommandGrammar::add_to(CLI::App& app, bool for_command_line) {
  Command& draft = draft_;
  CreateOptions& create = draft_.create;

  const auto add = [&](Verb verb, const char* description) {
    CLI::App* sub = app.add_subcommand(to_string(verb), description);
    sub->fallthrough();  // options that all commands share may stand behind
    sub->add_flag("--json", draft.json, "answer as JSON");
    sub->callback([this, verb] {
      draft_.verb = verb;
      draft_.create.activate = verb == Verb::kCopy;
      command_ = draft_;
    });
    return sub;
  };
  const auto name_check = CLI::Validator([](std::string& name) { return check_name(name); }, "");
  const auto names = [&](CLI::App* sub, const char* what) {
    return sub->add_option("NAME", draft.names, what)->check(name_check);
  };
  const auto one_name = [&](CLI::App* sub) {
    sub->add_option_function<std::string>(
           "NAME", [&draft](const std::string& name) { draft.names = {name}; }, "the session")
        ->required()
        ->check(name_check);
  };
  const auto selection = [&](CLI::App* sub) {
    sub->add_option("NAME", create.name, "name of the new session and its clone")
        ->required()
        ->check(name_check);
    sub->add_option("PATH", create.paths,
                    "files and directories of the volume; '.' is the whole volume")
        ->required();
    sub->add_flag("--nocopy", create.nocopy,
                  "no background copy: only tracks that are written or read get copied");
    sub->add_flag("--thin", create.thin, "do not ask whether the pool has room for everything");
    sub->add_option_function<std::string>(
        "--pace", [&create](const std::string& text) { create.pace = pace_of(text); },
        "of the background copy: auto (the default: it keeps out of the way of programs that use the "
        "volume), max, or bytes a second (10M)")
        ->type_name("auto|max|BYTES");
    sub->add_option_function<std::vector<std::string>>(
           "--extent",
           [&create](const std::vector<std::string>& texts) {
             for (const std::string& text : texts) create.extents.push_back(extent_of(text));
           },
           "only this part of each file; may be given several times")
        ->type_name("OFFSET:LENGTH")
        ->allow_extra_args(false);
    sub->add_option_function<std::string>(
        "--track-size",
        [&create](const std::string& text) { create.track_size = track_size_of(text); },
        "a power of two from 4K to 16M")
        ->type_name("N");
    sub->add_option_function<std::string>(
        "--ttl", [&create](const std::string& text) { create.ttl_s = duration_of(text); },
        "the clone is removed so long after its consistency point, unless somebody holds it: 36h, 7d");
  };
  const auto force = [&](CLI::App* sub, const char* what) {
    sub->add_flag("--force", draft.force, what);
  };

  const auto times = [&](CLI::App* of, int64_t* precopy_at, int64_t* activate_at) {
    of->add_option_function<std::string>(
        "--precopy-at", [precopy_at](const std::string& text) { *precopy_at = moment_of(text); },
        "begin with that at this time: 2026-11-27T02:00:00Z, 02:00 (local, the next one), +30m");
    of->add_option_function<std::string>(
        "--activate-at", [activate_at](const std::string& text) { *activate_at = moment_of(text); },
        "take the consistency point at this time; clones of the same second have one together");
  };

  CLI::App* sub = add(Verb::kCreate, "Prepare a clone: check the selection and build its skeleton");
  selection(sub);
  sub->add_flag("--precopy", create.precopy, "begin to copy before the activation");
  times(sub, &create.precopy_at, &create.activate_at);

  sub = add(Verb::kRecreate,
            "Prepare the next generation of clones: the same names and paths, of which only what changed "
            "is copied; activate takes its consistency point");
  names(sub, "clones that are copied")->required();
  sub->add_flag("--precopy", draft.recreate.precopy, "begin to copy before the activation");
  sub->add_flag("--in-place-refresh", draft.recreate.in_place,
                "bring the clone itself up to date, which is locked until its activation: for a pool "
                "that has no room for both generations");
  sub->add_option_function<std::string>(
         "--keep", [&draft](const std::string& text) { draft.recreate.keep = kept_of(text); },
         "at the activation keep so many older generations, as NAME.1 (the one before), NAME.2 ...")
      ->type_name("N");
  times(sub, &draft.recreate.precopy_at, &draft.recreate.activate_at);
  sub->add_option_function<std::string>(
      "--ttl", [&draft](const std::string& text) {
        draft.recreate.ttl_s = text == "never" ? 0 : duration_of(text);
      },
      "of this generation: it is removed so long after its consistency point, or never; default: as the one "
      "before");

  sub = add(Verb::kPrecopy, "Begin to copy created sessions before their activation");
  names(sub, "sessions")->required();

  sub = add(Verb::kActivate, "Take the consistency point: all named clones show the same instant");
  names(sub, "sessions")->required();

  sub = add(Verb::kCopy, "Create and activate in one: an instant clone (ACTIVE COPY)");
  selection(sub);

  sub = add(Verb::kStatus, "Show sessions, their operation and how far the drain is");
  sub->add_option_function<std::string>(
         "NAME", [&draft](const std::string& name) { draft.names = {name}; },
         "the session; default: all")
      ->check(name_check);
  if (for_command_line) {
    sub->add_flag("--watch", draft.watch, "go on showing until everything is copied");
  }

  add(Verb::kList, "List all clones, terminated ones too");

  sub = add(Verb::kWait, "Wait until sessions are copied");
  names(sub, "all of these")->required();
  sub->add_option_function<std::string>(
      "--for",
      [&draft](const std::string& goal) {
        if (goal != "precopied" && goal != "copied") {
          refuse("'" + goal + "' cannot be waited for. Write precopied or copied.");
        }
        draft.goal = goal == "copied" ? Engine::Goal::kCopied : Engine::Goal::kPrecopied;
      },
      "precopied or copied (the default)")
      ->type_name("precopied|copied");
  sub->add_option_function<std::string>(
      "--timeout", [&draft](const std::string& text) { draft.timeout = seconds_of(text); },
      "then the command fails")
      ->type_name("SECONDS");

  sub = add(Verb::kTerminate, "End copied sessions; their clones remain as plain trees");
  names(sub, "sessions")->required();
  force(sub, "end sessions that are not copied, and remove their incomplete clones");

  sub = add(Verb::kDelete, "Remove clones");
  names(sub, "clones")->required();
  force(sub, "also those that are not copied yet, and failed ones");

  sub = add(Verb::kExtents, "Show the extents of a session's files and the bits of their tracks");
  sub->add_option_function<std::string>(
         "NAME|PATH", [&draft](const std::string& word) { draft.names = {word}; },
         "a session, or a file of the volume")
      ->required();

  sub = add(Verb::kRate, "The pace of a session's copy program; may change while it runs");
  one_name(sub);
  sub->add_option_function<std::string>(
         "PACE", [&draft](const std::string& text) { draft.rate = pace_of(text); },
         "bytes a second (10M); auto: it keeps out of the way of programs that use the volume; max or "
         "unlimited: as fast as it goes")
      ->required();

  sub = add(Verb::kResume, "Go on with copy programs that errors have paused");
  names(sub, "sessions")->required();

  sub = add(Verb::kVerify, "Read a clone and compare it with what was copied; fails with damage");
  one_name(sub);

  sub = add(Verb::kMap, "Show the tracks of a session as a picture");
  one_name(sub);
  sub->add_option_function<std::string>(
      "--cells",
      [&draft](const std::string& text) {
        const uint64_t cells = size_of(text);
        if (cells == 0 || cells > kMostCells) {
          refuse("'" + text + "' cells cannot be drawn. Write a number from 1 to 65536.");
        }
        draft.cells = cells;
      },
      "into so many parts the tracks are divided (default 2048; a terminal decides itself)");
  if (for_command_line) {
    CLI::Option* watch = sub->add_flag("--watch", draft.watch, "go on showing until everything is copied");
    sub->add_option("--svg", draft.svg, "write the picture to this file")
        ->excludes(watch)
        ->check(CLI::Validator([](std::string& file) { return check_given(file); }, ""));
  }

  const auto tag = [&](CLI::App* of) {
    one_name(of);
    of->add_option("TAG", draft.tag, "who holds it: a word of your own, as the name of a session")
        ->required()
        ->check(name_check);
  };
  tag(add(Verb::kHold, "Keep a clone from being removed, until it is released"));
  tag(add(Verb::kRelease, "End a hold"));
  sub = add(Verb::kLogLevel, "Show or change how much goes to the daemon's log");
  sub->add_option_function<std::string>(
      "LEVEL",
      [&draft](const std::string& level) {
        if (const Status known = check_log_level(level); !known) refuse(known.error().message);
        draft.level = level;
      },
      "until the volume is unmounted")
      ->type_name("trace|debug|info|warn|error");
}

std::string check_given(const std::string& text) { return text.empty() ? "it is empty" : ""; }

std::string check_name(const std::string& name) {
  if (is_session_name(name)) return {};
  return "'" + name + "' cannot be the name of a session: use 1 to 64 letters, digits, '.', '_' " +
         "and '-', beginning with a letter or digit.";
}

std::vector<std::string> protect_words(std::vector<std::string> words) {
  // "./X" is the same path, and no name or number looks like this.
  for (std::string& word : words) {
    if (word == "{}" || word == "++" || (word.size() > 1 && word[0] == '[' && word.back() == ']')) {
      word.insert(0, "./");
    }
  }
  return words;
}

Result<ControlLine> parse_control_words(const std::vector<std::string>& words) {
  if (words.empty()) {
    return Error{EINVAL, "no command was given. Write one, for instance: status (or --help)."};
  }
  CLI::App app("Commands of this volume, one a line", "");
  app.require_subcommand(1);
  app.set_help_flag("--help", "say how a command is written");
  CommandGrammar grammar;
  grammar.add_to(app, false);
  if (!is_verb(words[0]) && words[0].substr(0, 1) != "-") {
    return Error{EINVAL, "unknown command '" + words[0] + "'. Write one of " + verb_list() + "."};
  }
  std::vector<std::string> reversed = protect_words(words);
  std::reverse(reversed.begin(), reversed.end());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return ControlLine{std::nullopt, app.help()};
  } catch (const CLI::ParseError& error) {
    return Error{EINVAL, usage_message(app, error)};
  }
  return ControlLine{grammar.command(), {}};
}

}  // namespace clonefs
