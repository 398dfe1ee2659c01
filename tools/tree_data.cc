#include "tools/tree_data.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace clonefs {

namespace {

constexpr uint64_t kPiece = 64 << 10;
constexpr uint64_t kChunk = 1 << 20;

Error failed(const char* what) { return Error::from_errno(errno, what); }

// Bytes read, fewer only at the end of the file; -1 and errno.
ssize_t read_full(int fd, char* data, uint64_t size, uint64_t offset) {
  uint64_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(fd, data + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<uint64_t>(n);
  }
  return static_cast<ssize_t>(done);
}

// What the kernel still holds of FD goes to its file system, as a close(2) sends it: only then a FUSE or
// NFS mount says that there is no room for it.
bool flush(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy >= 0 && ::close(copy) == 0) return true;
  const int code = errno;
  // The cache shows what it could not write, as if it were there: who compares again must see what is.
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  errno = code;
  return false;
}

bool write_full(int fd, const char* data, uint64_t size, uint64_t offset) {
  for (uint64_t done = 0; done < size;) {
    const ssize_t n = ::pwrite(fd, data + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<uint64_t>(n);
  }
  return true;
}

// The next data of FD at or after OFFSET and before END, as a range; empty: none.
ByteRange next_data(int fd, uint64_t offset, uint64_t end) {
  const off_t begin = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return {end, 0};
  if (begin < 0) return {offset, end - offset};  // it doesn't know
  if (static_cast<uint64_t>(begin) >= end) return {end, 0};
  const off_t stop = ::lseek(fd, begin, SEEK_HOLE);
  const uint64_t last = stop < 0 ? end : std::min(end, static_cast<uint64_t>(stop));
  return {static_cast<uint64_t>(begin), last - static_cast<uint64_t>(begin)};
}

class Comparison {
 public:
  Comparison(int then, int now, HowMuch how_much)
      : then_(then), now_(now), how_much_(how_much), a_(kChunk), b_(kChunk) {}

  Status compare(ByteRange range) {
    for (uint64_t at = range.offset; at < range.end() && !enough();) {
      const ByteRange data = next_data(then_, at, range.end());
      if (const Status s = compare_hole({at, data.offset - at}); !s) return s;
      if (const Status s = compare_data(data); !s) return s;
      at = data.end();
    }
    return {};
  }
  std::vector<DataRange> take() { return std::move(found_); }

 private:
  bool enough() const { return how_much_ == HowMuch::kFirst && !found_.empty(); }

  void add(ByteRange range, bool hole) {
    if (!found_.empty() && found_.back().hole == hole && found_.back().range.end() == range.offset) {
      found_.back().range.length += range.length;
    } else {
      found_.push_back({range, hole});
    }
  }

  Status compare_data(ByteRange range) {
    if (now_ < 0 && !range.empty()) add(range, false);
    if (now_ < 0) return {};
    for (uint64_t at = range.offset; at < range.end() && !enough();) {
      const uint64_t size = std::min(range.end(), at / kChunk * kChunk + kChunk) - at;
      const ssize_t n = read_full(then_, a_.data(), size, at);
      if (n < 0) return failed("the clone cannot be read");
      std::memset(a_.data() + n, 0, size - static_cast<uint64_t>(n));
      const ssize_t m = read_full(now_, b_.data(), size, at);
      if (m < 0) return failed("it cannot be read");
      pieces(at, size, [&](uint64_t begin, uint64_t length) {
        const bool there = begin + length <= static_cast<uint64_t>(m);
        if (!there || std::memcmp(a_.data() + begin, b_.data() + begin, length) != 0) {
          add({at + begin, length}, false);
        }
      });
      at += size;
    }
    return {};
  }

  // Nothing in THEN: what is not zero in NOW differs.
  Status compare_hole(ByteRange range) {
    if (now_ < 0) return {};
    for (uint64_t at = range.offset; at < range.end() && !enough();) {
      const ByteRange data = next_data(now_, at, range.end());
      for (at = data.offset; at < data.end() && !enough();) {
        const uint64_t size = std::min(data.end(), at / kChunk * kChunk + kChunk) - at;
        const ssize_t m = read_full(now_, b_.data(), size, at);
        if (m < 0) return failed("it cannot be read");
        pieces(at, static_cast<uint64_t>(m), [&](uint64_t begin, uint64_t length) {
          const char* piece = b_.data() + begin;
          if (*piece != 0 || std::memcmp(piece, piece + 1, length - 1) != 0) {
            add({at + begin, length}, true);
          }
        });
        at += size;
      }
    }
    return {};
  }

  // SIZE bytes at OFFSET of the file, cut at its pieces.
  template <class Each>
  void pieces(uint64_t offset, uint64_t size, Each each) {
    for (uint64_t begin = 0; begin < size;) {
      const uint64_t stop = std::min(size, (offset + begin) / kPiece * kPiece + kPiece - offset);
      each(begin, stop - begin);
      begin = stop;
    }
  }

  const int then_;
  const int now_;
  const HowMuch how_much_;
  std::vector<char> a_;
  std::vector<char> b_;
  std::vector<DataRange> found_;
};

}  // namespace

Result<std::vector<DataRange>> differing_ranges(int then, int now, uint64_t size,
                                                const std::vector<ByteRange>& within,
                                                HowMuch how_much) {
  Comparison comparison(then, now, how_much);
  const std::vector<ByteRange> whole{{0, size}};
  for (const ByteRange& range : within.empty() ? whole : within) {
    if (range.offset >= size) continue;
    const ByteRange part{range.offset, std::min(range.end(), size) - range.offset};
    if (const Status status = comparison.compare(part); !status) return status.error();
  }
  return comparison.take();
}

Result<uint64_t> bring_over(int then, int now, const std::vector<DataRange>& ranges) {
  std::vector<char> buffer(kChunk);
  uint64_t written = 0;
  for (const DataRange& part : ranges) {
    if (part.hole && ::fallocate(now, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 static_cast<off_t>(part.range.offset),
                                 static_cast<off_t>(part.range.length)) == 0) {
      continue;
    }
    for (uint64_t at = part.range.offset; at < part.range.end();) {
      const uint64_t size = std::min(part.range.end() - at, kChunk);
      ssize_t n = static_cast<ssize_t>(size);
      if (part.hole) {
        std::memset(buffer.data(), 0, size);
      } else if ((n = read_full(then, buffer.data(), size, at)) < 0) {
        return failed("the clone cannot be read");
      }
      if (n == 0) break;
      if (!write_full(now, buffer.data(), static_cast<uint64_t>(n), at)) {
        const Error error = failed("it cannot be written");
        flush(now);  // what was taken before
        return error;
      }
      written += static_cast<uint64_t>(n);
      at += static_cast<uint64_t>(n);
    }
  }
  if (!flush(now)) return failed("it cannot be written");
  return written;
}

}  // namespace clonefs
