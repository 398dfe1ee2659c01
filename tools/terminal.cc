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
#include <vector>

namespace clonefs {

namespace {

bool starts_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), starts_character));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// PARTS one after another, on as few lines as there must be. A part that is too long stays whole, so that it
// can be copied.
std::string packed(const std::vector<std::string>& parts, const char* between, size_t columns, size_t indent) {
  std::string text, line;
  for (const std::string& part : parts) {
    const bool fresh = line.find_first_not_of(' ') == std::string::npos;
    if (!fresh && width_of(line + between + part) > columns) {
      text += line + "\n";
      line = std::string(indent, ' ') + part;
    } else {
      line += (fresh ? "" : between) + part;
    }
  }
  return text + line + "\n";
}

std::string wrapped(const std::string& line, size_t columns) {
  constexpr size_t kIndent = 4;
  if (width_of(line) <= columns) return line + "\n";
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= line.size();) {
    // Blanks that align something belong to the word behind them.
    const size_t word = std::min(line.find_first_not_of(' ', begin), line.size());
    const size_t end = std::min(line.find(' ', word), line.size());
    words.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  std::string text, now;
  for (const std::string& word : words) {
    if (!now.empty() && width_of(now + " " + word) > columns) {
      text += now + "\n";
      now = std::string(kIndent, ' ') + word.substr(std::min(word.find_first_not_of(' '), word.size()));
    } else {
      now += (now.empty() ? "" : " ") + word;
    }
  }
  return text + now + "\n";
}

}  // namespace

std::string fit_lines(const std::string& text, const Terminal& terminal) {
  const std::vector<std::string> lines = lines_of(text);
  const bool fits = std::all_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return width_of(line) <= terminal.columns;
  });
  if (!terminal.is_one || fits) return text;
  // Where the columns of a table begin.
  std::vector<size_t> begins;
  if (lines[0].starts_with("NAME ")) {
    begins.push_back(0);
    for (size_t at = 2; at < lines[0].size(); at++) {
      if (lines[0][at] != ' ' && lines[0].compare(at - 2, 2, "  ") == 0) begins.push_back(at);
    }
  }
  const auto cell = [&](const std::string& line, size_t column) {
    const size_t end = column + 1 < begins.size() ? begins[column + 1] : line.size();
    const std::string all = line.substr(std::min(begins[column], line.size()), end - begins[column]);
    return all.substr(0, all.find_last_not_of(' ') + 1);
  };
  std::string out;
  for (size_t i = begins.empty() ? 0 : 1; i < lines.size(); i++) {
    const bool row = begins.size() > 2 && lines[i].size() > begins[1] &&
                     lines[i].compare(begins[1] - 2, 2, "  ") == 0;
    if (!row) {
      out += wrapped(lines[i], terminal.columns);
      continue;
    }
    std::vector<std::string> parts{cell(lines[i], 0), cell(lines[i], 1)};
    for (size_t column = 2; column < begins.size(); column++) {
      const std::string value = cell(lines[i], column);
      if (!value.empty() && value != "-") parts.push_back(cell(lines[0], column) + " " + value);
    }
    out += packed(parts, "  ", terminal.columns, 2);
  }
  return out;
}

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
  if (width_of(text) <= columns) return text;
  const size_t keep = columns > 3 ? columns - 3 : columns;
  size_t seen = 0;
  size_t end = 0;
  while (end < text.size() && !(starts_character(text[end]) && seen == keep)) seen += starts_character(text[end++]);
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
