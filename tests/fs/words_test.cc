#include "fs/words.h"

#include <gtest/gtest.h>

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
