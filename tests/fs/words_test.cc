#include "fs/words.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>

#include "engine/moment.h"

namespace clonefs {
namespace {

using Words = std::vector<std::string>;

TEST(Words, SplitsAsAShellDoes) {
  const struct {
    std::string line;
    Words words;
  } table[] = {
      {"", {}},
      {"\n", {}},
      {"status", {"status"}},
      {"  create  db1\t. \n", {"create", "db1", "."}},
      {"create db1 .\r\n", {"create", "db1", "."}},
      {"copy a 'b c' \"d e\"", {"copy", "a", "b c", "d e"}},
      {"a'b'\"c\"d", {"abcd"}},
      {"''", {""}},
      {"\"\" x", {"", "x"}},
      {"a\\ b", {"a b"}},
      {"\\'x\\\\", {"'x\\"}},
      {"\"a\\\"b\\\\c\\d\"", {"a\"b\\c\\d"}},
      {"'a\\b'", {"a\\b"}},
      {"'two\nlines' x\n", {"two\nlines", "x"}},
      {"\xff\xfe x", {"\xff\xfe", "x"}},
  };
  for (const auto& row : table) {
    const auto words = split_words(row.line);
    ASSERT_TRUE(words) << row.line << ": " << words.error().message;
    EXPECT_EQ(*words, row.words) << row.line;
  }
}

TEST(Words, RefusesWhatIsNoLine) {
  const struct {
    std::string line;
    int code;
  } table[] = {
      {std::string("sta\0tus", 7), EINVAL},
      {"copy 'a", EINVAL},
      {"copy \"a", EINVAL},
      {"copy a\\", EINVAL},
      {"status\nlist\n", EINVAL},
      {std::string(kMaxLine + 1, 'a'), E2BIG},
  };
  for (const auto& row : table) {
    const auto words = split_words(row.line);
    ASSERT_FALSE(words) << row.line.substr(0, 40);
    EXPECT_EQ(words.error().code, row.code);
    EXPECT_FALSE(words.error().message.empty());
  }
  EXPECT_TRUE(split_words(std::string(kMaxLine, 'a')));
}

TEST(Words, Durations) {
  const struct {
    const char* text;
    uint64_t seconds;
    const char* again;
  } table[] = {{"90s", 90, "1m30s"},  {"30m", 1800, "30m"},           {"36h", 129600, "1d12h"},
               {"7d", 604800, "7d"},  {"2w", 1209600, "14d"},         {"1d12h", 129600, "1d12h"},
               {"1s", 1, "1s"},       {"5200w", 3144960000, "36400d"}};
  for (const auto& row : table) {
    const auto seconds = parse_duration(row.text);
    ASSERT_TRUE(seconds) << row.text;
    EXPECT_EQ(*seconds, row.seconds) << row.text;
    EXPECT_EQ(format_duration(*seconds), row.again);
    EXPECT_EQ(*parse_duration(format_duration(*seconds)), *seconds);
  }
  for (const char* text : {"", "7", "d", "0s", "-1d", "1.5h", "1y", "1h 2m", "7D", "99999999999999999999d", "36501d",
                           "never"}) {
    const auto seconds = parse_duration(text);
    EXPECT_FALSE(seconds) << text;
    EXPECT_EQ(seconds ? 0 : seconds.error().code, EINVAL);
  }
}

TEST(Words, Moments) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const int64_t now = 1764244800;  // 2025-11-27T12:00:00Z
  const struct {
    const char* text;
    const char* moment;
  } table[] = {{"+30m", "2025-11-27T12:30:00Z"},
               {"+1d12h", "2025-11-29T00:00:00Z"},
               {"13:00", "2025-11-27T13:00:00Z"},
               {"12:00", "2025-11-28T12:00:00Z"},
               {"02:00", "2025-11-28T02:00:00Z"},
               {"02:00:30", "2025-11-28T02:00:30Z"},
               {"2025-12-01T02:00:00Z", "2025-12-01T02:00:00Z"},
               {"2025-12-01T02:00:00.5Z", "2025-12-01T02:00:00Z"},
               {"2025-12-01T02:00Z", "2025-12-01T02:00:00Z"},
               {"2025-12-01 02:00", "2025-12-01T02:00:00Z"},
               {"2025-12-01T02:00:00+01:00", "2025-12-01T01:00:00Z"},
               {"2025-12-01T02:00:00-05:30", "2025-12-01T07:30:00Z"},
               {"2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z"}};
  for (const auto& row : table) {
    const auto moment = parse_moment(row.text, now);
    ASSERT_TRUE(moment) << row.text << ": " << moment.error().message;
    EXPECT_EQ(format_moment(*moment), row.moment) << row.text;
  }
  for (const char* text :
       {"", "soon", "+", "+5", "24:00", "12:60", "1:00", "12", "2025-12-01", "2025-13-01T00:00:00Z",
        "2027-02-29T00:00:00Z", "2025-12-01T02:00:00X", "2025-12-01T02:00:00+1:00",
        "02:00Z", "2025-12-01T02:00:00Z x", "2025-11-27T12:00:00Z", "2025-11-27T11:59:59Z"}) {
    const auto moment = parse_moment(text, now);
    EXPECT_FALSE(moment) << text;
  }
  EXPECT_NE(parse_moment("2025-11-27T11:00:00Z", now).error().message.find("is past"), std::string::npos);
  // Where clocks are put forward and back in the night.
  ::setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
  ::tzset();
  const auto night = parse_moment("2026-03-29T04:00", now);
  ASSERT_TRUE(night);
  EXPECT_EQ(format_moment(*night), "2026-03-29T02:00:00Z");
  EXPECT_EQ(format_moment(*parse_moment("04:00", *night - 6 * 3600)), "2026-03-29T02:00:00Z");
  ::setenv("TZ", "UTC", 1);
  ::tzset();
}

TEST(Words, QuotedWordsComeBack) {
  const Words words = {"plain", "",     "a b", "it's",   "\"", "\\",     "new\nline", "$x",
                       "*",     "\xff", "#",   "a'b\"c", "--", "tab\tx", "~"};
  const auto again = split_words(join_words(words) + "\n");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, words);
}

