#include "tools/report_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "fs/words.h"
#include "tools/terminal.h"

namespace clonefs {

namespace {

constexpr double kWidth = 768;
constexpr double kLeft = 104;   // of the plots, beside their scales
constexpr double kRight = 12;
constexpr double kTop = 12;
constexpr double kPlot = 180;   // height

std::string format(const char* how, double a, double b = 0, double c = 0, double d = 0) {
  char text[256];
  std::snprintf(text, sizeof text, how, a, b, c, d);
  return text;
}

std::string begin_svg(double height, const std::string& title) {
  return format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">",
                kWidth, height) +
         "<title>" + escape_xml(title) + "</title>\n";
}

std::string label(double x, double y, const char* anchor, const std::string& text) {
  return format("<text class=\"faint\" x=\"%.1f\" y=\"%.1f\"", x, y) + " text-anchor=\"" + anchor + "\">" +
         escape_xml(text) + "</text>\n";
}

double seconds_between(const timespec& a, const timespec& b) {
  return static_cast<double>(b.tv_sec - a.tv_sec) + static_cast<double>(b.tv_nsec - a.tv_nsec) / 1e9;
}

std::string seconds_text(double seconds) {
  return format_duration_ns(static_cast<uint64_t>(std::max(0.0, seconds) * 1e9));
}

double left_of(const ProgressSample& sample) {
  return static_cast<double>(sample.tracks_pending);
}

// Tracks that wait, and the rate, over time; with the activation.
constexpr double kSampledEvery = 0.1;  // seconds

std::string timeline(const TrackMap& map) {
  std::vector<ProgressSample> samples = map.samples;
  // When it is over nothing more is to be seen.
  const auto over = std::find_if(samples.begin(), samples.end(), [](const ProgressSample& sample) {
    return sample.state == SessionState::kCopied || sample.state == SessionState::kFailed;
  });
  if (over != samples.end()) samples.erase(over + 1, samples.end());
  if (samples.size() < 2) return "<p>Too little has happened since the mount to draw.</p>\n";
  const timespec begin = samples.front().at;
  const double span = std::max(1e-3, seconds_between(begin, samples.back().at));
  double most = 1, fastest = 1;
  std::vector<double> rates{0};
  for (size_t i = 0; i < samples.size(); i++) {
    most = std::max(most, left_of(samples[i]));
    if (i == 0) continue;
    const double passed = seconds_between(samples[i - 1].at, samples[i].at);
    const double bytes = samples[i].bytes_copied >= samples[i - 1].bytes_copied
                             ? static_cast<double>(samples[i].bytes_copied - samples[i - 1].bytes_copied)
                             : 0;
    // A state that changes has a sample of its own, which may follow the one before at once.
    rates.push_back(bytes / std::max(passed, kSampledEvery));
    fastest = std::max(fastest, rates.back());
  }
  const auto x = [&](size_t i) {
    return kLeft + (kWidth - kLeft - kRight) * seconds_between(begin, samples[i].at) / span;
  };
  std::string svg = begin_svg(2 * kPlot + 88, "Tracks that wait, and the rate of the copy, over time");
  const double second = kTop + kPlot + 36;
  for (const double top : {kTop, second}) {
    for (const double part : {0.0, 0.5, 1.0}) {
      svg += format("<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", kLeft,
                    top + kPlot * part, kWidth - kRight, top + kPlot * part);
    }
  }
  svg += label(kLeft - 8, kTop + 10, "end", std::to_string(static_cast<uint64_t>(most)));
  svg += label(kLeft - 8, kTop + kPlot, "end", "0");
  svg += label(kLeft, kTop + kPlot + 18, "start", "tracks that wait");
  svg += label(kLeft - 8, second + 10, "end", format_size(static_cast<uint64_t>(fastest)) + "/s");
  svg += label(kLeft - 8, second + kPlot, "end", "0");
  svg += label(kLeft, second + kPlot + 18, "start", "rate");
  svg += label(kWidth - kRight, second + kPlot + 18, "end", seconds_text(span));
  std::string area = format("M%.1f %.1f", x(0), kTop + kPlot);
  std::string line;
  for (size_t i = 0; i < samples.size(); i++) {
    area += format(" L%.1f %.1f", x(i), kTop + kPlot * (1 - left_of(samples[i]) / most));
    const double y = second + kPlot * (1 - rates[i] / fastest);
    line += i == 0 ? format("M%.1f %.1f", x(0), y) : format(" L%.1f %.1f", x(i), y);
  }
  area += format(" L%.1f %.1f Z", x(samples.size() - 1), kTop + kPlot);
  svg += "<path class=\"waiting area\" d=\"" + area + "\"/>\n<path class=\"rate\" d=\"" + line + "\"/>\n";
  unsigned marks = 0;
  for (size_t i = 1; i < samples.size(); i++) {
    if (samples[i].state == samples[i - 1].state) continue;
    const double below = 18 * (marks++ % 4);  // none over another
    const bool late = x(i) > kWidth * 0.7;
    svg += format("<line class=\"mark\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x(i), kTop, x(i),
                  second + kPlot);
    svg += label(x(i) + (late ? -5 : 5), kTop + 14 + below, late ? "end" : "start", to_string(samples[i].state));
  }
  return svg + "</svg>\n";
}

uint64_t number(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<uint64_t>() : 0;
}

// {"count","sum_ns","max_ns","buckets":[{"le_ns","count"}]}
std::string histogram(const Json& latency, const std::string& nothing) {
  std::vector<std::pair<std::string, uint64_t>> bars;
  uint64_t most = 0;
  if (latency.is_object()) {
    for (const Json& bucket : latency.value("buckets", Json::array())) {
      const uint64_t count = number(bucket, "count");
      const bool bounded = bucket.contains("le_ns") && bucket["le_ns"].is_number();
      bars.emplace_back(bounded ? "\u2264 " + format_duration_ns(number(bucket, "le_ns")) : "longer", count);
      most = std::max(most, count);
    }
  }
  if (most == 0) return "<p>" + nothing + "</p>\n";
  constexpr double kBar = 22;
  std::string svg = begin_svg(kBar * static_cast<double>(bars.size()) + 8, "Histogram");
  for (size_t i = 0; i < bars.size(); i++) {
    const double y = 4 + kBar * static_cast<double>(i);
    const double width = (kWidth - 110 - 80) * static_cast<double>(bars[i].second) / static_cast<double>(most);
    svg += label(100, y + 14, "end", bars[i].first);
    svg += format("<rect class=\"precopied\" x=\"110\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", y + 2,
                  std::max(1.0, width), kBar - 6);
    svg += label(116 + width, y + 14, "start", std::to_string(bars[i].second));
  }
  svg += "</svg>\n";
  const uint64_t count = number(latency, "count");
  return svg + "<p>" + count_word(count, "write") + ", " +
         format_duration_ns(count == 0 ? 0 : number(latency, "sum_ns") / count) + " on average, the longest " +
         format_duration_ns(number(latency, "max_ns")) + ".</p>\n";
}

std::string value_text(const std::string& key, const Json& value) {
  if (value.is_null()) return "\u2013";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    if (value.empty()) return "\u2013";
    std::string text;
    for (const Json& item : value) {
      text += (text.empty() ? "" : ", ") + (item.is_string() ? item.get<std::string>() : item.dump());
    }
    return text;
  }
  if (value.is_number() && (key.ends_with("bytes_total") || key.ends_with("bytes_copied"))) {
    return format_size(value.get<uint64_t>()) + " (" + value.dump() + ")";
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string status_rows(const Json& object) {
  std::string rows;
  for (const auto& [key, value] : object.items()) {
    if (value.is_object() || key.ends_with("_base64") || key == "schema") continue;
    rows += "<tr><th>" + escape_xml(key) + "</th><td>" + escape_xml(value_text(key, value)) + "</td></tr>\n";
  }
  return rows;
}

constexpr const char* kPageStyle = R"(
  * { box-sizing: border-box; }
  body { margin: 0 auto; padding: 1.5rem; max-width: 54rem; background: var(--page); color: var(--ink);
         font: 15px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  p { color: var(--faint); margin: .3rem 0; }
  svg { width: 100%; height: auto; display: block; }
  .facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-top: 1rem; }
  .facts div { min-width: 7rem; } .facts b { display: block; font-size: 1.25rem; font-weight: 600; }
  .facts span, th { color: var(--faint); font-weight: normal; }
  .error { color: var(--bad); overflow-wrap: anywhere; }
  .grid { stroke: var(--line); } .mark { stroke: var(--faint); stroke-dasharray: 3 3; }
  .rate { fill: none; stroke: var(--precopied); stroke-width: 1.5; } .area { opacity: .75; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line);
           overflow-wrap: anywhere; } th { width: 12rem; }
  @media (max-width: 34rem) { body { padding: 1rem; } th { width: 8rem; } svg text { font-size: 17px; } }
)";

