#include "engine/track_file.h"

#include <fcntl.h>

#include <cstring>

namespace clonefs::detail {

namespace {
constexpr char kFresh[] = "clonefs tracks\n.";
}

int TrackFile::clear() {
  static_assert(sizeof kFresh == kHeaderSize + 1);
  if (const int e = disk_->truncate(fd_.get(), 0); e < 0) return e;
  end_ = kHeaderSize;
  return disk_->pwrite_full(fd_.get(), kFresh, kHeaderSize, 0);
}

bool TrackFile::is_header(const char* header, bool* failed) {
  *failed = header[kMagicSize] != '.';
  return std::memcmp(header, kFresh, kMagicSize) == 0;
}

Result<TrackFile> TrackFile::open(Disk& disk, int dir, const std::string& name) {
  TrackFile file;
  file.disk_ = &disk;
  file.fd_ = Fd(disk, disk.open(dir, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (!file.fd_) return Error::from_errno(file.fd_.get(), "cannot open the track table " + name);
  struct stat st{};
  if (const int e = disk.stat(file.fd_.get(), "", &st); e < 0)
    return Error::from_errno(e, "cannot read the track table " + name);
  if (st.st_size == 0) {
    if (const int e = file.clear(); e < 0)
      return Error::from_errno(e, "cannot write the track table " + name);
    return file;
  }
  char header[kHeaderSize] = {};
  if (const ssize_t n = disk.pread_full(file.fd_.get(), header, kHeaderSize, 0); n < 0)
    return Error::from_errno(static_cast<int>(n), "cannot read the track table " + name);
  if (!is_header(header, &file.failed_))
    return Error{EUCLEAN, "the track table " + name + " is damaged: it has no header"};
  file.end_ = static_cast<uint64_t>(st.st_size);
  return file;
}

}  // namespace clonefs::detail
