// The cases that make, find and change names and attributes of many small files.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tools/bench_case.h"
#include "tools/bench_result.h"

namespace clonefs::bench {

namespace {

std::vector<std::string> list(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) impossible("opendir " + path);
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  return names;
}

// Files of the tree `many`: "many/0/0", ...
std::vector<std::string> many(const Case& c) {
  std::vector<std::string> files;
  for (const auto& dir : list(c.path("many"))) {
    for (const auto& file : list(c.path("many/" + dir)))
      files.push_back("many/" + dir + "/" + file);
  }
  std::shuffle(files.begin(), files.end(), std::mt19937_64(7));
  return files;
}

// All names and attributes out of the kernel's caches.
void drop_names(const Case& c) {
  c.settle();
  const UniqueFd drop(::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC));
  if (!drop || ::write(drop.get(), "2", 1) != 1)
    throw Impossible{"dropping the kernel's cache of names needs root"};
}

void stat_files(Case& c, bool cold) {
  const auto files = many(c);
  struct stat st {};
  if (cold) {
    drop_names(c);
  } else {
    for (const auto& file : files) ::stat(c.path(file).c_str(), &st);
  }
  c.measure(c.name(), cold ? files.size() : kUntilTheTimeIsOver, 0, [&](uint64_t n) {
    if (::stat(c.path(files[n % files.size()]).c_str(), &st) != 0) impossible("stat");
  });
}

void open_files(Case& c) {
  const auto files = many(c);
  const Buffer buffer = make_buffer(kPage);
  const auto once = [&](uint64_t n) {
    const UniqueFd fd = c.open(files[n % files.size()], O_RDONLY);
    if (::read(fd.get(), buffer.get(), kPage) < 0) impossible("read");
  };
  for (uint64_t n = 0; n < files.size(); ++n) once(n);
  c.measure(c.name(), kUntilTheTimeIsOver, 0, once);
}

void read_directories(Case& c, bool cold) {
  const auto dirs = list(c.path("many"));
  uint64_t entries = 0;
  const auto once = [&](uint64_t n) {
    entries += list(c.path("many/" + dirs[n % dirs.size()])).size();
  };
  if (cold) {
    drop_names(c);
  } else {
    for (uint64_t n = 0; n < dirs.size(); ++n) once(n);
  }
  c.measure(c.name(), cold ? dirs.size() : kUntilTheTimeIsOver, 0, once);
}

// create, rename, unlink, mkdir: one row each.
void change_names(Case& c) {
  const std::string top = c.path("made");
  if (::mkdir(top.c_str(), 0755) != 0) impossible("mkdir made");
  const Buffer buffer = make_buffer(kPage);
  const auto name = [&](const char* prefix, uint64_t n) {
    return "made/" + std::string(prefix) + std::to_string(n);
  };
  c.settle();
  c.measure("create", c.options().files, 0, [&](uint64_t n) {
    const UniqueFd fd = c.open(name("f", n), O_CREAT | O_EXCL | O_WRONLY);
    if (::write(fd.get(), buffer.get(), 1024) != 1024) impossible("write");
  });
  const uint64_t made = c.done();
  c.settle();
  c.measure("rename", made, 0, [&](uint64_t n) {
    if (::rename(c.path(name("f", n)).c_str(), c.path(name("g", n)).c_str()) != 0)
      impossible("rename");
  });
  const uint64_t renamed = c.done();
  c.settle();
  c.measure("unlink", renamed, 0, [&](uint64_t n) {
    if (::unlink(c.path(name("g", n)).c_str()) != 0) impossible("unlink");
  });
  for (uint64_t n = c.done(); n < renamed; ++n) ::unlink(c.path(name("g", n)).c_str());
  for (uint64_t n = renamed; n < made; ++n) ::unlink(c.path(name("f", n)).c_str());
  c.settle();
  c.measure("mkdir", c.options().files, 0, [&](uint64_t n) {
    if (::mkdir(c.path(name("d", n)).c_str(), 0755) != 0) impossible("mkdir");
  });
  for (uint64_t n = 0; n < c.done(); ++n) ::rmdir(c.path(name("d", n)).c_str());
  if (::rmdir(top.c_str()) != 0) impossible("rmdir made");
  c.settle();
}

}  // namespace

const std::vector<NamedCase>& name_cases() {
  static const std::vector<NamedCase> all = {
      {"names", change_names},
      {"stat hot", [](Case& c) { stat_files(c, false); }},
      {"stat cold", [](Case& c) { stat_files(c, true); }},
      {"open+read+close", open_files},
      {"readdir", [](Case& c) { read_directories(c, false); }},
      {"readdir cold", [](Case& c) { read_directories(c, true); }},
  };
  return all;
}

}  // namespace clonefs::bench
