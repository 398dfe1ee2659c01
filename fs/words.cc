#include "fs/words.h"

#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>

#include "engine/moment.h"

namespace clonefs {

namespace {

constexpr std::string_view kUnits = "KMGTP";

Error bad_line(int code, const std::string& why) {
  return {code, "the command line was refused: " + why};
}

// Bytes that mean nothing to a shell.
bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_-./:,+@=%").find(c) != std::string_view::npos;
}

}  // namespace

Result<std::vector<std::string>> split_words(std::string_view line) {
  if (line.size() > kMaxLine) {
    return bad_line(E2BIG, "it is longer than 64 KiB. Select directories instead of many files.");
  }
  if (line.find('\0') != std::string_view::npos) return bad_line(EINVAL, "it contains a NUL byte.");

  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (size_t i = 0; i < line.size(); i++) {
    const char c = line[i];
    if (quote == '\'') {
      if (c == '\'') {
        quote = 0;
      } else {
        word += c;
      }
    } else if (quote == '"') {
      if (c == '"') {
        quote = 0;
      } else if (c == '\\' && i + 1 < line.size() && (line[i + 1] == '"' || line[i + 1] == '\\')) {
        word += line[++i];
      } else {
        word += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_word = true;
    } else if (c == '\\') {
      if (i + 1 == line.size()) return bad_line(EINVAL, "it ends with a backslash.");
      word += line[++i];
      in_word = true;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
      if (c == '\n' && line.find_first_not_of(" \t\r\n", i) != std::string_view::npos) {
        return bad_line(EINVAL, "it has more than one line. Write one command at a time.");
      }
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) return bad_line(EINVAL, std::string("a quote (") + quote + ") is not closed.");
  if (in_word) words.push_back(std::move(word));
  return words;
}

std::string quote_word(std::string_view word) {
  bool plain = !word.empty();
  for (const char c : word) plain = plain && is_plain(c);
  if (plain) return std::string(word);
  std::string out = "'";
  for (const char c : word) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3
                          : first < 0xf5 ? 4 : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; k++) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    if (length > 2) {
      // Too long a form, a surrogate, beyond the last character.
      const auto second = static_cast<unsigned char>(text[i + 1]);
      if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
          (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
        return false;
      }
    }
    i += length;
  }
  return true;
}

std::string quote_name(std::string_view name) {
  bool odd = !is_utf8(name);
  for (const char c : name) odd = odd || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  // C1 control characters, which some terminals obey.
  for (size_t i = 0; i + 1 < name.size(); i++) {
    odd = odd || (name[i] == '\xc2' && static_cast<unsigned char>(name[i + 1]) < 0xa0);
  }
  if (!odd) return quote_word(name);
  std::string out = "$'";
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\'' || c == '\\') {
      out += std::string("\\") + c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      char text[8];
      std::snprintf(text, sizeof text, "\\x%02x", byte);
      out += text;
    } else {
      out += c;
    }
  }
  return out + "'";
}

std::string join_words(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += ' ';
    line += quote_word(word);
  }
  return line;
}

Result<uint64_t> parse_size(std::string_view text) {
  const Error bad{EINVAL, "'" + std::string(text) + "' is not a size. Write bytes, or a whole " +
                              "number with K, M, G, T or P (powers of 1024): 65536, 64K, 1GiB."};
  constexpr uint64_t max = std::numeric_limits<int64_t>::max();
  uint64_t value = 0;
  size_t i = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; i++) {
    const uint64_t digit = text[i] - '0';
    if (value > (max - digit) / 10) return bad;
    value = value * 10 + digit;
  }
  if (i == 0) return bad;
  std::string_view unit = text.substr(i);
  if (unit.empty()) return value;
  const char letter = unit[0] >= 'a' ? static_cast<char>(unit[0] - 'a' + 'A') : unit[0];
  const size_t power = kUnits.find(letter);
  unit.remove_prefix(1);
  if (power == std::string_view::npos || (!unit.empty() && unit != "iB")) return bad;
  const unsigned shift = 10 * (static_cast<unsigned>(power) + 1);
  if (value > (max >> shift)) return bad;
  return value << shift;
}

std::string count_word(uint64_t count, const std::string& word) {
  return std::to_string(count) + " " + word + (count == 1 ? "" : "s");
}

