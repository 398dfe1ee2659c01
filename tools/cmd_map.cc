// clonefs map: the tracks of a session as a picture, on the terminal (live, with --watch) or as a file.
#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cerrno>
#include <cstdio>
#include <thread>

#include "fs/track_picture.h"
#include "fs/words.h"
#include "tools/commands.h"
#include "tools/terminal.h"
#include "tools/whole_file.h"

namespace clonefs {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval{500};
constexpr unsigned kMostRows = 24;

const Marks kBlockMarks = {"\u2588", "\u2593", "\u259e", "\u2591", "\u00b7"};
constexpr Color kColors[] = {Color::kGreen, Color::kBlue, Color::kYellow, Color::kGray, Color::kGray};

// Rows that are left for cells.
unsigned cell_rows(const Terminal& terminal) {
  constexpr unsigned kOthers = 8;  // the head, the legend, the cursor
  return std::clamp(terminal.rows > kOthers ? terminal.rows - kOthers : 1, 1u, kMostRows);
}

std::string drawn(const TrackMap& map, const Terminal& terminal) {
  const Marks& marks = terminal.utf8 ? kBlockMarks : kPlainMarks;
  std::string text =
      fit(map.name + " " + to_string(map.state) + ": " + count_word(map.tracks, "track") + " of " +
              format_size(map.track_size) + ", " + std::to_string(map.tracks_per_cell) + " a cell",
          terminal.columns) +
      "\n";
  for (size_t begin = 0; begin < map.cells.size(); begin += terminal.columns) {
    const size_t end = std::min(begin + terminal.columns, map.cells.size());
    for (size_t i = begin; i < end;) {  // one color change a run
      const TrackLook look = look_of(map.cells[i]);
      std::string run;
      for (; i < end && look_of(map.cells[i]) == look; i++) run += marks[static_cast<size_t>(look)];
      text += paint(run, kColors[static_cast<size_t>(look)], terminal);
    }
    text += "\n";
  }
  // As many of the legend's items in a line as fit.
  std::string line;
  size_t width = 0;
  for (const std::string& item : map_legend(map, marks)) {
    const size_t columns = static_cast<size_t>(std::count_if(
        item.begin(), item.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
    if (width > 0 && width + 2 + columns > terminal.columns) {
      text += line + "\n";
      line.clear();
      width = 0;
    }
    line += (width > 0 ? "  " : "") + fit(item, terminal.columns);
    width += (width > 0 ? 2 : 0) + std::min<size_t>(columns, terminal.columns);
  }
  return line.empty() ? text : text + line + "\n";
}

}  // namespace

int draw_map(const Client& client, const Command& command, const CommonOptions& common) {
  Command ask = command;
  ask.json = true;
  Screen screen;
  std::string said;
  while (true) {
    const Terminal terminal = look_at_terminal();
    const bool draws = terminal.is_one && !common.json && command.svg.empty();
    if (draws) ask.cells = size_t{terminal.columns} * cell_rows(terminal);
    const auto begin = Clock::now();
    const auto reply = client.send(ask);
    if (!reply) return fail("map", reply.error(), common);
    auto map = parse_map(*reply);
    if (!map) return fail("map", map.error(), common);
    if (!command.svg.empty()) {
      if (const Status written = write_whole_file(command.svg, map_svg(*map, true)); !written) {
        return fail("map", written.error(), common);
      }
      if (common.json) {
        Json json = new_answer();
        json["name"] = map->name;
        put_name(&json, "svg", command.svg);
        std::fputs(dump_json(json).c_str(), stdout);
      } else if (!common.quiet) {
        std::printf("%s\n", quote_name(command.svg).c_str());
      }
      return kExitDone;
    }
    if (draws && command.watch) {
      screen.draw(drawn(*map, terminal));
    } else {
      const std::string text = common.json ? *reply : draws ? drawn(*map, terminal) : map_text(*map);
      std::fputs(text.c_str(), stdout);
      std::fflush(stdout);
    }
    const bool goes_on =
        map->state == SessionState::kPrecopy || map->state == SessionState::kCopyInProgress;
    if (!command.watch || !goes_on) {
      return command.watch && map->state == SessionState::kFailed ? kExitFailed : kExitDone;
    }
    // A map of very many tracks takes a while, and holds the copy program up.
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    std::this_thread::sleep_for(std::max(kInterval, took * 10));
  }
}

}  // namespace clonefs
