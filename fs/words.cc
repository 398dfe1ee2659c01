#include "fs/words.h"

#include <cstdio>
#include <limits>

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
