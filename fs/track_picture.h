// The tracks of a session as a picture: as JSON, in text, as SVG. A cell shows the state that most of its
// tracks in the extents are in; in SVG its parts are as large as their share. Thread safety: no state.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "fs/json_text.h"

namespace clonefs {

// The states in the order of the legend.
enum class TrackLook { kDrained, kPrecopied, kRewritten, kWaiting, kOutside };
inline constexpr size_t kLooks = 5;
const char* to_string(TrackLook look);
uint64_t count_of(const TrackMap::Cell& cell, TrackLook look);
std::array<uint64_t, kLooks> totals_of(const TrackMap& map);
// What a cell is drawn as in text.
TrackLook look_of(const TrackMap::Cell& cell);

// {"schema":1,"name":...,"cells":[[waiting, precopied, rewritten, drained, outside], ...],"samples":[...]}
std::string map_json(const TrackMap& map);
Result<TrackMap> parse_map(const std::string& json);
// For people without a terminal: 64 cells a row, and the legend.
std::string map_text(const TrackMap& map);

// MARKS: one text a state, a column wide.
using Marks = std::array<std::string, kLooks>;
extern const Marks kPlainMarks;
// "# drained  812 (81%)", one a state that occurs.
std::vector<std::string> map_legend(const TrackMap& map, const Marks& marks);

// A file of its own; also an element of an HTML page that has picture_style.
std::string map_svg(const TrackMap& map, bool with_style);
// Colors, for light and dark, of the classes that the pictures use.
extern const char* const kPictureStyle;
// Text in XML and HTML, in elements and attributes; bytes that are no UTF-8 and control characters are U+FFFD.
std::string escape_xml(const std::string& text);

}  // namespace clonefs
