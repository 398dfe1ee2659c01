#include "tools/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "fs/unique_fd.h"
#include "fs/words.h"

namespace clonefs {

Error cannot_write(const std::string& path, int code) {
  return {code, quote_name(path) + " cannot be written: " + std::strerror(code) +
                    ". Name a file in a directory that is there and yours"};
}

Status write_whole_file(const std::string& path, const std::string& text) {
  // A device or a pipe is written to as it is.
  struct stat st {};
  const bool in_place = ::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode);
  const std::string temporary = in_place ? path : path + ".new." + std::to_string(::getpid());
  UniqueFd fd(::open(temporary.c_str(),
                     in_place ? O_WRONLY | O_CLOEXEC : O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  int e = fd ? 0 : errno;
  for (size_t done = 0; e == 0 && done < text.size();) {
    const ssize_t n = ::write(fd.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR) e = errno;
    if (n > 0) done += static_cast<size_t>(n);
  }
  if (e == 0 && ::close(fd.release()) != 0) e = errno;
  if (e == 0 && !in_place && ::rename(temporary.c_str(), path.c_str()) != 0) e = errno;
  if (e == 0) return {};
  if (!in_place) ::unlink(temporary.c_str());
  return cannot_write(path, e);
}

}  // namespace clonefs
