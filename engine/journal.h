// The COFW journal: tracks that were saved before they were overwritten on the source, durable
// after one fdatasync for all writers that wait (group commit). FORMAT.md has the records.
//
// Two files take turns. A checkpoint makes the clone side and the bits durable; what the journal
// held before it is then not needed any more, and its file is free for the next turn.
//
// Thread safety: append() and zero_ahead() from any thread; rotate() and release() from one at a time.
// Durability: what append() returned 0 for survives a power cut.
// Group commit after the description in Gray & Reuter, Transaction Processing, 9.4.7.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/disk.h"
#include "extents/geometry.h"
#include "extents/result.h"

namespace clonefs::detail {

struct JournalRecord {
  uint64_t session = 0;
  uint32_t object = 0;
  ByteRange range;             // in the member
  const char* data = nullptr;  // range.length bytes
};

class Journal {
 public:
  static constexpr uint64_t kDefaultLimit = 128 << 20;  // bytes of one file
  static constexpr uint64_t kMaxRecord = 16 << 20;

  // Opens or makes the two files in DIR. CALL_FOR_CHECKPOINT is called, without locks, when the
  // file in use fills up.
  static Result<std::unique_ptr<Journal>> open(Disk& disk, int dir, uint64_t limit,
                                               std::function<void()> call_for_checkpoint);

  // Waits until the records are durable: 0 or -errno. Waits for room when both files are full;
  // -ENOSPC after PATIENCE without (0: no end).
  int append(const std::vector<JournalRecord>& records, std::chrono::milliseconds patience);

  // Writes zeros to a piece of what the files lack of BYTES each, at most their limit, and waits for the disk:
  // a commit where something was written before lets the pool's file system commit nothing, so that it waits
  // for nobody else's data. False: there is no more to do, or an error (who appends will be told).
  bool zero_ahead(uint64_t bytes);

  // New records go to the other file from now on. False: that one is still needed.
  bool rotate();
  // What was appended before the last rotate() is not needed any more.
  void release();

  // Calls FN for each whole record, oldest first, until a torn or foreign one in each file. FN may
  // see records that a checkpoint has made obsolete.
  Status replay(const std::function<Status(const JournalRecord&)>& fn);
  // Empties both files.
  Status reset();

  // Of a file that no daemon uses: what is wrong with it, "": nothing (its end may be torn). CERTAIN: no
  // power cut leaves that behind. Changes nothing.
  struct Check {
    std::string error;
    bool certain = false;
  };
  static Check check(Disk& disk, int fd, uint64_t size);
  // What is certainly wrong with what open() found, "": nothing. Before anything is appended. (Damage in
  // the last commit looks like the end that a power cut tore.)
  std::string damage() const;

  struct Statistics {
    uint64_t records = 0;
    uint64_t commits = 0;
    uint64_t bytes = 0;
  };
  Statistics statistics() const;

 private:
  struct File {
    Fd fd;
    Fd for_zeros;  // an error of writing back is told once to each open file: records have their own
    uint64_t generation = 0;
    uint64_t end = 0;  // next byte to write
    bool needed = false;
    uint64_t written = 0;              // up to here it was written once
    uint64_t zeroing = UINT64_MAX;     // from here on zeros are being written: no record
    bool missed = false;  // was not there
  };
  Journal(Disk& disk, uint64_t limit, std::function<void()> call)
      : disk_(disk), limit_(limit), call_for_checkpoint_(std::move(call)) {}
  int start(File& file);
  Status replay_file(File& file, const std::function<Status(const JournalRecord&)>& fn);

  Disk& disk_;
  const uint64_t limit_;
  const std::function<void()> call_for_checkpoint_;

  std::mutex zeroing_mutex_;  // before mutex_
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::array<File, 2> files_;
  unsigned current_ = 0;
  uint64_t generation_ = 1;
  std::vector<char> waiting_;        // records that no commit has taken yet
  uint64_t waiting_ticket_ = 0;      // of the last record in waiting_
  uint64_t committed_ticket_ = 0;
  uint64_t failed_first_ = 1;  // records of the last commit that failed: from here ...
  uint64_t failed_last_ = 0;   // ... to here
  int failure_ = 0;            // ... with this
  bool committing_ = false;
  Statistics statistics_;
};

}  // namespace clonefs::detail
