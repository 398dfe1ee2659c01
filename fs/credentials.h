// Acting as the process that sent a request: file system user and group, supplementary groups and
// umask of the calling thread only. All of it is per thread in the kernel, and worker threads serve
// requests of different users at the same time.
//
// Only root can switch; where switching is off, all is done as the daemon itself.
// Thread safety: an object belongs to the thread that made it and must not outlive its scope.
#pragma once

#include <fuse3/fuse_lowlevel.h>
#include <sys/types.h>

#include <string>

namespace clonefs {

class ActAs {
 public:
  enum class What {
    kCreate,  // ids, supplementary groups and umask: what creates
    kIds,     // ids alone: writes, where only the missing CAP_FSETID matters
  };
  // ENABLED false: nothing is switched but the umask.
  ActAs(fuse_req_t req, What what, bool enabled);
  ~ActAs();
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

 private:
  bool switched_ = false;
  bool groups_ = false;
  bool umask_ = false;
  mode_t old_umask_ = 0;
};

// NAMES of extended attributes (a zero byte after each) without those that only root may see.
std::string names_shown_to(fuse_req_t req, std::string names);

}  // namespace clonefs