std::string fact(const std::string& value, const std::string& what) {
  return "<div><b>" + escape_xml(value) + "</b><span>" + escape_xml(what) + "</span></div>\n";
}

}  // namespace

std::string report_page(const Json& status, const TrackMap& map) {
  const Json& session = status["sessions"][0];
  const std::string name = session.value("name", "");
  const uint64_t total = number(session, "tracks_total");
  const uint64_t pending = std::min(total, number(session, "tracks_pending"));
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<title>clonefs: " + escape_xml(name) + "</title>\n<style>" + kPictureStyle + kPageStyle +
      "</style>\n</head>\n<body>\n<h1>" + escape_xml(name) + "</h1>\n";
  const bool whole = session["paths"] == Json::array({"."});
  page += "<p>Clone of " + (whole ? "all" : escape_xml(value_text("paths", session["paths"]))) + " of " +
          escape_xml(status.value("volume", "")) + ", as of " + escape_xml(format_time(map.at)) + "</p>\n";
  if (session["error"].is_string()) {
    page += "<p class=\"error\">" + escape_xml(session["error"].get<std::string>()) + "</p>\n";
  }
  page += "<div class=\"facts\">\n";
  page += fact(session.value("state", ""), "state");
  page += fact(value_text("", session["activated_at"]).substr(0, 19), "consistency point (UTC)");
  page += fact(std::to_string(total - pending) + " of " + std::to_string(total), "tracks on the clone side");
  page += fact(format_size(number(session, "bytes_total")), "in " + count_word(number(session, "files"), "file"));
  page += fact(std::to_string(number(session, "cofw_tracks")), "tracks copied on first write");
  if (session.contains("fence_ns") && number(session, "fence_ns") > 0) {
    page += fact(format_duration_ns(number(session, "fence_ns")), "fence of the activation");
  }
  page += "</div>\n<h2>Tracks</h2>\n";
  page += map.cells.empty() ? "<p>There are none.</p>\n" : map_svg(map, false);
  page += "<h2>The copy over time</h2>\n" + timeline(map);
  const auto cofw = session.find("cofw_latency");
  page += "<h2>How long writers waited for copies</h2>\n" +
          histogram(cofw == session.end() ? Json() : *cofw, "No write has waited for a copy since the mount.");
  page += "<h2>Status</h2>\n<table>\n" + status_rows(session) + "</table>\n";
  return page + "</body>\n</html>\n";
}

}  // namespace clonefs
