// How the daemon uses its own mounts.
//
// A thread that waits for an answer of this very process cannot end when the process is killed, and
// while it stands in one table of descriptors with /dev/fuse, the connection never ends either:
// every application that uses the mount would hang for ever. So such waiting is done on threads
// with a table of their own. Thread safety: all functions.
#pragma once

#include <functional>

#include "extents/result.h"

namespace clonefs {

// Call it when the process has few files open. Threads apart take after the one that is made here: to
// close a copy of what was opened later, a file of a pool on NFS or FUSE, waits for its write-back.
// KEEP_STREAMS: these threads have stdin, stdout and stderr still.
void prepare_threads_apart(bool keep_streams);

// Runs JOB on a detached thread with nothing but stdin, stdout and stderr in its table.
void run_apart(std::function<void()> job);
// On such a thread: the directory behind the process's descriptor FD, O_PATH; or -errno.
int reopen_of_process(int fd);

// Runs ACCESS on a thread apart and waits for it.
Status on_own_mount(const std::function<Status()>& access);

}  // namespace clonefs
