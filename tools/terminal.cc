#include "tools/terminal.h"

#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace clonefs {

Terminal look_at_terminal() {
  static const bool utf8 =
      std::setlocale(LC_CTYPE, "") != nullptr && std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
  Terminal terminal;
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  terminal.utf8 = utf8;
  terminal.is_one = ::isatty(STDOUT_FILENO) != 0 && !(term != nullptr && std::strcmp(term, "dumb") == 0);
  terminal.color = terminal.is_one && (no_color == nullptr || *no_color == '\0');
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = std::max(1, size.ws_col - 1);
    if (size.ws_row > 0) terminal.rows = size.ws_row;
  }
  return terminal;
}

std::string paint(const std::string& text, Color color, const Terminal& terminal) {
  static constexpr const char* kCodes[] = {"", "32", "33", "31", "34", "36", "90"};
  if (!terminal.color || color == Color::kPlain || text.empty()) return text;
  return std::string("\033[") + kCodes[static_cast<size_t>(color)] + "m" + text + "\033[0m";
}

std::string fit(const std::string& text, size_t columns) {
  const auto starts = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  const auto count = static_cast<size_t>(std::count_if(text.begin(), text.end(), starts));
  if (count <= columns) return text;
  const size_t keep = columns > 3 ? columns - 3 : columns;
  size_t seen = 0;
  size_t end = 0;
  while (end < text.size() && !(starts(text[end]) && seen == keep)) seen += starts(text[end++]);
  return text.substr(0, end) + (columns > 3 ? "..." : "");
}

std::string format_duration_ns(uint64_t nanoseconds) {
  char text[32];
  const double seconds = static_cast<double>(nanoseconds) / 1e9;
  if (seconds < 0.001) {
    std::snprintf(text, sizeof text, "%.0f us", seconds * 1e6);
  } else if (seconds < 1) {
    std::snprintf(text, sizeof text, "%.1f ms", seconds * 1e3);
  } else if (seconds < 60) {
    std::snprintf(text, sizeof text, "%.1f s", seconds);
  } else if (seconds < 3600) {
    std::snprintf(text, sizeof text, "%um%02us", static_cast<unsigned>(seconds) / 60,
                  static_cast<unsigned>(seconds) % 60);
  } else {
    std::snprintf(text, sizeof text, "%uh%02um", static_cast<unsigned>(seconds / 3600),
                  static_cast<unsigned>(seconds) % 3600 / 60);
  }
  return text;
}

void Screen::draw(const std::string& lines) {
  std::string out;
  if (drawn_ > 0) out += "\033[" + std::to_string(drawn_) + "A\r";
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = lines.find('\n', begin);
    out += lines.substr(begin, end - begin) + "\033[K\n";
    begin = end == std::string::npos ? lines.size() : end + 1;
  }
  out += "\033[J";
  std::fputs(out.c_str(), stdout);
  std::fflush(stdout);
  drawn_ = static_cast<size_t>(std::count(lines.begin(), lines.end(), '\n'));
}

}  // namespace clonefs
