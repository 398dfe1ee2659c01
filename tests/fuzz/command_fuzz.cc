// Whatever is written to a control file: an answer, and what is taken for a command says, written
// down, the same again.
#include "fs/command.h"
#include "fs/words.h"
#include "tests/fuzz/require.h"

namespace clonefs {
namespace {

Result<ControlLine> parse(std::string_view line) {
  const auto words = split_words(line);
  if (!words) return words.error();
  if (line.size() <= kMaxLine / 4) {  // quoting makes it longer
    const auto again = split_words(join_words(*words));
    REQUIRE(again && *again == *words, join_words(*words));
  }
  return parse_control_words(*words);
}

}  // namespace
}  // namespace clonefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clonefs;  // NOLINT
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  const auto parsed = parse(line);
  if (!parsed) {
    REQUIRE(!parsed.error().message.empty() && parsed.error().code > 0, "an error without words");
    return 0;
  }
  if (!parsed->command) {
    REQUIRE(!parsed->text.empty(), "neither a command nor help");
    return 0;
  }
  const Command& command = *parsed->command;
  REQUIRE(!command.watch, "watch is the command line's alone");
  const bool makes = command.verb == Verb::kCreate || command.verb == Verb::kCopy;
  REQUIRE(!makes || (is_session_name(command.create.name) && !command.create.paths.empty()),
          "a clone without name or path");
  const std::string text = format_command(command);
  if (text.size() > kMaxLine) return 0;
  const auto again = parse(text);
  REQUIRE(again && again->command, text);
  REQUIRE(format_command(*again->command) == text, text);
  return 0;
}
