// The page of `clonefs report`: one HTML file that needs nothing else, in light and dark, on narrow and
// wide screens and on paper. Names in it cannot be anything but text. Thread safety: no state.
#pragma once

#include <string>

#include "fs/track_picture.h"

namespace clonefs {

// STATUS: the answer to status --json of the one session that MAP is of.
std::string report_page(const Json& status, const TrackMap& map);

}  // namespace clonefs
