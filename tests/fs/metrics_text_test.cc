#include "fs/metrics_text.h"

#include <gtest/gtest.h>

namespace clonefs {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(MetricsText, LabelsAreEscapedAndUtf8) {
  VolumeInfo info;
  info.volume = "/a\"b\\c\nd\xff";
  const std::string text = metrics_text(info, {});
  EXPECT_TRUE(has_line(text, "clonefs_cofw_tracks_total{volume=\"/a\\\"b\\\\c\\nd\xef\xbf\xbd\"} 0")) << text;
}

TEST(MetricsText, HistogramsAreCumulativeAndInSeconds) {
  VolumeInfo info;
  info.volume = "/v";
  info.counts.cofw.counts[0] = 3;   // up to 1 us
  info.counts.cofw.counts[4] = 2;   // up to 20 us
  info.counts.cofw.counts.back() = 1;
  info.counts.cofw.sum_ns = 61000000042;
  const std::string text = metrics_text(info, {});
  for (const char* line :
       {"clonefs_cofw_latency_seconds_bucket{volume=\"/v\",le=\"1e-06\"} 3",
        "clonefs_cofw_latency_seconds_bucket{volume=\"/v\",le=\"1e-05\"} 3",
        "clonefs_cofw_latency_seconds_bucket{volume=\"/v\",le=\"2e-05\"} 5",
        "clonefs_cofw_latency_seconds_bucket{volume=\"/v\",le=\"50\"} 5",
        "clonefs_cofw_latency_seconds_bucket{volume=\"/v\",le=\"+Inf\"} 6",
        "clonefs_cofw_latency_seconds_sum{volume=\"/v\"} 61.000000042",
        "clonefs_cofw_latency_seconds_count{volume=\"/v\"} 6"}) {
    EXPECT_TRUE(has_line(text, line)) << line << "\n" << text;
  }
}

TEST(MetricsText, TracksByStateAndAge) {
  SessionStatus s;
  s.name = "db1";
  s.state = SessionState::kPrecopy;
  s.op_status = "paused";
  s.tracks_total = 10;
  s.tracks_pending = 2;
  s.tracks_precopied = 5;
  VolumeInfo info;
  info.volume = "/v";
  std::string text = metrics_text(info, {s});
  const std::string clone = "{volume=\"/v\",clone=\"db1\"";
  for (const std::string& line :
       {"clonefs_clone_tracks" + clone + ",state=\"pending\"} 2",
        "clonefs_clone_tracks" + clone + ",state=\"precopied\"} 5",
        "clonefs_clone_tracks" + clone + ",state=\"done\"} 3",
        "clonefs_clone_state" + clone + ",state=\"Precopy\"} 1",
        "clonefs_clone_state" + clone + ",state=\"Failed\"} 0",
        "clonefs_clone_copy_paused" + clone + "} 1"}) {
    EXPECT_TRUE(has_line(text, line)) << line << "\n" << text;
  }
  // No consistency point yet: no age, rather than one since 1970.
  EXPECT_EQ(text.find("clonefs_clone_age_seconds{"), std::string::npos);
  s.activated_at = {1700000000, 5};
  text = metrics_text(info, {s});
  EXPECT_TRUE(has_line(text, "clonefs_clone_consistency_point_timestamp_seconds" + clone +
                                 "} 1700000000.000000005"));
  EXPECT_NE(text.find("clonefs_clone_age_seconds{"), std::string::npos);
}

}  // namespace
}  // namespace clonefs
