// The tracks of a session as a picture: how many of each part of them are in which state.
#include <algorithm>

#include "engine/core.h"

namespace clonefs::detail {

Result<TrackMap> Core::track_map(const std::string& name, size_t cells) {
  const auto s = find(name);
  if (s == nullptr) return no_clone(name);
  if (s->state.load() == SessionState::kTerminated) {
    return Error{EINVAL, name + " is terminated: it is a plain tree, without tracks."};
  }
  s->note_progress();
  TrackMap map;
  map.name = name;
  map.state = s->state.load();
  map.track_size = s->track_size.bytes();
  ::clock_gettime(CLOCK_REALTIME, &map.at);
  map.samples = s->progress.samples();

  const std::lock_guard work(s->work_mutex);
  const auto is_member = [](const Object& o) {
    return !o.gone && o.is_regular() && o.column != nullptr;
  };
  for (const auto& o : s->objects) {
    const std::lock_guard lock(s->object_lock(o));
    if (is_member(o)) map.tracks += o.column->count;
  }
  if (map.tracks == 0) return map;
  // Members may still grow while they are counted; what is more than there is room for is in the last.
  map.tracks_per_cell = (map.tracks + cells - 1) / cells;
  map.cells.resize((map.tracks + map.tracks_per_cell - 1) / map.tracks_per_cell);
  uint64_t at = 0;
  for (const auto& o : s->objects) {
    const std::lock_guard lock(s->object_lock(o));
    if (!is_member(o)) continue;
    for (uint64_t t = 0; t < o.column->count; ++t, ++at) {
      auto& cell = map.cells[std::min<uint64_t>(at / map.tracks_per_cell, map.cells.size() - 1)];
      const TrackBits bits = o.column->at(t);
      if (is_pending(bits)) {
        ++((bits & kRewritten) != 0 ? cell.rewritten : cell.waiting);
      } else if (is_precopied(bits)) {
        ++cell.precopied;
      } else if (in_extent(bits)) {
        ++cell.drained;
      } else {
        ++cell.outside;
      }
    }
  }
  return map;
}

}  // namespace clonefs::detail
