#include "engine/moment.h"

#include <ctime>

namespace clonefs {

std::string format_moment(int64_t seconds) {
  tm broken{};
  const time_t time = seconds;
  ::gmtime_r(&time, &broken);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &broken);
  return text;
}

}  // namespace clonefs
