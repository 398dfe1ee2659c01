// Writes a file that is there whole or not at all: under another name first. Errors: what could not be
// done with which file. Thread safety: no state.
#pragma once

#include <string>

#include "extents/result.h"

namespace clonefs {

Error cannot_write(const std::string& path, int code);
Status write_whole_file(const std::string& path, const std::string& text);

}  // namespace clonefs
