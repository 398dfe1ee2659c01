#include "fs/status_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fs/json_text.h"

namespace clonefs {
namespace {

SessionStatus sample() {
  SessionStatus s;
  s.name = "db1";
  s.state = SessionState::kCopyInProgress;
  s.op = "drain";
  s.op_status = "running";
  s.created_at = {1700000000, 5};
  s.activated_at = {1700000001, 118000000};
  s.paths = {"a", "b\xff\xfe"};
  s.files = 3;
  s.objects = 4;
  s.track_size = 65536;
  s.tracks_total = 200;
  s.tracks_pending = 1;
  s.bytes_total = 200 << 16;
  s.eta_s = 75;
  s.sessions = {7};
  s.destination = "/pool/trees/1\n";
  return s;
}

TEST(StatusText, Times) {
  EXPECT_EQ(format_time({1700000001, 118000000}), "2023-11-14T22:13:21.118000000Z");
  EXPECT_EQ(format_time({1700000001, 1}), "2023-11-14T22:13:21.000000001Z");
  EXPECT_EQ(format_time({0, 0}), "");
}

TEST(StatusText, JsonHasEveryKeyAndIsUtf8) {
  const std::string text = status_json({"/v\xff", "/s", "/p", 42}, {sample()}, false);
  const auto json = nlohmann::json::parse(text);  // throws on bad UTF-8
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["pid"], 42);
  EXPECT_TRUE(json["pool_free_bytes"].is_null());
  VolumeInfo known;
  known.pool_status = {true, 3 << 20, 5 << 20, 1 << 20, 3};
  const auto pool = nlohmann::json::parse(status_json(known, {}, false));
  EXPECT_EQ(pool["pool_free_bytes"], 3 << 20);
  EXPECT_EQ(pool["pool_needed_bytes"], 5 << 20);
  EXPECT_EQ(pool["pool_full_in_s"], 3);
  EXPECT_EQ(pool_line(known.pool_status), "pool: 3.0 MiB free, 5.0 MiB may be needed, full in 3s\n");
  known.pool_status = {true, 3 << 20, 1 << 20, 0, -1};
  EXPECT_EQ(pool_line(known.pool_status), "pool: 3.0 MiB free\n");
  EXPECT_EQ(pool_line({}), "");
  const auto& s = json["sessions"][0];
  for (const char* key : {"name",
                          "state",
                          "op",
                          "op_status",
                          "created_at",
                          "activated_at",
                          "error",
                          "paths",
                          "files",
                          "tracks_total",
                          "tracks_pending",
                          "tracks_precopied",
                          "tracks_recopied",
                          "cofw_tracks",
                          "clone_read_tracks",
                          "last_track",
                          "bytes_total",
                          "bytes_copied",
                          "rate_bytes_per_s",
                          "eta_s",
                          "sessions",
                          "destination",
                          "track_size",
                          "nocopy",
                          "rate_limit",
                          "pace",
                          "transfer",
                          "fence_ns"}) {
    EXPECT_TRUE(s.contains(key)) << key;
  }
  EXPECT_EQ(s["state"], "CopyInProgress");
  EXPECT_EQ(s["paths"][1], "b\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(s["paths_base64"], nlohmann::json({"YQ==", "Yv/+"}));
  EXPECT_EQ(read_names(Json::parse(s.dump()), "paths"), sample().paths);
  EXPECT_EQ(json["volume_base64"], "L3b/");
  EXPECT_FALSE(json.contains("source_base64"));
  EXPECT_EQ(s["activated_at"], "2023-11-14T22:13:21.118000000Z");
  EXPECT_TRUE(s["error"].is_null());
  EXPECT_EQ(s["sessions"][0], 7);
}

TEST(JsonText, ListsOfNamesComeBack) {
  for (const std::vector<std::string>& names :
       {std::vector<std::string>{}, {"a", "b"}, {"", "\xff", "\xff\xfe", "\xff\xfe\xfd", "\xff\xfe\xfd\xfc"}}) {
    Json object;
    put_names(&object, "names", names);
    EXPECT_EQ(read_names(Json::parse(dump_json(object)), "names"), names);
  }
}

TEST(JsonText, Errors) {
  EXPECT_EQ(error_json({ENOENT, "no \xff"}).dump(-1, ' ', true, Json::error_handler_t::replace),
            R"({"schema":1,"error":{"code":"ENOENT","errno":2,"message":"no \ufffd"}})");
}

TEST(StatusText, TerminatedOnesAreNoSessions) {
  SessionStatus terminated = sample();
  terminated.state = SessionState::kTerminated;
  const auto count = [&](bool all) {
    return nlohmann::json::parse(status_json({}, {sample(), terminated}, all))["sessions"].size();
  };
  EXPECT_EQ(count(false), 1u);
  EXPECT_EQ(count(true), 2u);
  EXPECT_EQ(status_table({terminated}, false), "no sessions\n");
  EXPECT_NE(status_table({terminated}, true).find("Terminated"), std::string::npos);
}

TEST(StatusText, TableDoesNotRoundUpToDone) {
  SessionStatus s = sample();
  EXPECT_NE(status_table({s}, false).find(" 99% "), std::string::npos) << status_table({s}, false);
  s.tracks_pending = 0;
  EXPECT_NE(status_table({s}, false).find(" 100% "), std::string::npos);
  s.activated_at = {};
  s.tracks_precopied = 100;  // before activation the precopied ones count
  EXPECT_NE(status_table({s}, false).find(" 50% "), std::string::npos);
}

TEST(StatusText, OneLineAFactWhateverTheNames) {
  SessionStatus s = sample();
  s.error = "bad\nthing\x1b[31m";
  const std::string text = status_details(s);
  EXPECT_NE(text.find("/pool/trees/1\\x0a\n"), std::string::npos) << text;
  EXPECT_NE(text.find("bad\\x0athing\\x1b[31m"), std::string::npos) << text;
  EXPECT_NE(text.find("1m15s"), std::string::npos) << text;
}

TEST(StatusText, Extents) {
  MemberExtents member{"d/f", 100000, 65536, {{{0, 1}, "101"}, {{5, 2}, "000"}}};
  const std::string text = extents_text("db1", {member});
  EXPECT_NE(text.find("db1: d/f, 100000 bytes"), std::string::npos) << text;
  EXPECT_NE(text.find("101"), std::string::npos);
  const auto json = nlohmann::json::parse(extents_json({{"db1", {member}}}));
  EXPECT_EQ(json["sessions"][0]["files"][0]["extents"][1]["count"], 2);
}

}  // namespace
}  // namespace clonefs
