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
