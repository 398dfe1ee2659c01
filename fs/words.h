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

// "1.5 GiB", for people.
std::string format_size(uint64_t bytes);

}  // namespace clonefs
