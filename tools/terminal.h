// What stdout can show. Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>

namespace clonefs {

struct Terminal {
  bool is_one = false;  // lines can be drawn over: not for pipes, files, TERM=dumb
  bool color = false;   // also wanted: NO_COLOR is not set
  bool utf8 = false;    // by the locale
  unsigned columns = 80;  // without the last one, after which some go to the next row
  unsigned rows = 24;
};
// As it is now: its size may change.
Terminal look_at_terminal();

enum class Color { kPlain, kGreen, kYellow, kRed, kBlue, kCyan, kGray };
// TEXT in COLOR, if TERMINAL shows colors.
std::string paint(const std::string& text, Color color, const Terminal& terminal);
// At most COLUMNS characters of TEXT (which is on one line, without colors); what is no UTF-8 counts a
// column a byte. Cut ones end with "...".
std::string fit(const std::string& text, size_t columns);
// TEXT (lines, without colors) as TERMINAL shows it best: lines that are too long are parted at blanks; a
// table (its first word is NAME) of which one is, is shown as blocks of "HEAD cell". Unchanged if TERMINAL is none.
std::string fit_lines(const std::string& text, const Terminal& terminal);
// A duration for people: "0.4 ms", "1.2 s", "3m20s".
std::string format_duration_ns(uint64_t nanoseconds);

// Draws a block of lines over the one before.
class Screen {
 public:
  // Lines must fit the terminal.
  void draw(const std::string& lines);

 private:
  size_t drawn_ = 0;
};

}  // namespace clonefs
