#include "tools/generate.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cctype>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "fs/mount_options.h"

namespace clonefs {

namespace {

// --- the description -----------------------------------------------------------------------------

// What can stand in the place of a value.
struct Value {
  std::string name;                // "DIR"; "": there is none
  std::vector<std::string> words;  // these; and files when FILES
  bool files = false, directories = false, clones = false, commands = false;
};

struct Option {
  std::vector<std::string> names;  // "-q", "--quiet"
  Value value;
  std::string help;
  bool many = false;
};

struct Positional {
  Value value;
  std::string help;
  bool required = false, many = false;
};

struct VerbHelp {
  std::string name, help, footer;
  std::vector<Option> options;
  std::vector<Positional> positionals;
};

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
  return parts;
}

// NAME: how it is called; words in small letters between '|' are the values themselves.
Value value_of(const std::string& name) {
  Value value;
  value.name = name;
  for (const std::string& part : split(name, '|')) {
    if (part == "DIR" || part == "SOURCE" || part == "MOUNTPOINT" || part == "POOL") {
      value.directories = true;
    } else if (part == "FILE" || part == "PATH") {
      value.files = true;
    } else if (part == "NAME") {
      value.clones = true;
    } else if (part == "COMMAND") {
      value.commands = true;
    } else if (!part.empty() && std::islower(static_cast<unsigned char>(part[0])) != 0) {
      value.words.push_back(part);
    }
  }
  return value;
}

// CLI11's own words for types say nothing.
std::string own_type(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  for (const char* general : {"TEXT", "INT", "UINT", "FLOAT"}) {
    if (type == general || type.starts_with(std::string(general) + ":")) return {};
  }
  return type;
}

VerbHelp describe(const CLI::App& app) {
  VerbHelp verb;
  verb.name = app.get_name();
  verb.help = app.get_description();
  verb.footer = app.get_footer();
  for (const CLI::Option* o : app.get_options()) {
    if (o->get_group().empty()) continue;  // hidden
    const std::string type = own_type(*o);
    const bool many = o->get_items_expected_max() > 1;
    if (o->get_positional()) {
      Positional positional;
      const std::string name = o->get_name(true);
      positional.value = value_of(type.empty() ? name : type);
      positional.value.name = name;
      positional.help = o->get_description();
      positional.required = o->get_required();
      positional.many = many;
      verb.positionals.push_back(positional);
      continue;
    }
    Option option;
    for (const std::string& name : o->get_snames()) option.names.push_back("-" + name);
    for (const std::string& name : o->get_lnames()) option.names.push_back("--" + name);
    if (o->get_items_expected_max() != 0) option.value = value_of(type.empty() ? "VALUE" : type);
    option.help = o->get_description();
    option.many = many;
    verb.options.push_back(option);
  }
  return verb;
}

struct Description {
  VerbHelp common;
  std::vector<VerbHelp> verbs;
};

Description describe_all(const CLI::App& app) {
  Description all;
  all.common = describe(app);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!sub->get_group().empty()) all.verbs.push_back(describe(*sub));
  }
  return all;
}

// Of VERB, and those that stand with any verb.
std::vector<Option> options_with(const Description& all, const VerbHelp& verb) {
  std::vector<Option> options = verb.options;
  for (const Option& common : all.common.options) {
    const bool known = std::any_of(options.begin(), options.end(), [&](const Option& o) {
      return o.names.back() == common.names.back();
    });
    if (!known && common.names.back() != "--version") options.push_back(common);
  }
  return options;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string joined(const std::vector<std::string>& words, const char* by) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : by) + word;
  return text;
}

// --- man pages -----------------------------------------------------------------------------------

std::string roff(const std::string& text) {
  std::string out = replaced(replaced(text, "\\", "\\e"), "-", "\\-");
  if (!out.empty() && (out[0] == '.' || out[0] == '\'')) out.insert(0, "\\&");
  return replaced(replaced(out, "\n.", "\n\\&."), "\n'", "\n\\&'");
}
std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

std::string man_option(const Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.names) names.push_back(bold(name));
  return ".TP\n" + joined(names, ", ") +
         (option.value.name.empty() ? "" : " " + italic(option.value.name)) + "\n" + roff(option.help) + "\n";
}

std::string man_commands(const Description& all) {
  std::string text;
  for (const VerbHelp& verb : all.verbs) {
    text += ".SS clonefs " + roff(verb.name) + "\n.B clonefs " + roff(verb.name) + "\n[" + italic("OPTIONS") + "]\n";
    for (const Positional& p : verb.positionals) {
      const std::string name = italic(p.value.name) + (p.many ? "..." : "");
      text += (p.required ? name : "[" + name + "]") + "\n";
    }
    text += ".PP\n" + roff(verb.help) + (verb.help.ends_with(".") ? "\n" : ".\n");
    for (const Positional& p : verb.positionals) {
      text += ".TP\n" + italic(p.value.name) + "\n" + roff(p.help) + "\n";
    }
    for (const Option& option : verb.options) {
      if (option.names.back() != "--help") text += man_option(option);
    }
    if (!verb.footer.empty()) text += ".PP\n" + roff(verb.footer) + "\n";
  }
  return text;
}

