// Man pages and completions, made of the command line's own description: what --help says, they say.
// Thread safety: no state.
#pragma once

#include <string>

#include "extents/result.h"

namespace CLI {  // NOLINT(readability-identifier-naming)
class App;
}

namespace clonefs {

// WHAT: "bash", "zsh", "fish": the completions; "man": the page whose text is in the file TEMPLATE, with
// lines @COMMANDS@, @COMMON_OPTIONS@ and @MOUNT_OPTIONS@ where these belong, and @VERSION@ anywhere. EINVAL:
// something else.
Result<std::string> generate(const CLI::App& app, const std::string& what, const std::string& template_file);

}  // namespace clonefs
