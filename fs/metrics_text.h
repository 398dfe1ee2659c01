// `.clonefs/metrics`: what can be measured of a volume, in the text format of Prometheus. Base units
// (seconds, bytes); each sample names its volume, so that files of several volumes go together.
// Label values: bytes that are no UTF-8 are replaced by U+FFFD. Names and labels stay as they are;
// new ones may come. Thread safety: no state.
#pragma once

#include <string>
#include <vector>

#include "fs/status_text.h"

namespace clonefs {

std::string metrics_text(const VolumeInfo& info, const std::vector<SessionStatus>& sessions);
// Whether the daemon of VOLUME answers: what it can't say itself.
std::string up_text(const std::string& volume, bool up);

}  // namespace clonefs
