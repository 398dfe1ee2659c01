// The journal's files as engine/FORMAT.md has them, with right sums: what a fuzzer can't guess.
// Written apart from engine/journal.cc, so that the two hold each other to the description.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace clonefs::test {

class JournalFile {
 public:
  void header(uint32_t version, uint64_t generation) {
    generation_ = generation;
    std::string head("clonefs journal", 16);
    put(head, version);
    put(head, uint32_t{0});
    put(head, generation);
    put(head, sum(head));
    head.resize(4096);
    bytes_ = head;
  }
  // LENGTH as the header says it, whatever the data is.
  void record(uint64_t session, uint32_t object, uint64_t offset, uint64_t length,
              std::string_view data) {
    std::string head;
    put(head, uint32_t{0x4b525443});  // CTRK
    put(head, object);
    put(head, generation_);
    put(head, uint64_t{bytes_.size()});
    put(head, uint64_t{bytes_.size()});  // a commit of its own
    put(head, session);
    put(head, offset);
    put(head, length);
    put(head, sum(data));
    put(head, sum(head));
    bytes_ += head;
    bytes_ += data;
    bytes_.resize((bytes_.size() + 7) / 8 * 8);
  }
  void raw(std::string_view bytes) { bytes_ += bytes; }
  const std::string& bytes() const { return bytes_; }

 private:
  template <class T>
  static void put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static uint64_t sum(std::string_view of) { return XXH3_64bits(of.data(), of.size()); }

  uint64_t generation_ = 0;
  std::string bytes_;
};

}  // namespace clonefs::test