namespace {

struct DurationUnit {
  char letter;
  uint64_t seconds;
};
constexpr DurationUnit kDurationUnits[] = {
    {'w', 7 * 86400}, {'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
constexpr uint64_t kMaxDuration = uint64_t{100} * 365 * 86400;

// NUMBER digits of TEXT from *AT on; -1: they are not there.
int digits(std::string_view text, size_t* at, size_t number) {
  int value = 0;
  for (size_t i = 0; i < number; i++, (*at)++) {
    if (*at >= text.size() || text[*at] < '0' || text[*at] > '9') return -1;
    value = value * 10 + (text[*at] - '0');
  }
  return value;
}

bool take(std::string_view text, size_t* at, std::string_view any_of) {
  if (*at >= text.size() || any_of.find(text[*at]) == std::string_view::npos) return false;
  (*at)++;
  return true;
}

}  // namespace

Result<uint64_t> parse_duration(std::string_view text) {
  const Error bad{EINVAL, "'" + std::string(text) + "' is not a duration. Write whole numbers with s, m, "
                              "h, d or w: 90s, 36h, 7d, 1d12h."};
  uint64_t total = 0;
  size_t at = 0;
  while (at < text.size()) {
    uint64_t value = 0;
    const size_t begin = at;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; at++) {
      value = value * 10 + static_cast<uint64_t>(text[at] - '0');
      if (value > kMaxDuration) return bad;
    }
    if (at == begin || at == text.size()) return bad;
    uint64_t unit = 0;
    for (const DurationUnit& u : kDurationUnits)
      if (u.letter == text[at]) unit = u.seconds;
    at++;
    if (unit == 0) return bad;
    total += value * unit;
    if (total > kMaxDuration) return bad;
  }
  if (total == 0) return bad;
  return total;
}

std::string format_duration(uint64_t seconds) {
  std::string text;
  for (const DurationUnit& u : kDurationUnits) {
    // Weeks are for those who think in them: 14d is read more easily.
    if (u.letter == 'w' || seconds < u.seconds) continue;
    text += std::to_string(seconds / u.seconds) + u.letter;
    seconds %= u.seconds;
  }
  return text.empty() ? "0s" : text;
}

std::string format_local(int64_t seconds) {
  tm broken{};
  const time_t time = seconds;
  localtime_r(&time, &broken);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &broken);
  return text;
}

Result<int64_t> parse_moment(std::string_view text, int64_t now) {
  const Error bad{EINVAL, "'" + std::string(text) + "' is not a time. Write 2026-11-27T02:00:00Z (or "
                              "+01:00, or without a zone for the local time), 02:00 for the next time "
                              "that the clock shows it, or +30m for half an hour from now."};
  if (!text.empty() && text[0] == '+') {
    const auto duration = parse_duration(text.substr(1));
    if (!duration) return bad;
    return now + static_cast<int64_t>(*duration);
  }
  tm broken{};
  const time_t time = now;
  localtime_r(&time, &broken);
  size_t at = 0;
  const bool dated = text.size() > 4 && text[4] == '-';
  if (dated) {
    broken.tm_year = digits(text, &at, 4) - 1900;
    if (!take(text, &at, "-")) return bad;
    broken.tm_mon = digits(text, &at, 2) - 1;
    if (!take(text, &at, "-")) return bad;
    broken.tm_mday = digits(text, &at, 2);
    if (!take(text, &at, "Tt ")) return bad;
    if (broken.tm_year < 70 || broken.tm_mon < 0 || broken.tm_mon > 11 || broken.tm_mday < 1) return bad;
  }
  broken.tm_hour = digits(text, &at, 2);
  if (!take(text, &at, ":")) return bad;
  broken.tm_min = digits(text, &at, 2);
  broken.tm_sec = 0;
  if (take(text, &at, ":")) broken.tm_sec = digits(text, &at, 2);
  if (broken.tm_hour < 0 || broken.tm_hour > 23 || broken.tm_min < 0 || broken.tm_min > 59 ||
      broken.tm_sec < 0 || broken.tm_sec > 59)
    return bad;
  const int day = broken.tm_mday, month = broken.tm_mon;
  broken.tm_isdst = -1;
  int64_t seconds = 0;
  if (at == text.size()) {
    seconds = ::mktime(&broken);
    if (!dated && seconds <= now) {
      broken.tm_mday++;
      broken.tm_isdst = -1;
      seconds = ::mktime(&broken);
    }
  } else {
    int64_t zone = 0;
    if (!dated) return bad;
    if (take(text, &at, ".") && digits(text, &at, 1) < 0) return bad;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') at++;  // fractions of a second
    if (!take(text, &at, "Zz")) {
      const bool west = at < text.size() && text[at] == '-';
      if (!take(text, &at, "+-")) return bad;
      const int hours = digits(text, &at, 2);
      if (!take(text, &at, ":")) return bad;
      const int minutes = digits(text, &at, 2);
      if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return bad;
      zone = (west ? -1 : 1) * (hours * 3600 + minutes * 60);
    }
    if (at != text.size()) return bad;
    seconds = ::timegm(&broken) - zone;
  }
  // The 31st of a month that has none.
  if (dated && (broken.tm_mday != day || broken.tm_mon != month)) return bad;
  if (seconds <= now) {
    return Error{EINVAL, "'" + std::string(text) + "' is past: it is " + format_moment(now) +
                             " now. Write a later time, or +30m for half an hour from now."};
  }
  return seconds;
}

Status check_log_level(std::string_view level) {
  for (const std::string_view word : {"trace", "debug", "info", "warn", "error"}) {
    if (level == word) return {};
  }
  return Error{EINVAL, "'" + std::string(level) +
                           "' is no level of the log. Use trace, debug, info, warn or error."};
}

std::string format_size(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes);
  size_t power = 0;
  do {
    value /= 1024;
    power++;
  } while (value >= 1023.95 && power < kUnits.size());
  char text[32];
  std::snprintf(text, sizeof text, value < 99.95 ? "%.1f %ciB" : "%.0f %ciB", value,
                kUnits[power - 1]);
  return text;
}

}  // namespace clonefs
