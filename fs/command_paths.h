// Paths as users write them, made relative to the volume, and refused when they lead elsewhere.
// Thread safety: no state.
#pragma once

#include <cstdint>
#include <string>

#include "extents/result.h"

namespace clonefs {

// PATH, relative to the volume or absolute within MOUNTPOINT, as a clean relative path ("." is the
// volume) of an existing object beneath the directory SOURCE. Symbolic links on the way are
// followed while they stay in the volume; one at the end is meant itself. Errors: EXDEV when it
// leads out of the volume, EINVAL for what lies in .clonefs, ENOENT and the like.
Result<std::string> volume_path(int source, const std::string& mountpoint, const std::string& path);

// Why "" is none.
Error empty_path();

// O_PATH descriptor of PATH beneath DIR, by openat2 with RESOLVE beside what keeps it beneath; a link
// at the end is meant itself. -errno.
int open_beneath(int dir, const char* path, uint64_t resolve);

// The lexical part: no empty and "." components. "" when nothing is left.
std::string clean_path(const std::string& path);

// PATH relative to BASE, "." for BASE itself, where it lies in it. Both clean and absolute.
bool path_beneath(const std::string& base, const std::string& path, std::string* relative);

}  // namespace clonefs
