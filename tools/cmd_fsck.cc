// clonefs fsck: looks through a pool that no daemon uses.
#include <cstdio>

#include "engine/pool_check.h"
#include "fs/json_text.h"
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

}  // namespace

int fsck_pool(const PoolCheckOptions& options, const CommonOptions& common) {
  const bool quiet = common.quiet;
  const auto report = check_pool(options);
  if (!report) return fail("fsck", report.error(), common);
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
