// status --watch: a progress bar a session on a terminal, else a line whenever something changed.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "fs/words.h"
#include "tools/commands.h"

namespace clonefs {

namespace {

using Json = nlohmann::json;

constexpr std::chrono::milliseconds kInterval{500};
constexpr int kBarWidth = 30;

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

std::string line_of(const Json& session, bool bar) {
  const double share = share_of(session);
  const std::string name = session["name"];
  const std::string state = session["state"];
  char text[256];
  std::snprintf(text, sizeof text, "%-16s %-14s ", name.c_str(), state.c_str());
  std::string line = text;
  if (bar) {
    const int filled = static_cast<int>(share * kBarWidth);
    line += "[" + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + "] ";
  }
  std::snprintf(text, sizeof text, "%3u%%", static_cast<unsigned>(share * 100));
  line += text;
  line += "  " +
          format_size(
              static_cast<uint64_t>(share * static_cast<double>(number(session, "bytes_total")))) +
          " of " + format_size(number(session, "bytes_total"));
  if (!is_done(session)) {
    line += "  " + format_size(number(session, "rate_bytes_per_s")) + "/s";
    if (!session["eta_s"].is_null())
      line += "  " + std::to_string(number(session, "eta_s")) + "s left";
  }
  if (!session["error"].is_null()) line += "  " + session["error"].get<std::string>();
  return line;
}

unsigned terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

int watch(const Client& client, const Command& command) {
  Command ask = command;
  ask.json = true;
  const bool terminal = ::isatty(STDOUT_FILENO) != 0 && !command.json;
  size_t drawn = 0;
  std::map<std::string, std::string> said;
  while (true) {
    const auto reply = client.send(ask);
    if (!reply) return fail("status", reply.error());
    const Json status = Json::parse(*reply, nullptr, false);
    if (status.is_discarded()) return fail("status", Error{EPROTO, "the reply is not JSON"});
    const Json& sessions = status["sessions"];
    bool done = true;
    bool failed = false;
    if (terminal && drawn > 0) std::printf("\033[%zuA", drawn);
    drawn = 0;
    for (const Json& session : sessions) {
      done = done && is_done(session);
      failed = failed || session["state"] == "Failed" || is_paused(session);
      if (terminal) {
        std::printf("\033[2K%s\n", line_of(session, true).substr(0, terminal_width() - 1).c_str());
        drawn++;
        continue;
      }
      const std::string name = session["name"];
      const std::string line = command.json ? session.dump() : line_of(session, false);
      if (std::string& last = said[name]; last != line) {
        std::printf("%s\n", line.c_str());
        last = line;
      }
    }
    if (terminal) std::printf("\033[J");
    std::fflush(stdout);
    if (sessions.empty()) std::printf("no sessions\n");
    if (done) return failed ? 1 : 0;
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace clonefs
