// status --watch: progress bars on a terminal, redrawn in place; else a line whenever something changed
// (with --json an object a line).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <thread>
#include <vector>

#include "fs/json_text.h"
#include "fs/words.h"
#include "tools/commands.h"
#include "tools/terminal.h"

namespace clonefs {

namespace {

constexpr std::chrono::milliseconds kInterval{500};
constexpr unsigned kWide = 76;  // from here on a session has one line
constexpr unsigned kLongestBar = 40;

uint64_t number(const Json& session, const char* key) {
  const auto it = session.find(key);
  return it != session.end() && it->is_number() ? it->get<uint64_t>() : 0;
}

double share_of(const Json& session) {
  const uint64_t total = number(session, "tracks_total");
  if (total == 0) return 1;
  const uint64_t done = session["activated_at"].is_null()
                            ? number(session, "tracks_precopied")
                            : total - std::min(total, number(session, "tracks_pending"));
  return std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
}

bool is_paused(const Json& session) { return session["op_status"] == "paused"; }

// Nothing more will happen by itself.
bool is_done(const Json& session) {
  if (is_paused(session)) return true;
  const std::string state = session["state"];
  if (state == "CopyInProgress") return session["nocopy"].get<bool>();
  return state != "Precopy" || session["op_status"] == "precopied";
}

bool is_failed(const Json& session) { return session["state"] == "Failed" || is_paused(session); }

Color color_of(const Json& session) {
  if (session["state"] == "Failed") return Color::kRed;
  if (is_paused(session) || session["op_status"] == "retrying") return Color::kYellow;
  return is_done(session) ? Color::kGreen : Color::kCyan;
}

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string state_text(const Json& session) {
  const std::string state = session["state"];
  const std::string how = session["op_status"];
  if (how == "paused" || how == "retrying" || how == "precopied") return state + " " + how;
  return state;
}

std::string percent_text(const Json& session) {
  char text[16];
  std::snprintf(text, sizeof text, "%3u%%", static_cast<unsigned>(share_of(session) * 100));
  return text;
}

std::string left_text(const Json& session) {
  if (is_done(session) || session["eta_s"].is_null()) return "";
  return format_duration_ns(number(session, "eta_s") * 1'000'000'000) + " left";
}

std::string amount_text(const Json& session) {
  const uint64_t total = number(session, "bytes_total");
  std::string text = format_size(static_cast<uint64_t>(share_of(session) * static_cast<double>(total))) +
                     " of " + format_size(total);
  if (!is_done(session)) text += "  " + format_size(number(session, "rate_bytes_per_s")) + "/s";
  return text;
}

// How long programs that write have waited for copies; "" if none had to.
std::string stall_text(const Json& session) {
  const auto latency = session.find("cofw_latency");
  if (latency == session.end() || number(*latency, "count") == 0) return "";
  return "writes held up: " + std::to_string(number(*latency, "count")) + ", the longest " +
         format_duration_ns(number(*latency, "max_ns"));
}

std::string bar(double share, unsigned width, Color color, const Terminal& terminal) {
  const auto filled = static_cast<unsigned>(share * width);
  return "[" + paint(std::string(filled, '#'), color, terminal) +
         paint(std::string(width - filled, '.'), Color::kGray, terminal) + "]";
}

void append(std::string* line, const std::string& more) {
  if (!more.empty()) *line += (line->empty() ? "" : "  ") + more;
}

// Without a terminal: all on one line.
std::string plain_line(const Json& session) {
  std::string line = padded(session["name"], 16) + " " + padded(state_text(session), 14);
  append(&line, percent_text(session));
  append(&line, amount_text(session));
  append(&line, left_text(session));
  if (!session["error"].is_null()) append(&line, session["error"]);
  return line;
}

std::string drawn_lines(const Json& session, size_t name_width, const Terminal& terminal) {
  const unsigned columns = terminal.columns;
  const Color color = color_of(session);
  const std::string name = session["name"];
  const std::string state = state_text(session);
  std::string lines;
  if (columns >= kWide) {
    const std::string head = padded(fit(name, name_width), name_width) + " " + padded(state, 14) + " ";
    std::string tail = " " + percent_text(session);
    append(&tail, amount_text(session));
    append(&tail, left_text(session));
    const size_t rest = head.size() + tail.size() + 2;
    const unsigned width = rest + 8 < columns
                               ? std::min(kLongestBar, columns - static_cast<unsigned>(rest))
                               : 0;
    lines = head;
    if (width > 0) lines += bar(share_of(session), width, color, terminal);
    lines += width > 0 ? tail : fit(tail, columns - head.size());
    lines += "\n";
  } else {
    lines = fit(name + " " + state, columns) + "\n";
    std::string tail = " " + percent_text(session);
    append(&tail, left_text(session));
    const size_t rest = tail.size() + 2;
    if (rest + 4 < columns) {
      lines += bar(share_of(session), std::min(kLongestBar, columns - static_cast<unsigned>(rest)), color,
                   terminal);
      lines += tail + "\n";
    } else {
      lines += fit(tail, columns) + "\n";
    }
    lines += fit("  " + amount_text(session), columns) + "\n";
  }
  if (const std::string stall = stall_text(session); !stall.empty()) {
    lines += fit("  " + stall, columns) + "\n";
  }
  if (!session["error"].is_null()) {
    lines += paint(fit("  " + session["error"].get<std::string>(), columns), color, terminal) + "\n";
  }
  return lines;
}

// In few rows.
std::string short_line(const Json& session, size_t name_width, const Terminal& terminal) {
  std::string line = padded(fit(session["name"], name_width), name_width) + " " + percent_text(session);
  append(&line, state_text(session));
  append(&line, left_text(session));
  return paint(fit(line, terminal.columns), color_of(session), terminal) + "\n";
}

// Those that still run first, as far as the terminal has rows; a line each if else some of them are not seen.
std::string drawn_screen(const Json& sessions, const Terminal& terminal) {
  std::vector<const Json*> order;
  size_t name_width = 8;
  for (const Json& session : sessions) {
    order.push_back(&session);
    name_width = std::max(name_width, session["name"].get<std::string>().size());
  }
  name_width = std::min<size_t>(name_width, terminal.columns / 4);
  std::stable_sort(order.begin(), order.end(),
                   [](const Json* a, const Json* b) { return is_done(*a) < is_done(*b); });
  const auto all_rows = [&] {
    size_t rows = 0;
    for (const Json* session : order) {
      if (is_done(*session)) break;
      const std::string lines = drawn_lines(*session, name_width, terminal);
      rows += static_cast<size_t>(std::count(lines.begin(), lines.end(), '\n'));
    }
    return rows;
  };
  const bool is_short = all_rows() + 2 > terminal.rows;
  std::string screen;
  size_t rows = 0;
  for (size_t i = 0; i < order.size(); i++) {
    const std::string lines = is_short ? short_line(*order[i], name_width, terminal)
                                       : drawn_lines(*order[i], name_width, terminal);
    const auto count = static_cast<size_t>(std::count(lines.begin(), lines.end(), '\n'));
    const size_t reserved = i + 1 < order.size() ? 2 : 1;  // the cursor's row, and "more"
    if (rows + count + reserved > terminal.rows && i > 0) {
      screen += fit("... and " + std::to_string(order.size() - i) + " more", terminal.columns) + "\n";
      break;
    }
    screen += lines;
    rows += count;
  }
  return screen.empty() ? "no sessions\n" : screen;
}

}  // namespace

int watch(const Client& client, const Command& command, const CommonOptions& common) {
  Command ask = command;
  ask.json = true;
  Screen screen;
  std::map<std::string, std::string> said;
  while (true) {
    const auto reply = client.send(ask);
    if (!reply) return fail("status", reply.error(), common);
    const Json status = Json::parse(*reply, nullptr, false);
    if (!status.is_object() || !status.contains("sessions")) {
      return fail("status", Error{EPROTO, "the reply is not understood"}, common);
    }
    const Json& sessions = status["sessions"];
    const Terminal terminal = look_at_terminal();
    if (terminal.is_one && !common.json) {
      screen.draw(drawn_screen(sessions, terminal));
    } else {
      for (const Json& session : sessions) {
        std::string line = plain_line(session) + "\n";
        if (common.json) {
          Json answer = new_answer();
          answer.update(session);
          line = dump_json_line(answer);
        }
        if (std::string& last = said[session["name"]]; last != line) {
          std::fputs(line.c_str(), stdout);
          last = line;
        }
      }
      if (sessions.empty() && !common.json) std::printf("no sessions\n");
      std::fflush(stdout);
    }
    const bool done = std::all_of(sessions.begin(), sessions.end(), is_done);
    const bool failed = std::any_of(sessions.begin(), sessions.end(), is_failed);
    if (done) return failed ? kExitFailed : kExitDone;
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace clonefs
