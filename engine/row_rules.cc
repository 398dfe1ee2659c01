#include "engine/row_rules.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <climits>

#include "engine/engine.h"
#include "engine/track_file.h"

namespace clonefs::detail {

namespace {

Error damaged(const std::string& what) { return Error{EUCLEAN, what + " in the catalog is damaged"}; }

bool is_time(const timespec& t) { return t.tv_nsec >= 0 && t.tv_nsec < 1'000'000'000; }

}  // namespace

Result<std::vector<std::string>> names_along(const std::string& path) {
  if (path.empty()) return Error{EINVAL, "a path is empty; '.' is the whole volume"};
  if (path[0] == '/') return Error{EINVAL, path + " is not relative to the volume"};
  if (path.find('\0') != std::string::npos) return Error{EINVAL, "a path has a zero byte in it"};
  if (path.size() >= PATH_MAX)
    return Error{ENAMETOOLONG, "a path of " + std::to_string(path.size()) +
                                   " bytes is too long; select a directory above it"};
  std::vector<std::string> names;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    std::string name = path.substr(begin, end - begin);
    begin = end + 1;
    if (name.empty() || name == ".") continue;
    if (name == "..") return Error{EINVAL, path + " has '..' in it; name the path without it"};
    if (names.empty() && name == ".clonefs")
      return Error{EINVAL, path + " belongs to clonefs itself and cannot be cloned"};
    names.push_back(std::move(name));
  }
  return names;
}

Status check_selection(const std::vector<ByteRange>& selection) {
  for (const auto& r : selection) {
    if (r.length == 0) return Error{EINVAL, "an extent of 0 bytes selects nothing"};
    if (r.offset > kMaxFileSize || r.length > kMaxFileSize - r.offset)
      return Error{EINVAL, "an extent ends beyond the largest file there can be"};
  }
  return {};
}

Status check_identity(const SessionRow& row) {
  if (!is_session_name(row.name))
    return Error{EUCLEAN, "the catalog of the pool is damaged: a session has the name '" + row.name +
                              "'"};
  if (row.id == 0 || row.id > INT64_MAX / 2)
    return Error{EUCLEAN, "the catalog of the pool is damaged: the session " + row.name +
                              " has an impossible number"};
  return {};
}

Result<SessionText> check_session(const SessionRow& row) {
  if (row.state < 0 || row.state > static_cast<int>(SessionState::kFailed) ||
      !TrackSize::valid(row.track_size) || row.slot == 0 || row.slot > kMaxSlot ||
      !is_time(row.created_at) || !is_time(row.activated_at))
    return damaged("its row");
  SessionText text;
  for (size_t at = 0; at < row.paths.size();) {
    const size_t zero = row.paths.find('\0', at);
    if (zero == std::string::npos) return damaged("a path of it");
    text.paths.push_back(row.paths.substr(at, zero - at));
    if (!names_along(text.paths.back())) return damaged("a path of it");
    at = zero + 1;
  }
  if (text.paths.empty()) return damaged("the list of its paths");
  const char* const last = row.selection.data() + row.selection.size();
  for (const char* p = row.selection.data(); p != last;) {
    ByteRange range;
    auto r = std::from_chars(p, last, range.offset);
    if (r.ec != std::errc() || r.ptr == last || *r.ptr != ':') return damaged("an extent of it");
    r = std::from_chars(r.ptr + 1, last, range.length);
    if (r.ec != std::errc() || r.ptr == last || *r.ptr != ',') return damaged("an extent of it");
    text.selection.push_back(range);
    p = r.ptr + 1;
  }
  if (!check_selection(text.selection)) return damaged("an extent of it");
  return text;
}

Status check_object(const ObjectRow& row) {
  const bool is_known = S_ISREG(row.type) || S_ISDIR(row.type) || S_ISLNK(row.type) ||
                        S_ISFIFO(row.type) || S_ISSOCK(row.type) || S_ISCHR(row.type) ||
                        S_ISBLK(row.type);
  if (row.id == UINT32_MAX || !is_known || row.size > kMaxFileSize || !is_time(row.atime) ||
      !is_time(row.mtime) || !is_time(row.ctime))
    return damaged("a member of it");
  if (row.column_base < 0) return {};
  if (!S_ISREG(row.type) || row.column_count > row.column_capacity ||
      row.column_capacity > kMaxTracks ||
      (row.column_capacity > 0 &&
       (row.column_base < static_cast<int64_t>(TrackFile::kHeaderSize) ||
        row.column_base > INT64_MAX / 16)))
    return damaged("a member's region");
  return {};
}

Status check_regions(std::vector<std::pair<uint64_t, uint64_t>> regions) {
  std::sort(regions.begin(), regions.end());
  for (size_t i = 1; i < regions.size(); ++i) {
    if (regions[i - 1].first + regions[i - 1].second > regions[i].first)
      return damaged("the place of a member's region");
  }
  return {};
}

}  // namespace clonefs::detail