std::string man_common(const Description& all) {
  std::string text;
  for (const Option& option : all.common.options) text += man_option(option);
  return text;
}

std::string man_mount_options() {
  std::string text;
  for (const MountOption& option : mount_options()) {
    text += ".TP\n" + bold(option.name) + (option.value == nullptr ? "" : "=" + italic(option.value)) + "\n" +
            roff(option.help) + "\n";
  }
  return text;
}

Result<std::string> man(const Description& all, const std::string& template_file) {
  std::ifstream file(template_file);
  if (!file) return Error::from_errno(errno, template_file);
  std::string text;
  for (std::string line; std::getline(file, line);) {
    if (line == "@COMMANDS@") {
      text += man_commands(all);
    } else if (line == "@COMMON_OPTIONS@") {
      text += man_common(all);
    } else if (line == "@MOUNT_OPTIONS@") {
      text += man_mount_options();
    } else {
      text += replaced(line, "@VERSION@", CLONEFS_VERSION) + "\n";
    }
  }
  return text;
}

// --- completions ---------------------------------------------------------------------------------

// Names of clones, from the table that people see.
constexpr char kListClones[] =
    R"(clonefs list 2>/dev/null | sed -n '2,$s/^\([A-Za-z0-9][A-Za-z0-9._-]*\)  .*/\1/p')";

std::string quoted(const std::string& text) { return "'" + replaced(text, "'", "'\\''") + "'"; }

// What bash completes a value with.
std::string bash_value(const Value& value) {
  std::string text;
  if (!value.words.empty()) text += " -W " + quoted(joined(value.words, " "));
  if (value.files) text += " -f";
  if (value.directories) text += " -d";
  if (value.commands) text += " -c";
  std::string all = text.empty() ? "" : "compgen" + text + " -- \"$cur\"";
  if (value.clones) {
    all += (all.empty() ? "" : "; ") + std::string("compgen -W \"$(") + kListClones + ")\" -- \"$cur\"";
  }
  return all;
}

std::string bash(const Description& all) {
  std::string verbs;
  for (const VerbHelp& verb : all.verbs) verbs += (verbs.empty() ? "" : " ") + verb.name;
  const auto names_of = [](const std::vector<Option>& options) {
    std::string names;
    for (const Option& o : options)
      for (const std::string& name : o.names) names += (names.empty() ? "" : " ") + name;
    return names;
  };
  std::string with_value;
  for (const Option& o : all.common.options) {
    if (!o.value.name.empty()) with_value += (with_value.empty() ? "" : "|") + joined(o.names, "|");
  }
  std::string text = R"(# bash completion for clonefs; made by the build from what clonefs --help says
_clonefs_reply() {  # lines of stdin
  local line
  while IFS= read -r line; do COMPREPLY+=("$line"); done
}
_clonefs() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= position=0 i word
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case $word in
)";
  text += "      " + with_value + ") ((i++)) ;;\n";
  text += R"(      -*) ;;
      *) verb=$word; break ;;
    esac
  done
  case $verb in
    '')
)";
  text += "      case $prev in\n";
  for (const Option& o : all.common.options) {
    if (!o.value.name.empty()) {
      text += "        " + joined(o.names, "|") + ") _clonefs_reply < <(" + bash_value(o.value) + "); return ;;\n";
    }
  }
  text += "      esac\n      _clonefs_reply < <(compgen -W " + quoted(verbs + " " + names_of(all.common.options)) +
          " -- \"$cur\")\n      return ;;\n";
  for (const VerbHelp& verb : all.verbs) {
    const auto options = options_with(all, verb);
    text += "    " + verb.name + ")\n      case $prev in\n";
    std::string values;
    for (const Option& o : options) {
      if (o.value.name.empty()) continue;
      values += (values.empty() ? "" : "|") + joined(o.names, "|");
      text += "        " + joined(o.names, "|") + ") ";
      const std::string complete = bash_value(o.value);
      if (!complete.empty()) text += "_clonefs_reply < <(" + complete + "); ";
      text += "return ;;\n";
    }
    text += "      esac\n";
    text += "      if [[ $cur == -* ]]; then _clonefs_reply < <(compgen -W " + quoted(names_of(options)) +
            " -- \"$cur\"); return; fi\n";
    if (!verb.positionals.empty()) {
      text += "      for ((i++; i < COMP_CWORD; i++)); do\n        case ${COMP_WORDS[i]} in\n";
      if (!values.empty()) text += "          " + values + ") ((i++)) ;;\n";
      text += "          -*) ;;\n          *) ((position++)) ;;\n        esac\n      done\n      case $position in\n";
      for (size_t i = 0; i < verb.positionals.size(); i++) {
        const Positional& p = verb.positionals[i];
        const std::string complete = bash_value(p.value);
        text += "        " + (p.many ? std::string("*") : std::to_string(i)) + ") " +
                (complete.empty() ? ":" : "_clonefs_reply < <(" + complete + ")") + " ;;\n";
      }
      text += "      esac\n";
    }
    text += "      return ;;\n";
  }
  return text + "  esac\n}\ncomplete -o filenames -F _clonefs clonefs\n";
}

