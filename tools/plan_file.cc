#include "tools/plan_file.h"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <set>

#include "engine/engine.h"
#include "engine/moment.h"
#include "fs/json_text.h"
#include "fs/words.h"
#include "tools/calendar.h"

namespace clonefs {

namespace {

constexpr uint64_t kMaxWindow = 7 * 86400;
constexpr unsigned kMaxClones = 1000;

unsigned line_of(const toml::node& node) { return node.source().begin.line; }

// Takes known keys out of a table; says what is wrong with the first that is.
class Reader {
 public:
  Reader(const std::string& file, const toml::table& table, const std::string& where)
      : file_(file), table_(table), where_(where) {}

  Error wrong(unsigned line, const std::string& why) const {
    return {EINVAL, file_ + ":" + std::to_string(line) + ": " + why};
  }

  void text(const char* key, std::string* to) {
    if (const toml::node* node = take(key)) {
      if (const auto value = node->value_exact<std::string>()) {
        *to = *value;
      } else {
        refuse(*node, key, "a text in quotes");
      }
    }
  }
  void flag(const char* key, bool* to) {
    if (const toml::node* node = take(key)) {
      if (const auto value = node->value_exact<bool>()) {
        *to = *value;
      } else {
        refuse(*node, key, "true or false");
      }
    }
  }
  void number(const char* key, unsigned* to, unsigned least, unsigned most) {
    if (const toml::node* node = take(key)) {
      const auto value = node->value_exact<int64_t>();
      if (value && *value >= least && *value <= most) {
        *to = static_cast<unsigned>(*value);
      } else {
        refuse(*node, key, "a number from " + std::to_string(least) + " to " + std::to_string(most));
      }
    }
  }
  void duration(const char* key, uint64_t* to) {
    std::string text_value;
    const toml::node* node = table_.get(key);
    text(key, &text_value);
    if (!status_ || text_value.empty()) return;
    const auto seconds = parse_duration(text_value);
    if (seconds) {
      *to = *seconds;
    } else {
      status_ = wrong(line_of(*node), std::string(key) + ": " + seconds.error().message);
    }
  }
  void texts(const char* key, std::vector<std::string>* to) {
    const toml::node* node = take(key);
    if (node == nullptr) return;
    if (const auto one = node->value_exact<std::string>()) {
      *to = {*one};
      return;
    }
    const toml::array* array = node->as_array();
    for (size_t i = 0; array != nullptr && i < array->size(); i++) {
      const auto value = array->get(i)->value_exact<std::string>();
      if (!value) array = nullptr;
      if (value) to->push_back(*value);
    }
    if (array == nullptr) refuse(*node, key, "a list of texts, [\"a\", \"b\"]");
  }
  const toml::node* take(const char* key) {
    known_.insert(key);
    return table_.get(key);
  }
  // What was wrong, or a key that nobody took.
  Status done() {
    if (!status_) return status_;
    for (const auto& [key, node] : table_) {
      if (known_.contains(std::string(key.str()))) continue;
      std::string list;
      for (const auto& name : known_) list += (list.empty() ? "" : ", ") + name;
      return wrong(key.source().begin.line, "unknown key '" + std::string(key.str()) + "' " + where_ +
                                                "; there are " + list);
    }
    return {};
  }
  void refuse(const toml::node& node, const char* key, const std::string& wanted) {
    if (status_) status_ = wrong(line_of(node), std::string(key) + " is " + wanted);
  }

