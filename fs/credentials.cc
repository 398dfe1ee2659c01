#include "fs/credentials.h"

#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace clonefs {
namespace {

// The raw calls: glibc's would switch all threads.
void set_groups(size_t count, const gid_t* groups) {
  syscall(SYS_setgroups, count, groups);
}

// The daemon's own supplementary groups, to return to.
const std::vector<gid_t>& own_groups() {
  static const std::vector<gid_t> groups = [] {
    std::vector<gid_t> list(static_cast<size_t>(std::max(getgroups(0, nullptr), 0)));
    const int count = getgroups(static_cast<int>(list.size()), list.data());
    list.resize(static_cast<size_t>(std::max(count, 0)));
    return list;
  }();
  return groups;
}

std::vector<gid_t> groups_of(fuse_req_t req) {
  std::vector<gid_t> list(64);
  for (;;) {
    const int count = fuse_req_getgroups(req, static_cast<int>(list.size()), list.data());
    if (count < 0) return {};  // the process is gone, or in a namespace we don't see
    const bool all = static_cast<size_t>(count) <= list.size();
    list.resize(static_cast<size_t>(count));
    if (all) return list;
  }
}

}  // namespace

ActAs::ActAs(fuse_req_t req, What what, bool enabled) {
  const fuse_ctx* caller = fuse_req_ctx(req);
  if (what == What::kCreate) {
    // The umask belongs to the process unless the thread leaves it.
    static thread_local const bool own_umask = unshare(CLONE_FS) == 0;
    if (own_umask) {
      old_umask_ = umask(caller->umask);
      umask_ = true;
    }
  }
  if (!enabled) return;
  if (caller->uid == 0 && caller->gid == 0) return;
  // A request without a caller we know (uid -1: idmapped or from another user namespace).
  if (caller->uid == static_cast<uid_t>(-1)) return;
  if (what == What::kCreate && caller->uid != 0) {
    own_groups();
    const std::vector<gid_t> groups = groups_of(req);
    set_groups(groups.size(), groups.data());
    groups_ = true;
  }
  // The user last: it takes the capabilities away that the rest needs.
  syscall(SYS_setfsgid, caller->gid);
  syscall(SYS_setfsuid, caller->uid);
  switched_ = true;
}

ActAs::~ActAs() {
  if (switched_) {
    syscall(SYS_setfsuid, geteuid());
    syscall(SYS_setfsgid, getegid());
    if (groups_) set_groups(own_groups().size(), own_groups().data());
  }
  if (umask_) umask(old_umask_);
}

std::string names_shown_to(fuse_req_t req, std::string names) {
  if (fuse_req_ctx(req)->uid == 0) return names;
  std::string shown;
  for (size_t at = 0; at < names.size();) {
    const std::string name = names.c_str() + at;
    if (!name.starts_with("trusted.")) shown += name + '\0';
    at += name.size() + 1;
  }
  return shown;
}

}  // namespace clonefs
