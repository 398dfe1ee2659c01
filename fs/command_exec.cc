#include "fs/command_exec.h"

#include <algorithm>
#include <chrono>

#include "engine/moment.h"
#include "fs/command_paths.h"
#include "fs/daemon_log.h"
#include "fs/track_picture.h"
#include "fs/words.h"

namespace clonefs {

namespace {

// So often a command that waits asks whether it still should.
constexpr std::chrono::milliseconds kWaitSlice{200};

std::string one_line(const SessionStatus& s) {
  std::string text = s.name + ": " + to_string(s.state) + ", " + std::to_string(s.files) +
                     (s.files == 1 ? " file, " : " files, ") + format_size(s.bytes_total);
  if (s.precopy_at.tv_sec != 0) text += ", precopy at " + format_moment(s.precopy_at.tv_sec);
  if (s.activate_at.tv_sec != 0) text += ", activation at " + format_moment(s.activate_at.tv_sec);
  if (s.expires_at.tv_sec != 0) text += ", until " + format_moment(s.expires_at.tv_sec);
  for (const CloneHold& hold : s.holds) text += ", held by " + hold.tag;
  return text + "\n";
}

}  // namespace

Result<std::string> CommandExecutor::execute(Command command,
                                             const std::function<bool()>& cancelled) {
  if (command.verb == Verb::kLogLevel) return log_level_of(command);
  if (const Status available = engine_.available(); !available) {
    return Error{available.error().code,
                 std::string(to_string(command.verb)) + ": " + available.error().message};
  }
  switch (command.verb) {
    case Verb::kCreate:
    case Verb::kCopy:
      return create(command);
    case Verb::kRecreate:
      command.recreate.names = command.names;
      return after(engine_.recreate(command.recreate), command, command.names);
    case Verb::kPrecopy:
      return after(engine_.precopy(command.names), command, command.names);
    case Verb::kActivate:
      return after(engine_.activate(command.names), command, command.names);
    case Verb::kTerminate:
      return after(engine_.terminate(command.names, command.force), command, command.names);
    case Verb::kDelete:
      return after(engine_.remove(command.names, command.force), command, command.names);
    case Verb::kRate:
      return after(engine_.set_rate(command.names.front(), command.rate), command, command.names);
    case Verb::kResume:
      return after(engine_.resume(command.names), command, command.names);
    case Verb::kHold:
      return after(engine_.hold(command.names.front(), command.tag), command, command.names);
    case Verb::kRelease:
      return after(engine_.release(command.names.front(), command.tag), command, command.names);
    case Verb::kStatus:
    case Verb::kList:
      return show_status(command);
    case Verb::kWait:
      return wait(command, cancelled);
    case Verb::kVerify:
      return verify(command, cancelled);
    case Verb::kExtents:
      return extents(command);
    case Verb::kMap: {
      const auto map = engine_.track_map(command.names.front(), command.cells);
      if (!map) return map.error();
      return command.json ? map_json(*map) : map_text(*map);
    }
    case Verb::kLogLevel:
      break;  // above
  }
  return Error{EINVAL, "unknown command"};
}

Result<std::string> CommandExecutor::log_level_of(const Command& command) {
  if (!command.level.empty()) {
    if (const Status set = set_log_level(command.level); !set) return set.error();
  }
  return command.json ? log_level_json(log_level()) : "log level: " + log_level() + "\n";
}

// The reply to a command that changed sessions: how they are now.
Result<std::string> CommandExecutor::after(const Status& status, const Command& command,
                                           const std::vector<std::string>& names) {
  if (!status) return status.error();
  std::string text;
  std::vector<SessionStatus> sessions;
  for (const std::string& name : names) {
    auto session = engine_.status(name);
    if (session) {
      text += one_line(*session);
      sessions.push_back(std::move(*session));
    } else {
      text += name + ": removed\n";
    }
  }
  return command.json ? status_json(info(), sessions, true) : text;
}

Result<std::string> CommandExecutor::create(Command& command) {
  std::vector<std::string> paths;
  for (const std::string& path : command.create.paths) {
    auto clean = volume_path(source_, info_.volume, path);
    if (!clean) {
      return Error{clean.error().code, std::string(to_string(command.verb)) + " " +
                                           command.create.name + ": " + clean.error().message};
    }
    if (std::find(paths.begin(), paths.end(), *clean) == paths.end()) paths.push_back(*clean);
  }
  command.create.paths = std::move(paths);
  return after(engine_.create(command.create), command, {command.create.name});
}

Result<std::string> CommandExecutor::show_status(const Command& command) {
  const bool all = command.verb == Verb::kList;
  if (command.names.empty()) {
    const auto sessions = engine_.status();
    if (command.json) return status_json(info(), sessions, all);
    return status_table(sessions, all) + (all ? "" : pool_line(engine_.pool_status()));
  }
  const auto session = engine_.status(command.names.front());
  if (!session) return session.error();
  return command.json ? status_json(info(), {*session}, true) : status_details(*session);
}

Result<std::string> CommandExecutor::wait(const Command& command,
                                          const std::function<bool()>& cancelled) {
  using Clock = std::chrono::steady_clock;
  auto name = command.names.begin();
  const auto end = command.timeout ? Clock::now() + *command.timeout : Clock::time_point::max();
  while (true) {
    const bool last = end != Clock::time_point::max() && end - Clock::now() <= kWaitSlice;
    const auto slice =
        last ? std::max(std::chrono::milliseconds(0),
                        std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()))
             : kWaitSlice;
    const Status status = engine_.wait(*name, command.goal, slice);
    if (status && ++name != command.names.end()) continue;
    if (status || status.error().code != ETIMEDOUT || last) {
      return after(status, command, command.names);
    }
    if (cancelled()) return Error{EINTR, "wait " + *name + ": interrupted."};
  }
}

Result<std::string> CommandExecutor::verify(const Command& command,
                                            const std::function<bool()>& cancelled) {
  const auto report = engine_.verify(command.names.front(), cancelled);
  if (!report) return report.error();
  std::string text = command.json ? verify_json(*report) : verify_text(*report);
  if (report->damaged == 0) return text;
  text.pop_back();
  return Error{EUCLEAN, std::move(text)};
}

Result<std::string> CommandExecutor::extents(const Command& command) {
  const std::string& word = command.names.front();
  std::vector<SessionExtents> found;
  if (is_session_name(word) && engine_.status(word)) {
    auto members = engine_.extents(word);
    if (!members) return members.error();
    found.push_back({word, std::move(*members)});
  } else {
    const auto path = volume_path(source_, info_.volume, word);
    if (!path) {
      return Error{path.error().code, "extents: " + quote_word(word) +
                                          " is neither a session nor a file of the volume."};
    }
    for (const SessionStatus& session : engine_.status()) {
      auto members = engine_.extents(session.name);
      if (!members) continue;  // gone in the meantime, or without columns
      std::erase_if(*members, [&](const MemberExtents& m) { return m.path != *path; });
      if (!members->empty()) found.push_back({session.name, std::move(*members)});
    }
    if (found.empty() && !command.json) {
      return Error{ENOENT, "extents: no session covers " + quote_word(*path) + "."};
    }
  }
  if (command.json) return extents_json(found);
  std::string text;
  for (const SessionExtents& session : found)
    text += extents_text(session.session, session.members);
  return text;
}

}  // namespace clonefs
