// The exit codes of clonefs, all of them. Append only: scripts depend on them.
#pragma once

namespace clonefs {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;  // refused or failed, in part too; it has been said why
inline constexpr int kExitUsage = 2;   // wrong usage; nothing was done
inline constexpr int kExitDiffers = 3; // diff --exit-code: there are differences

// Of `exec` itself, as env(1), nice(1) and others have them; else the exit code is the command's own.
inline constexpr int kExitExecFailed = 125;
inline constexpr int kExitCannotRun = 126;  // the command is there but cannot be run
inline constexpr int kExitNotFound = 127;   // there is no such command

}  // namespace clonefs