 private:
  const std::string& file_;
  const toml::table& table_;
  const std::string where_;
  std::set<std::string> known_;
  Status status_;
};

void read_hooks(Reader& reader, PlanHooks* hooks) {
  reader.text("before", &hooks->before);
  reader.text("after", &hooks->after);
  reader.text("finally", &hooks->finally);
}

Status read_clone(const std::string& file, const toml::table& table, const Plan& plan,
                  PlannedClone* clone) {
  Reader reader(file, table, "of a clone");
  clone->line = line_of(table);
  reader.text("name", &clone->name);
  reader.texts("paths", &clone->paths);
  reader.flag("precopy", &clone->precopy);
  reader.duration("ttl", &clone->ttl_s);
  reader.number("keep", &clone->keep, 0, 1000);
  reader.text("pace", &clone->pace);
  read_hooks(reader, &clone->hooks);
  if (auto status = reader.done(); !status) return status;
  if (!is_session_name(clone->name)) {
    return reader.wrong(clone->line, clone->name.empty()
                                         ? std::string("a clone without a name; write name = \"...\"")
                                         : "'" + clone->name + "' is no name for a clone; use letters, "
                                           "digits, '.', '_' and '-'");
  }
  for (const PlannedClone& other : plan.clones) {
    if (other.name == clone->name) {
      return reader.wrong(clone->line, "the clone " + clone->name + " is in line " +
                                           std::to_string(other.line) + " already; each name once");
    }
  }
  if (clone->paths.empty()) {
    return reader.wrong(clone->line, "the clone " + clone->name + " has no paths; write paths = [\".\"] for "
                                         "the whole volume");
  }
  return {};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::vector<std::string> names_of(const Plan& plan) {
  std::vector<std::string> names;
  for (const auto& clone : plan.clones) names.push_back(clone.name);
  return names;
}

std::string stem_of(const std::string& file) {
  std::string stem = file.substr(file.rfind('/') + 1);
  if (const size_t dot = stem.rfind('.'); dot != std::string::npos && dot > 0) stem.resize(dot);
  return stem;
}

}  // namespace

const char* to_string(PlannedStep::Kind kind) {
  switch (kind) {
    case PlannedStep::kPrecopy:
      return "precopy";
    case PlannedStep::kBefore:
      return "before";
    case PlannedStep::kActivate:
      return "activate";
    case PlannedStep::kFinally:
      return "finally";
    case PlannedStep::kAfter:
      return "after";
    case PlannedStep::kExpires:
      return "expires";
  }
  return "?";
}

Result<Plan> read_plan(const std::string& file) {
  if (::access(file.c_str(), R_OK) != 0) {
    return Error{errno, "the plan " + quote_word(file) + " cannot be read: " + std::strerror(errno) +
                            ". docs/PLANS.md says how one is written"};
  }
  const toml::parse_result parsed = toml::parse_file(file);
  if (!parsed) {
    return Error{EINVAL, file + ":" + std::to_string(parsed.error().source().begin.line) + ": " +
                             std::string(parsed.error().description())};
  }
  const toml::table& table = parsed.table();
  Plan plan;
  plan.file = file;
  Reader reader(file, table, "of a plan");
  reader.text("mount", &plan.mount);
  reader.text("activate_at", &plan.activate_at);
  reader.text("calendar", &plan.calendar);
  reader.duration("precopy_window", &plan.window_s);
  reader.number("at_once", &plan.at_once, 1, kMaxClones);
  reader.duration("hook_timeout", &plan.hook_timeout_s);
  uint64_t ttl_s = 0;
  unsigned keep = 0;
  reader.duration("ttl", &ttl_s);
  reader.number("keep", &keep, 0, 1000);
  read_hooks(reader, &plan.hooks);
  const toml::node* clones = reader.take("clone");
  if (auto status = reader.done(); !status) return status.error();
  for (const char* key : {"activate_at", "calendar"})
    if (const toml::node* node = table.get(key)) plan.time_line = line_of(*node);
  if (!plan.activate_at.empty() && !plan.calendar.empty())
    return reader.wrong(plan.time_line, "activate_at and calendar exclude each other; leave one out");
  if (plan.window_s > kMaxWindow) {
    return reader.wrong(line_of(*table.get("precopy_window")),
                        "precopy_window is 7d at most: precopy copies again what is written meanwhile");
  }
  if (plan.window_s != 0 && plan.activate_at.empty() && plan.calendar.empty()) {
    return reader.wrong(line_of(*table.get("precopy_window")),
                        "precopy_window goes before a time; write activate_at or calendar, too");
  }
  if (clones == nullptr || !clones->is_array_of_tables()) {
    return reader.wrong(clones == nullptr ? 1 : line_of(*clones),
                        "there are no clones; write [[clone]] with name and paths");
  }
  for (const auto& node : *clones->as_array()) {
    PlannedClone clone;
    clone.ttl_s = ttl_s;
    clone.keep = keep;
    if (auto status = read_clone(file, *node.as_table(), plan, &clone); !status) return status.error();
    plan.clones.push_back(std::move(clone));
  }
  if (plan.clones.size() > kMaxClones)
    return reader.wrong(plan.clones.back().line, "these are more than 1000 clones");
  return plan;
}

Result<Timetable> timetable_of(const Plan& plan, int64_t now, int64_t late_s) {
  const auto wrong = [&](const std::string& why) {
    return Error{EINVAL, plan.file + ":" + std::to_string(plan.time_line) + ": " + why};
  };
  Timetable t;
  if (!plan.activate_at.empty()) {
    const auto at = parse_moment(plan.activate_at, now);
    if (!at) return wrong("activate_at: " + at.error().message);
    t.activation = *at;
  } else if (!plan.calendar.empty()) {
    const auto calendar = look_up_calendar(plan.calendar, now - late_s, 3);
    if (!calendar) return wrong("calendar: " + calendar.error().message);
    if (calendar->next.empty()) return wrong("calendar: '" + plan.calendar + "' never comes again");
    t.activation = calendar->next[0];
    for (size_t i = 1; i < calendar->next.size(); i++) {
      const int64_t between = calendar->next[i] - calendar->next[i - 1];
      if (between <= static_cast<int64_t>(plan.window_s)) {
        return wrong("the windows overlap: precopy begins " + format_duration(plan.window_s) +
                     " before each activation, and from " + format_local(calendar->next[i - 1]) + " to the next it is " +
                     format_duration(static_cast<uint64_t>(between)) + "; write a shorter precopy_window");
      }
    }
  } else {
    t.activation = now;
    t.waits = false;
  }
  std::vector<std::string> to_precopy;
  for (const auto& clone : plan.clones)
    if (clone.precopy) to_precopy.push_back(clone.name);
  const size_t in_set = plan.at_once == 0 ? std::max<size_t>(to_precopy.size(), 1) : plan.at_once;
  const size_t sets = (to_precopy.size() + in_set - 1) / in_set;
  for (size_t i = 0; i < sets; i++) {
    const auto begin = to_precopy.begin() + static_cast<ptrdiff_t>(i * in_set);
    const auto end = to_precopy.begin() + static_cast<ptrdiff_t>(std::min((i + 1) * in_set, to_precopy.size()));
    const auto window = static_cast<int64_t>(plan.window_s);
    const int64_t at = t.activation - window + window * static_cast<int64_t>(i) / static_cast<int64_t>(sets);
    t.steps.push_back({PlannedStep::kPrecopy, at, {begin, end}, ""});
  }
  const auto hooks = [&](PlannedStep::Kind kind, std::string PlanHooks::* which, bool plan_first) {
    const auto own = [&] {
      if (!(plan.hooks.*which).empty())
        t.steps.push_back({kind, t.activation, {}, plan.hooks.*which});
    };
    if (plan_first) own();
    for (const auto& clone : plan.clones)
      if (!(clone.hooks.*which).empty())
        t.steps.push_back({kind, t.activation, {clone.name}, clone.hooks.*which});
    if (!plan_first) own();
  };
  hooks(PlannedStep::kBefore, &PlanHooks::before, true);
  t.steps.push_back({PlannedStep::kActivate, t.activation, names_of(plan), ""});
  hooks(PlannedStep::kFinally, &PlanHooks::finally, false);
  hooks(PlannedStep::kAfter, &PlanHooks::after, false);
  std::vector<PlannedStep> ends;
  for (const auto& clone : plan.clones) {
    if (clone.ttl_s == 0) continue;
    const int64_t at = t.activation + static_cast<int64_t>(clone.ttl_s);
    const auto same = std::find_if(ends.begin(), ends.end(), [&](const auto& s) { return s.at == at; });
    if (same != ends.end()) {
      same->clones.push_back(clone.name);
    } else {
      ends.push_back({PlannedStep::kExpires, at, {clone.name}, ""});
    }
  }
  std::stable_sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
  t.steps.insert(t.steps.end(), ends.begin(), ends.end());
  return t;
}

std::string timetable_text(const Plan& plan, const Timetable& timetable, int64_t now) {
  std::string text = plan.file + ": " + std::to_string(plan.clones.size()) +
                     (plan.clones.size() == 1 ? " clone, " : " clones, ") +
                     (timetable.waits ? "activation at " + format_local(timetable.activation)
                                      : "activated when all is precopied") +
                     "\n";
  for (const PlannedStep& step : timetable.steps) {
    std::string when = format_local(step.at);
    if (step.at < now) when += " (past: at once)";
    char kind[16];
    std::snprintf(kind, sizeof kind, "%-8s", to_string(step.kind));
    std::string what = joined(step.clones);
    if (!step.command.empty()) what += (what.empty() ? "" : ": ") + step.command;
    text += when + "  " + kind + "  " + what + "\n";
  }
  return text;
}

std::string timetable_json(const Plan& plan, const Timetable& timetable) {
  Json json = new_answer();
  put_name(&json, "plan", plan.file);
  json["activation"] = nullptr;
  if (timetable.waits) json["activation"] = format_moment(timetable.activation);
  json["steps"] = Json::array();
  for (const PlannedStep& step : timetable.steps) {
    Json one;
    one["at"] = format_moment(step.at);
    one["what"] = to_string(step.kind);
    one["clones"] = step.clones;
    one["command"] = nullptr;
    if (!step.command.empty()) one["command"] = step.command;
    json["steps"].push_back(std::move(one));
  }
  return dump_json(json);
}

Result<std::vector<Unit>> units_of(const Plan& plan, const std::string& program) {
  if (plan.calendar.empty()) {
    return Error{EINVAL, plan.file + ": a timer goes by a calendar; write calendar = \"daily\" or the like "
                             "instead of activate_at"};
  }
  char resolved[PATH_MAX];
  if (::realpath(plan.file.c_str(), resolved) == nullptr) return Error::from_errno(errno, plan.file);
  const std::string file = resolved;
  const std::string stem = stem_of(file);
  if (!is_session_name(stem)) {
    return Error{EINVAL, "'" + stem + "' cannot be part of a unit's name; name the plan with letters, digits, "
                             "'.', '_' and '-'"};
  }
  // What a unit file would take for something else.
  for (const std::string& word : {file, program}) {
    if (word.find_first_of(" \t\n\"'\\%$") != std::string::npos)
      return Error{EINVAL, quote_word(word) + " has blanks or signs that a unit cannot have; move it"};
  }
  const auto calendar = look_up_calendar(plan.calendar, 0, 1);
  const auto fail = [&](const Error& e) {
    return Error{e.code, plan.file + ":" + std::to_string(plan.time_line) + ": " + e.message};
  };
  if (!calendar) return fail(calendar.error());
  std::string begin = calendar->normalized;
  if (plan.window_s != 0) {
    auto moved = earlier(calendar->normalized, plan.window_s);
    if (!moved) return fail(moved.error());
    begin = std::move(*moved);
  }
  const std::string name = "clonefs-plan-" + stem;
  return std::vector<Unit>{
      {name + ".service", "[Unit]\nDescription=Clones of the plan " + file +
                              "\n\n[Service]\nType=oneshot\n# It waits for the activation.\n"
                              "TimeoutStartSec=infinity\n# It ends its hooks, and lets go on who was stopped.\n"
                              "KillMode=mixed\nExecStart=" +
                              program + " plan " + file + " --run\n"},
      {name + ".timer", "[Unit]\nDescription=Clones of the plan " + file + ": " + calendar->normalized +
                            (plan.window_s == 0 ? "" : ", precopy before it") +
                            "\n\n[Timer]\nOnCalendar=" + begin +
                            "\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n"}};
}

}  // namespace clonefs