TEST(Sizes, Parse) {
  const struct {
    std::string text;
    uint64_t bytes;
  } table[] = {
      {"0", 0},
      {"1", 1},
      {"4096", 4096},
      {"64K", 65536},
      {"64k", 65536},
      {"64KiB", 65536},
      {"1M", 1 << 20},
      {"16MiB", 16 << 20},
      {"3G", 3ull << 30},
      {"2T", 2ull << 40},
      {"9223372036854775807", 9223372036854775807ull},
      {"8191P", 8191ull << 50},
  };
  for (const auto& row : table) {
    const auto bytes = parse_size(row.text);
    ASSERT_TRUE(bytes) << row.text;
    EXPECT_EQ(*bytes, row.bytes) << row.text;
  }
}

TEST(Sizes, Refuse) {
  for (const char* text :
       {"", "K", "-1", "+1", " 1", "1 ", "1X", "1KB", "1Ki", "1.5M", "0x10", "64KK",
        "9223372036854775808", "8192P", "99999999999999999999999", "1\n"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
}

TEST(Sizes, Format) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1.0 KiB");
  EXPECT_EQ(format_size(65536), "64.0 KiB");
  EXPECT_EQ(format_size(100 << 10), "100 KiB");
  EXPECT_EQ(format_size((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(format_size(1536ull << 20), "1.5 GiB");
}

TEST(Names, Utf8) {
  for (const char* text : {"", "plain", "\xc3\xbcml", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\x7f\x01"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
  }
  for (const char* text : {"\xff", "a\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80",
                           "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
}

TEST(Names, Quoted) {
  EXPECT_EQ(quote_name("a/b.txt"), "a/b.txt");
  EXPECT_EQ(quote_name("two words"), "'two words'");
  EXPECT_EQ(quote_name("\xc3\xbcml"), "'\xc3\xbcml'");
  EXPECT_EQ(quote_name("a\nb\tc\x1b"), "$'a\\nb\\tc\\x1b'");
  EXPECT_EQ(quote_name("it's\n\\"), "$'it\\'s\\n\\\\'");
  EXPECT_EQ(quote_name("\xc3\xbc\xff"), "$'\\xc3\\xbc\\xff'");
  EXPECT_EQ(quote_name("\xc2\x9b"), "$'\\xc2\\x9b'");  // CSI
}

}  // namespace
}  // namespace clonefs
