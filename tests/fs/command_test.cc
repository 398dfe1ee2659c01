#include "fs/command.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "fs/words.h"

namespace clonefs {
namespace {

Result<ControlLine> parse(const std::string& line) {
  const auto words = split_words(line);
  if (!words) return words.error();
  return parse_control_words(*words);
}

Command parsed(const std::string& line) {
  const auto result = parse(line);
  EXPECT_TRUE(result) << line << ": " << result.error().message;
  if (!result || !result->command) return {};
  return *result->command;
}

TEST(Command, Map) {
  EXPECT_EQ(parsed("map db").cells, 2048u);
  const Command c = parsed("map db --cells 1K --json");
  EXPECT_EQ(c.verb, Verb::kMap);
  EXPECT_EQ(c.names, std::vector<std::string>{"db"});
  EXPECT_EQ(c.cells, 1024u);
  EXPECT_EQ(parsed(format_command(c)).cells, 1024u);
  // What only the command line can do is no word of a control line.
  for (const char* line : {"map", "map a b", "map db --cells 0", "map db --cells 65537", "map db --watch",
                           "map db --svg x"}) {
    EXPECT_FALSE(parse(line)) << line;
  }
}

TEST(Command, Forms) {
  Command c =
      parsed("create db1 a 'b c' . --precopy --extent 0:64K --extent=1M:4096 --track-size 1M");
  EXPECT_EQ(c.verb, Verb::kCreate);
  EXPECT_EQ(c.create.name, "db1");
  EXPECT_EQ(c.create.paths, (std::vector<std::string>{"a", "b c", "."}));
  EXPECT_TRUE(c.create.precopy);
  EXPECT_FALSE(c.create.nocopy);
  EXPECT_FALSE(c.create.activate);
  EXPECT_EQ(c.create.extents, (std::vector<ByteRange>{{0, 65536}, {1 << 20, 4096}}));
  EXPECT_EQ(c.create.track_size, TrackSize(1 << 20));

  // An option takes one word, whatever follows it.
  c = parsed("create --extent 0:1 db1 a");
  EXPECT_EQ(c.create.name, "db1");
  EXPECT_EQ(c.create.extents.size(), 1u);

  c = parsed("copy --nocopy --thin x .");
  EXPECT_EQ(c.verb, Verb::kCopy);
  EXPECT_TRUE(c.create.activate);
  EXPECT_TRUE(c.create.nocopy);
  EXPECT_TRUE(c.create.thin);

  c = parsed("activate a b c");
  EXPECT_EQ(c.verb, Verb::kActivate);
  EXPECT_EQ(c.names, (std::vector<std::string>{"a", "b", "c"}));

  c = parsed("wait a --for precopied --timeout 1.5");
  EXPECT_EQ(c.goal, Engine::Goal::kPrecopied);
  EXPECT_EQ(c.timeout, std::chrono::milliseconds(1500));
  EXPECT_FALSE(parsed("wait a").timeout);
  EXPECT_EQ(parsed("wait a b").names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parsed("wait a").goal, Engine::Goal::kCopied);

  c = parsed("terminate a --force");
  EXPECT_TRUE(c.force);
  EXPECT_EQ(parsed("rate a 10M").rate, 10u << 20);
  EXPECT_EQ(parsed("rate a unlimited").rate, kPaceMax);
  EXPECT_EQ(parsed("rate a max").rate, kPaceMax);
  EXPECT_EQ(parsed("rate a auto").rate, kPaceAuto);
  EXPECT_EQ(parsed("copy a .").create.pace, kPaceAuto);
  EXPECT_EQ(parsed("copy a . --pace 3M").create.pace, 3u << 20);
  EXPECT_EQ(parsed("create a . --pace max").create.pace, kPaceMax);
  EXPECT_TRUE(parsed("status --json").json);
  EXPECT_EQ(parsed("status a").names, (std::vector<std::string>{"a"}));
  EXPECT_EQ(parsed("extents dir/file").names, (std::vector<std::string>{"dir/file"}));
}

TEST(Command, WordsThatLookLikeSomethingElse) {
  // Verbs as names and paths, and what CLI11 gives a meaning of its own.
  EXPECT_EQ(parsed("create status list").create.name, "status");
  EXPECT_EQ(parsed("create status list").create.paths, (std::vector<std::string>{"list"}));
  EXPECT_EQ(parsed("create x '[a,b]' {} ++").create.paths,
            (std::vector<std::string>{"./[a,b]", "./{}", "./++"}));
  EXPECT_EQ(parsed("create -- x -a --force").create.paths,
            (std::vector<std::string>{"-a", "--force"}));
  EXPECT_EQ(parsed("create x a,b ''").create.paths, (std::vector<std::string>{"a,b", ""}));
}

TEST(Command, Refused) {
  for (const char* line : {"",
                           "frobnicate",
                           "'' x",
                           "Create x .",
                           "mount x",
                           "umount x",
                           "create",
                           "create x",
                           "create 'a b' .",
                           "create .x .",
                           "create ../x .",
                           "create x . --extent 5",
                           "create x . --extent 0:0",
                           "create x . --extent a:b",
                           "create x . --track-size 5000",
                           "create x . --track-size 32M",
                           "create x . --frob",
                           "copy x . --precopy",
                           "precopy",
                           "activate",
                           "activate a b/c",
                           "status a b",
                           "list a",
                           "wait",
                           "wait a --for ever",
                           "wait a --timeout x",
                           "wait a --timeout -1",
                           "terminate",
                           "delete",
                           "extents",
                           "extents a b",
                           "rate a",
                           "rate a 0",
                           "rate a fast",
                           "copy a . --pace 0",
                           "copy a . --pace slow",
                           "rate a 1 2",
                           "status --watch",
                           "status --mount /x",
                           "create x . --extent 0:99999999999999999999"}) {
    const auto result = parse(line);
    ASSERT_FALSE(result) << line;
    EXPECT_EQ(result.error().code, EINVAL) << line;
    EXPECT_FALSE(result.error().message.empty()) << line;
  }
  EXPECT_FALSE(parse("create " + std::string(65, 'a') + " ."));
  EXPECT_TRUE(parse("create " + std::string(64, 'a') + " ."));
}

TEST(Command, Help) {
  for (const char* line : {"--help", "create --help", "rate --help"}) {
    const auto result = parse(line);
    ASSERT_TRUE(result) << line;
    EXPECT_FALSE(result->command);
    EXPECT_FALSE(result->text.empty());
  }
  EXPECT_NE(parse("create --help")->text.find("--precopy"), std::string::npos);
}

// What the command line sends is what it has read.
TEST(Command, FormatIsReadBack) {
  for (const char* line :
       {"create db1 a 'b c' . --precopy --thin --extent 0:64K --track-size 1M", "copy x -- -a '*'",
        "precopy a b", "activate a", "status", "status a --json", "list", "wait a --for precopied",
        "wait a --timeout 0.25", "terminate a b --force", "delete a", "extents d/f", "rate a 1K",
        "rate a unlimited", "rate a auto", "copy a . --pace=7", "copy a . --pace=max", "resume a b", "verify a --json", "hold a x", "release a x",
        "copy a . --ttl 7d", "create a . --precopy-at +30m --activate-at +1h --ttl 36h",
        "recreate a b --ttl never --keep 2 --activate-at +1h", "recreate a --ttl 1d12h", "copy x --nocopy 'it'\\''s'"}) {
    const std::string text = format_command(parsed(line));
    EXPECT_EQ(format_command(parsed(text)), text) << line;
    EXPECT_EQ(parsed(text).create.paths, parsed(line).create.paths);
    EXPECT_EQ(parsed(text).names, parsed(line).names);
    EXPECT_EQ(parsed(text).timeout, parsed(line).timeout);
    EXPECT_EQ(parsed(text).rate, parsed(line).rate);
    EXPECT_EQ(parsed(text).create.pace, parsed(line).create.pace);
    EXPECT_EQ(parsed(text).tag, parsed(line).tag);
    EXPECT_EQ(parsed(text).create.ttl_s, parsed(line).create.ttl_s);
    EXPECT_EQ(parsed(text).recreate.ttl_s, parsed(line).recreate.ttl_s);
  }
}

// Whatever is written to ctl: an answer, and what is taken for a command is read back as the same.
TEST(Command, Fuzz) {
  const char* pieces[] = {"create",
                          "copy",
                          "status",
                          "wait",
                          "rate",
                          "resume",
                          "verify",
                          "terminate",
                          "extents",
                          "--json",
                          "--for",
                          "copied",
                          "--extent",
                          "0:64K",
                          "--track-size",
                          "1M",
                          "--",
                          "-",
                          "=",
                          "--force",
                          "a",
                          ".",
                          "..",
                          "/",
                          "'",
                          "\"",
                          "\\",
                          "\n",
                          " ",
                          "  ",
                          "\t",
                          "[a,b]",
                          "{}",
                          "++",
                          "%",
                          "\xff\xfe",
                          "-1",
                          "--help",
                          "NAME=x",
                          "@f",
                          "--timeout",
                          "0.5",
                          "unlimited",
                          "\r"};
  const char* const env = std::getenv("CLONEFS_TEST_SEED");
  const unsigned seed = env != nullptr ? static_cast<unsigned>(std::strtoul(env, nullptr, 10))
                                       : std::random_device{}();
  std::mt19937 random(seed);
  unsigned commands = 0;
  for (int i = 0; i < 20000; i++) {
    std::string line;
    for (unsigned n = random() % 12; n > 0; n--) {
      line += random() % 50 == 0 ? std::string(1, static_cast<char>(random()))
                                 : pieces[random() % std::size(pieces)];
      if (random() % 2 == 0) line += ' ';
    }
    const auto result = parse(line);
    if (!result) {
      EXPECT_FALSE(result.error().message.empty()) << line << " seed " << seed;
    } else if (result->command) {
      commands++;
      const std::string text = format_command(*result->command);
      const auto again = parse(text);
      ASSERT_TRUE(again) << line << " -> " << text << again.error().message << " seed " << seed;
      ASSERT_TRUE(again->command) << text;
      EXPECT_EQ(format_command(*again->command), text) << line << " seed " << seed;
    }
  }
  EXPECT_GT(commands, 100u) << "seed " << seed;  // it does not only try nonsense
}

}  // namespace
}  // namespace clonefs