std::string zsh_text(const std::string& text) {
  return replaced(replaced(replaced(replaced(replaced(text, "\\", "\\\\"), "'", "'\\''"), "[", "\\["), "]", "\\]"),
                  ":", "\\:");
}

std::string zsh_value(const Value& value) {
  std::vector<std::string> ways;
  if (!value.words.empty()) ways.push_back("(" + joined(value.words, " ") + ")");
  if (value.clones && value.files) return "_clonefs_clones_and_files";
  if (value.clones) return "_clonefs_clones";
  if (!ways.empty()) return ways.front();
  if (value.directories) return "_files -/";
  if (value.files) return "_files";
  if (value.commands) return "_command_names -e";
  return "";
}

std::string zsh_options(const std::vector<Option>& options, const char* indent) {
  std::string text;
  for (const Option& o : options) {
    for (const std::string& name : o.names) {
      text += std::string(indent) + "'" + (o.many ? "*" : "") + name + "[" + zsh_text(o.help) + "]" +
              (o.value.name.empty() ? "" : ":" + zsh_text(o.value.name) + ":" + zsh_value(o.value)) + "' \\\n";
    }
  }
  return text;
}

std::string zsh(const Description& all) {
  std::string text = R"Z(#compdef clonefs
# zsh completion for clonefs; made by the build from what clonefs --help says
_clonefs_clones() { compadd -- ${(f)"$()Z" + std::string(kListClones) + R"Z()"} }
_clonefs_clones_and_files() { _clonefs_clones; _files }
_clonefs() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C \
)Z";
  text += zsh_options(all.common.options, "    ");
  text += "    '1:command:->verb' '*::argument:->rest'\n  case $state in\n    verb)\n      local -a verbs=(\n";
  for (const VerbHelp& verb : all.verbs) text += "        '" + verb.name + ":" + zsh_text(verb.help) + "'\n";
  text += "      )\n      _describe command verbs ;;\n    rest)\n      case $line[1] in\n";
  for (const VerbHelp& verb : all.verbs) {
    text += "        " + verb.name + ")\n          _arguments \\\n" + zsh_options(options_with(all, verb), "            ");
    for (size_t i = 0; i < verb.positionals.size(); i++) {
      const Positional& p = verb.positionals[i];
      text += "            '" + (p.many ? std::string("*") : std::to_string(i + 1)) +
              (p.required || p.many ? ":" : "::") + zsh_text(p.value.name) + ":" + zsh_value(p.value) + "' \\\n";
    }
    text += "            && return ;;\n";
  }
  return text + "      esac ;;\n  esac\n}\n_clonefs \"$@\"\n";
}

std::string fish_value(const Value& value) {
  std::vector<std::string> from = value.words;
  if (value.clones) from.emplace_back("(__clonefs_clones)");
  if (value.directories) from.emplace_back("(__fish_complete_directories)");
  if (value.commands) from.emplace_back("(__fish_complete_command)");
  return (value.files ? " -F" : "") + (from.empty() ? "" : " -a " + quoted(joined(from, " ")));
}

std::string fish_option(const std::string& start, const Option& o) {
  std::string text = start;
  for (const std::string& name : o.names)
    text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (!o.value.name.empty()) text += (o.value.files ? " -r" : " -x") + fish_value(o.value);
  return text + " -d " + quoted(o.help) + "\n";
}

std::string fish(const Description& all) {
  std::string text = "# fish completion for clonefs; made by the build from what clonefs --help says\n"
                     "function __clonefs_clones\n    " +
                     std::string(kListClones) + "\nend\ncomplete -c clonefs -f\n";
  for (const VerbHelp& verb : all.verbs) {
    text += "complete -c clonefs -n __fish_use_subcommand -a " + verb.name + " -d " + quoted(verb.help) + "\n";
  }
  for (const Option& o : all.common.options) {
    const bool alone = o.names.back() == "--version" || o.names.back() == "--help";
    text += fish_option(alone ? "complete -c clonefs -n __fish_use_subcommand" : "complete -c clonefs", o);
  }
  for (const VerbHelp& verb : all.verbs) {
    const std::string start = "complete -c clonefs -n '__fish_seen_subcommand_from " + verb.name + "'";
    for (const Option& o : verb.options) text += fish_option(start, o);
    for (const Positional& p : verb.positionals) {
      const std::string value = fish_value(p.value);
      if (!value.empty()) text += start + value + "\n";
    }
  }
  return text;
}

}  // namespace

Result<std::string> generate(const CLI::App& app, const std::string& what, const std::string& template_file) {
  const Description all = describe_all(app);
  if (what == "man") return man(all, template_file);
  if (what == "bash") return bash(all);
  if (what == "zsh") return zsh(all);
  if (what == "fish") return fish(all);
  return Error{EINVAL, "'" + what + "' cannot be generated. Write man, bash, zsh or fish."};
}

}  // namespace clonefs
