// Words of a command line as a shell splits them, and sizes.
// Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "extents/result.h"

namespace clonefs {

// A control line is refused when it is longer.
inline constexpr size_t kMaxLine = 64 << 10;

// One line's words: blanks part them; '...' keeps all, "..." all but \" and \\, a backslash the
// next byte. One newline may end the line. EINVAL: NUL bytes, an open quote, a second line; E2BIG.
Result<std::vector<std::string>> split_words(std::string_view line);

// So written that split_words (and a shell) reads it as one word.
std::string quote_word(std::string_view word);
std::string join_words(const std::vector<std::string>& words);

bool is_utf8(std::string_view text);
// A name for people, on one line, that bash and zsh read back as it is: plain, 'in quotes', or, with
// control characters or bytes that are no UTF-8, as $'a\nb\xff'.
std::string quote_name(std::string_view name);

// "4096", "64K", "64KiB": a whole number, with K, M, G, T or P (powers of 1024; "iB" may
// follow). EINVAL otherwise, and above 2^63 - 1.
Result<uint64_t> parse_size(std::string_view text);

// "1 track", "2 tracks".
std::string count_word(uint64_t count, const std::string& word);

// "90s", "30m", "36h", "7d", "2w", "1d12h": whole numbers with a unit each, in seconds. EINVAL otherwise,
// for 0, and above 100 years.
Result<uint64_t> parse_duration(std::string_view text);
// "36h", "7d": so that parse_duration() reads it as the same.
std::string format_duration(uint64_t seconds);

// A moment in the future of NOW, both in seconds since 1970: RFC 3339 ("2026-11-27T02:00:00Z"; without a
// zone the local one; without seconds; without a date the next time that the clock shows it), or "+30m".
// EINVAL, also when it is past: says what to write.
Result<int64_t> parse_moment(std::string_view text, int64_t now);
// "2026-11-27 02:00:00", local time: for tables. (format_moment() is in engine/moment.h.)
std::string format_local(int64_t seconds);

// trace, debug, info, warn, error: how much goes to the daemon's log. EINVAL: another word.
Status check_log_level(std::string_view level);

// "1.5 GiB", for people.
std::string format_size(uint64_t bytes);

}  // namespace clonefs
