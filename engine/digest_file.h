// DigestFile: the digests of one session's tracks on disk (pool/tracks/ID.digests, see FORMAT.md), for
// `verify`: 8 bytes a track, at 8 * (the track's place in the track table). Nothing of it is kept in
// memory. A place that was never written reads as 0, the digest of a track without data.
// Thread safety: all members may run in parallel, but for open, clear and the move.
// Durability: what write() returned for survives a killed daemon; after datasync() a power cut.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "engine/disk.h"
#include "extents/result.h"

namespace clonefs::detail {

// XXH3-64 of the bytes up to the last one that is not zero; 0 when there is none. So it does not
// depend on where the member ends, and holes need no digest.
uint64_t digest_of(const char* data, size_t size);

class DigestFile {
 public:
  // Opens NAME in DIR; MAKE: where there is none. EUCLEAN: it is no such file.
  static Result<DigestFile> open(Disk& disk, int dir, const std::string& name, bool make);
  static Result<DigestFile> read_only(Disk& disk, int dir, const std::string& name);

  DigestFile() = default;  // not open: writes go nowhere
  explicit operator bool() const { return static_cast<bool>(fd_); }

  // AT: place in the track table. 0 or -errno.
  int write(uint64_t at, const uint64_t* digests, uint64_t count);
  int read(uint64_t at, uint64_t* digests, uint64_t count) const;
  // Makes them 0. 0 or -errno.
  int forget(uint64_t at, uint64_t count);
  // What was written so far survives a power cut. 0 or -errno.
  int datasync();
  // Forgets what is at END and behind. 0 or -errno.
  int cut(uint64_t end);
  // Empties it, but for the header. 0 or -errno.
  int clear();

  static constexpr char kMagic[] = "clonefs digests\n";
  static constexpr uint64_t kHeaderSize = sizeof kMagic - 1;

 private:
  static Result<DigestFile> open(Disk& disk, int dir, const std::string& name, int flags);

  struct Unsynced {
    std::mutex mutex;  // held while a sync is under way: who comes later may rely on it
    std::atomic<bool> any{true};
  };

  Disk* disk_ = nullptr;
  Fd fd_;
  std::unique_ptr<Unsynced> unsynced_;
};

}  // namespace clonefs::detail
