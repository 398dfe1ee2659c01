// Runs a fuzzer's function over kept cases, with any compiler: files, or folders of them.
#include <sys/resource.h>

#include <boost/filesystem.hpp>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace bfs = boost::filesystem;

bool run(const bfs::path& file) {
  std::ifstream in(file.string(), std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(in), {}};
  if (in.bad() || !in.is_open()) {
    std::fprintf(stderr, "cannot read %s\n", file.c_str());
    return false;
  }
  std::fprintf(stderr, "%s\n", file.filename().c_str());  // the last one before a crash is its case
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(data.data()), data.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory{1 << 30, 1 << 30};  // no case needs as much, whatever it claims
  if (setrlimit(RLIMIT_AS, &memory) != 0) return 1;
#endif
  unsigned count = 0;
  for (int i = 1; i < argc; ++i) {
    std::vector<bfs::path> files{argv[i]};
    if (bfs::is_directory(argv[i]))
      files.assign(bfs::directory_iterator(argv[i]), bfs::directory_iterator());
    for (const bfs::path& file : files) {
      if (!run(file)) return 1;
      ++count;
    }
  }
  std::printf("%u cases\n", count);
  return count == 0 ? 1 : 0;
}
