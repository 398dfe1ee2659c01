#include "fs/track_picture.h"

#include <algorithm>
#include <cstdio>

#include "fs/words.h"

namespace clonefs {

namespace {

constexpr size_t kTextColumns = 64;
constexpr size_t kSvgColumns = 64;
constexpr unsigned kCellPixels = 12;

constexpr TrackLook kAll[] = {TrackLook::kDrained, TrackLook::kPrecopied, TrackLook::kRewritten,
                              TrackLook::kWaiting, TrackLook::kOutside};

std::string percent(uint64_t part, uint64_t whole) {
  char text[16];
  std::snprintf(text, sizeof text, "%.*f%%", part == whole || part == 0 ? 0 : 1,
                whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

std::string cell_title(const TrackMap& map, size_t first, size_t last) {
  const uint64_t begin = first * map.tracks_per_cell;
  const uint64_t end = std::min(map.tracks, (last + 1) * map.tracks_per_cell) - 1;
  std::string text = begin == end ? "track " + std::to_string(begin)
                                  : "tracks " + std::to_string(begin) + " to " + std::to_string(end);
  std::string parts;
  for (const TrackLook look : kAll) {
    uint64_t count = 0;
    for (size_t i = first; i <= last; i++) count += count_of(map.cells[i], look);
    if (count == 0) continue;
    parts += (parts.empty() ? ": " : ", ") + std::to_string(count) + " " + to_string(look);
  }
  return text + parts;
}

bool same_cell(const TrackMap::Cell& a, const TrackMap::Cell& b) {
  return std::all_of(std::begin(kAll), std::end(kAll),
                     [&](TrackLook look) { return count_of(a, look) == count_of(b, look); });
}

bool is_uniform(const TrackMap::Cell& cell) {
  unsigned states = 0;
  for (const TrackLook look : kAll) states += count_of(cell, look) != 0;
  return states == 1;
}

timespec time_of(const Json& text) {
  timespec time{};
  if (text.is_string()) time = parse_time(text.get<std::string>());
  return time;
}

SessionState state_of(const std::string& word) {
  for (const SessionState state : {SessionState::kCreated, SessionState::kPrecopy,
                                   SessionState::kCopyInProgress, SessionState::kCopied,
                                   SessionState::kTerminated, SessionState::kFailed}) {
    if (word == to_string(state)) return state;
  }
  return SessionState::kFailed;
}

}  // namespace

const Marks kPlainMarks = {"#", "o", "!", ".", " "};

const char* const kPictureStyle = R"(
  :root { --page: #ffffff; --ink: #1f2630; --faint: #5d6876; --line: #d5dae1;
          --drained: #2f9e6b; --precopied: #4b8fe2; --rewritten: #d98a17; --waiting: #a9b2be;
          --outside: #e3e8ee; --bad: #c9372c; }
  @media (prefers-color-scheme: dark) {
    :root { --page: #14181d; --ink: #e4e9ef; --faint: #98a4b3; --line: #333c47;
            --drained: #38b27b; --precopied: #5b9df0; --rewritten: #eda52f; --waiting: #5b6673;
            --outside: #262d36; --bad: #f26d61; } }
  .drained { fill: var(--drained); } .precopied { fill: var(--precopied); }
  .rewritten { fill: var(--rewritten); } .waiting { fill: var(--waiting); }
  .outside { fill: var(--outside); } .ink { fill: var(--ink); } .faint { fill: var(--faint); }
  svg text { font-family: system-ui, sans-serif; font-size: 13px; }
)";

const char* to_string(TrackLook look) {
  switch (look) {
    case TrackLook::kDrained: return "drained";
    case TrackLook::kPrecopied: return "precopied";
    case TrackLook::kRewritten: return "rewritten";
    case TrackLook::kWaiting: return "waiting";
    case TrackLook::kOutside: return "outside";
  }
  return "?";
}

uint64_t count_of(const TrackMap::Cell& cell, TrackLook look) {
  switch (look) {
    case TrackLook::kDrained: return cell.drained;
    case TrackLook::kPrecopied: return cell.precopied;
    case TrackLook::kRewritten: return cell.rewritten;
    case TrackLook::kWaiting: return cell.waiting;
    case TrackLook::kOutside: return cell.outside;
  }
  return 0;
}

std::array<uint64_t, kLooks> totals_of(const TrackMap& map) {
  std::array<uint64_t, kLooks> totals{};
  for (const auto& cell : map.cells) {
    for (size_t i = 0; i < kLooks; i++) totals[i] += count_of(cell, kAll[i]);
  }
  return totals;
}

TrackLook look_of(const TrackMap::Cell& cell) {
  TrackLook most = TrackLook::kOutside;
  uint64_t count = 0;
  for (const TrackLook look : kAll) {
    if (look == TrackLook::kOutside || count_of(cell, look) <= count) continue;
    most = look;
    count = count_of(cell, look);
  }
  return most;
}

std::string map_json(const TrackMap& map) {
  Json json = new_answer();
  json["name"] = map.name;
  json["state"] = to_string(map.state);
  json["at"] = time_json(map.at);
  json["track_size"] = map.track_size;
  json["tracks"] = map.tracks;
  json["tracks_per_cell"] = map.tracks_per_cell;
  const auto totals = totals_of(map);
  for (size_t i = 0; i < kLooks; i++) json["totals"][to_string(kAll[i])] = totals[i];
  json["cell_keys"] = {"waiting", "precopied", "rewritten", "drained", "outside"};
  json["cells"] = Json::array();
  for (const auto& cell : map.cells) {
    json["cells"].push_back(
        {cell.waiting, cell.precopied, cell.rewritten, cell.drained, cell.outside});
  }
  json["samples"] = Json::array();
  for (const ProgressSample& sample : map.samples) {
    json["samples"].push_back({{"at", time_json(sample.at)},
                               {"state", to_string(sample.state)},
                               {"tracks_pending", sample.tracks_pending},
                               {"tracks_precopied", sample.tracks_precopied},
                               {"bytes_copied", sample.bytes_copied},
                               {"cofw_tracks", sample.cofw_tracks}});
  }
  return dump_json_line(json);
}

Result<TrackMap> parse_map(const std::string& text) {
  const Error bad{EPROTO, "the daemon's map is not understood. Is it of another version?"};
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return bad;
  try {
    TrackMap map;
    map.name = json.at("name");
    map.state = state_of(json.at("state"));
    map.at = time_of(json.at("at"));
    map.track_size = json.at("track_size");
    map.tracks = json.at("tracks");
    map.tracks_per_cell = json.at("tracks_per_cell");
    for (const Json& cell : json.at("cells")) {
      map.cells.push_back({cell.at(0), cell.at(1), cell.at(2), cell.at(3), cell.at(4)});
    }
    for (const Json& sample : json.at("samples")) {
      map.samples.push_back({time_of(sample.at("at")), state_of(sample.at("state")),
                             sample.at("tracks_pending"), sample.at("tracks_precopied"),
                             sample.at("bytes_copied"), sample.at("cofw_tracks")});
    }
    return map;
  } catch (const Json::exception&) {
    return bad;
  }
}

std::vector<std::string> map_legend(const TrackMap& map, const Marks& marks) {
  const auto totals = totals_of(map);
  std::vector<std::string> legend;
  for (size_t i = 0; i < kLooks; i++) {
    if (totals[i] == 0) continue;
    legend.push_back(marks[i] + " " + to_string(kAll[i]) + " " + std::to_string(totals[i]) + " (" +
                     percent(totals[i], map.tracks) + ")");
  }
  return legend;
}

std::string map_text(const TrackMap& map) {
  std::string text = map.name + ": " + count_word(map.tracks, "track") + " of " +
                     format_size(map.track_size) + ", " + std::to_string(map.tracks_per_cell) +
                     " a cell\n";
  for (size_t begin = 0; begin < map.cells.size(); begin += kTextColumns) {
    std::string row;
    for (size_t i = begin; i < std::min(begin + kTextColumns, map.cells.size()); i++) {
      row += kPlainMarks[static_cast<size_t>(look_of(map.cells[i]))];
    }
    text += "|" + row + "|\n";
  }
  for (const std::string& line : map_legend(map, kPlainMarks)) text += line + "\n";
  return text;
}

std::string escape_xml(const std::string& text) {
  // Through the JSON writer, which makes bad bytes U+FFFD.
  const std::string clean = Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
  std::string out;
  for (const char c : clean) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '\'') out += "&#39;";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) out += "\xef\xbf\xbd";
    else out += c;
  }
  return out;
}

std::string map_svg(const TrackMap& map, bool with_style) {
  const size_t rows = (map.cells.size() + kSvgColumns - 1) / kSvgColumns;
  constexpr unsigned kWidth = kSvgColumns * kCellPixels;
  constexpr unsigned kHead = 26;
  const auto grid = static_cast<unsigned>(std::max<size_t>(rows, 1) * kCellPixels);
  const unsigned legend_at = kHead + grid + 22;
  const unsigned height = legend_at + 34;
  char text[256];
  std::snprintf(text, sizeof text,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" width=\"%u\" height=\"%u\" "
                "role=\"img\">\n",
                kWidth, height, kWidth, height);
  std::string svg = text;
  if (with_style) {
    svg += std::string("<style>") + kPictureStyle + "</style>\n";
    std::snprintf(text, sizeof text, "<rect width=\"%u\" height=\"%u\" style=\"fill: var(--page)\"/>\n", kWidth,
                  height);
    svg += text;
  }
  const std::string title = map.name + ": " + count_word(map.tracks, "track") + " of " +
                            format_size(map.track_size) + ", " + to_string(map.state);
  svg += "<title>" + escape_xml(title) + "</title>\n";
  svg += "<text class=\"ink\" x=\"0\" y=\"15\">" + escape_xml(title) + "</text>\n";
  for (size_t i = 0; i < map.cells.size();) {
    const TrackMap::Cell& cell = map.cells[i];
    const size_t column = i % kSvgColumns;
    size_t last = i;
    // Neighbours of one state are one rectangle.
    while (is_uniform(cell) && last + 1 < map.cells.size() && last + 1 - i + column < kSvgColumns &&
           same_cell(cell, map.cells[last + 1])) {
      last++;
    }
    const uint64_t all = std::max<uint64_t>(
        1, cell.waiting + cell.precopied + cell.rewritten + cell.drained + cell.outside);
    svg += "<g><title>" + escape_xml(cell_title(map, i, last)) + "</title>";
    double y = kHead + static_cast<double>(i / kSvgColumns * kCellPixels);
    for (const TrackLook look : kAll) {
      const uint64_t count = count_of(cell, look);
      if (count == 0) continue;
      const double part = (kCellPixels - 1) * static_cast<double>(count) / static_cast<double>(all);
      std::snprintf(text, sizeof text,
                    "<rect class=\"%s\" x=\"%zu\" y=\"%.2f\" width=\"%zu\" height=\"%.2f\"/>",
                    to_string(look), column * kCellPixels, y, (last - i + 1) * kCellPixels - 1, part);
      svg += text;
      y += part;
    }
    svg += "</g>\n";
    i = last + 1;
  }
  const auto totals = totals_of(map);
  unsigned x = 0;
  for (size_t i = 0; i < kLooks; i++) {
    const std::string label =
        std::string(to_string(kAll[i])) + " " + percent(totals[i], map.tracks);
    std::snprintf(text, sizeof text,
                  "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"12\" height=\"12\"/>"
                  "<text class=\"faint\" x=\"%u\" y=\"%u\">%s</text>\n",
                  to_string(kAll[i]), x, legend_at, x + 18, legend_at + 11, label.c_str());
    svg += text;
    x += kWidth / kLooks;
  }
  return svg + "</svg>\n";
}

}  // namespace clonefs
