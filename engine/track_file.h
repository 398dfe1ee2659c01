// TrackFile: the track table of one session on disk (pool/tracks/ID, see FORMAT.md): one byte of
// TrackBits a track, after a header. Each member has a region; a member that outgrows its region
// gets a new one. The header has a byte that says Failed: unlike a row of the catalog it can be
// written when the pool is full.
// Thread safety: regions are independent; allot() may run in parallel with the rest.
// Durability: what write() returned for survives a killed daemon.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "engine/disk.h"
#include "extents/result.h"
#include "extents/track_bits.h"

namespace clonefs::detail {

class TrackFile {
 public:
  static constexpr uint64_t kMagicSize = 15;
  static constexpr uint64_t kHeaderSize = 16;  // magic, one byte: '.' or 'F'

  // Opens or creates NAME in DIR.
  static Result<TrackFile> open(Disk& disk, int dir, const std::string& name);
  // Whether these kHeaderSize bytes begin a track table; FAILED: it says so.
  static bool is_header(const char* header, bool* failed);

  TrackFile() = default;
  TrackFile(TrackFile&& o) noexcept
      : disk_(o.disk_), fd_(std::move(o.fd_)), failed_(o.failed_), end_(o.end_.load()) {}
  TrackFile& operator=(TrackFile&& o) noexcept {
    disk_ = o.disk_;
    fd_ = std::move(o.fd_);
    failed_ = o.failed_;
    end_ = o.end_.load();
    return *this;
  }

  explicit operator bool() const { return disk_ != nullptr; }  // is open

  // 0 or -errno. After a restart failed() is true.
  int set_failed() {
    const char byte = 'F';
    if (disk_ == nullptr) return -EBADF;
    return disk_->pwrite_full(fd_.get(), &byte, 1, kMagicSize);
  }
  // What was written so far survives a power cut.
  int datasync() { return disk_->datasync(fd_.get()); }
  // Empties it, but for the header. 0 or -errno.
  int clear();
  bool failed() const { return failed_; }

  // A new region of COUNT tracks at the end; its content is what is written to it.
  uint64_t allot(uint64_t count) { return end_.fetch_add(count); }
  // 0 or -errno.
  int write(uint64_t at, const TrackBits* bits, uint64_t count) {
    return disk_->pwrite_full(fd_.get(), bits, count, at);
  }
  // 0 or -errno; -ENODATA when the file is too short.
  int read(uint64_t at, TrackBits* bits, uint64_t count) const {
    const ssize_t n = disk_->pread_full(fd_.get(), bits, count, at);
    if (n < 0) return static_cast<int>(n);
    return static_cast<uint64_t>(n) == count ? 0 : -ENODATA;
  }
  uint64_t end() const { return end_; }
  // New regions begin at END or later.
  void raise_end(uint64_t end) { end_ = std::max(end_.load(), end); }

 private:
  Disk* disk_ = nullptr;
  Fd fd_;
  bool failed_ = false;
  std::atomic<uint64_t> end_{0};
};

}  // namespace clonefs::detail
