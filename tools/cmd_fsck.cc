// clonefs fsck: looks through a pool that no daemon uses.
#include <cerrno>
#include <cstdio>

#include "engine/pool_check.h"
#include "fs/command_paths.h"
#include "fs/json_text.h"
#include "fs/mount_table.h"
#include "fs/words.h"
#include "tools/commands.h"

namespace clonefs {

namespace {

std::string as_json(const PoolCheckOptions& options, const PoolReport& report) {
  Json json = new_answer();
  put_name(&json, "pool", options.pool);
  json["repair"] = options.repair;
  json["sessions"] = report.sessions;
  json["members"] = report.members;
  json["tracks"] = report.tracks;
  json["problems"] = report.problems;
  json["findings"] = Json::array();
  for (const auto& f : report.findings)
    json["findings"].push_back(
        {{"problem", f.problem}, {"what", f.what}, {"repair", f.repair}, {"done", f.done}});
  return dump_json(json);
}

// The volume that hides POOL beneath its mount; "" if none does.
std::string volume_over(const std::string& pool) {
  const auto table = read_mount_table();
  const auto at = absolute_path(pool, true);
  if (!table || !at) return "";
  const MountEntry* entry = mount_of(*table, *at);
  std::string inner;
  const bool hidden = entry != nullptr && entry->is_volume() &&
                      path_beneath(entry->mountpoint + "/.clonefs", *at, &inner);
  return hidden ? entry->mountpoint : "";
}

}  // namespace

int fsck_pool(const PoolCheckOptions& options, const CommonOptions& common) {
  const bool quiet = common.quiet;
  const auto report = check_pool(options);
  if (!report) {
    const std::string volume = report.error().code == ENOENT ? volume_over(options.pool) : "";
    if (volume.empty()) return fail("fsck", report.error(), common);
    return fail("fsck", {EBUSY, "the volume " + volume + " is mounted over its pool. First: clonefs umount " +
                                    quote_word(volume)}, common);
  }
  if (common.json) {
    std::printf("%s", as_json(options, *report).c_str());
    return report->problems == 0 ? 0 : 1;
  }
  for (const auto& f : report->findings) {
    if (quiet && !f.problem) continue;
    std::string text = (f.problem ? "PROBLEM " : "note ") + f.what;
    if (!f.repair.empty()) {
      const bool ours = f.repair.starts_with("set ") || f.repair.starts_with("remove ");
      text += "\n  " + std::string(f.done                        ? "done: "
                                   : options.repair && ours ? "NOT done: "
                                   : ours                   ? "--repair would: "
                                                            : "") +
              f.repair;
    }
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 && c != '\n') c = '?';
    std::printf("%s\n", text.c_str());
  }
  if (!quiet) {
    std::printf("%s: %lu sessions, %lu members", options.pool.c_str(),
                static_cast<unsigned long>(report->sessions),
                static_cast<unsigned long>(report->members));
    if (options.data) std::printf(", %lu tracks compared", static_cast<unsigned long>(report->tracks));
    std::printf(report->problems == 0 ? ": no problem\n" : ": %lu problems\n",
                static_cast<unsigned long>(report->problems));
  }
  return report->problems == 0 ? 0 : 1;
}

}  // namespace clonefs
