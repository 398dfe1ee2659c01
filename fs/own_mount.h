// How the daemon uses its own mounts.
//
// A thread that waits for an answer of this very process cannot end when the process is killed, and
// while it stands in one table of descriptors with /dev/fuse, the connection never ends either:
// every application that uses the mount would hang for ever. So such waiting is done on threads
// with a table of their own. Thread safety: no state.
#pragma once

#include <functional>

#include "extents/result.h"

namespace clonefs {

// Gives the calling thread a table of descriptors of its own with nothing but stdin, stdout, stderr
// and KEPT (-1: none).
void part_descriptors(int kept);

// Runs ACCESS on a thread without descriptors and waits for it.
Status on_own_mount(const std::function<Status()>& access);

}  // namespace clonefs
