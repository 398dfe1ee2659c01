// clonefs report: what there is to see of a session, as one page.
#include <cstdio>

#include "fs/words.h"
#include "tools/commands.h"
#include "tools/report_page.h"
#include "tools/whole_file.h"

namespace clonefs {

int report_session(const std::string& name, const std::string& html, const CommonOptions& common) {
  const auto client = Client::find(common.mount, {});
  if (!client) return fail("report", client.error(), common);
  Command ask;
  ask.verb = Verb::kStatus;
  ask.names = {name};
  ask.json = true;
  const auto status = client->send(ask);
  if (!status) return fail("report", status.error(), common);
  const Json json = Json::parse(*status, nullptr, false);
  if (!json.is_object() || !json.contains("sessions") || json["sessions"].empty()) {
    return fail("report", Error{EPROTO, "the daemon's answer is not understood"}, common);
  }
  TrackMap map;
  ::clock_gettime(CLOCK_REALTIME, &map.at);
  if (json["sessions"][0]["state"] != "Terminated") {
    ask.verb = Verb::kMap;
    const auto reply = client->send(ask);
    if (!reply) return fail("report", reply.error(), common);
    auto parsed = parse_map(*reply);
    if (!parsed) return fail("report", parsed.error(), common);
    map = std::move(*parsed);
  }
  const Status written = write_whole_file(html, report_page(json, map));
  if (!written) return fail("report", written.error(), common);
  if (common.json) {
    Json answer = new_answer();
    answer["name"] = name;
    put_name(&answer, "html", html);
    std::fputs(dump_json(answer).c_str(), stdout);
  } else if (!common.quiet) {
    std::printf("%s\n", quote_name(html).c_str());
  }
  return kExitDone;
}

}  // namespace clonefs
