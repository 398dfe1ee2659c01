// Input: the bytes of a fuzzer's case, taken as numbers and strings from the front. At the end all
// numbers are 0 and all strings empty: each case, however short, is a whole one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace clonefs::test {

class Input {
 public:
  Input(const uint8_t* data, size_t size)
      : left_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return left_.empty(); }
  uint8_t byte() { return number<uint8_t>(); }
  template <class T>
  T number() {
    T value{};
    const std::string_view bytes = take(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  // One of 0 .. N - 1; N may be 0.
  size_t below(size_t n) { return n == 0 ? 0 : number<uint16_t>() % n; }
  // As long as the byte before it says.
  std::string string() { return std::string(take(byte())); }
  std::string rest() { return std::string(take(left_.size())); }

 private:
  std::string_view take(size_t size) {
    const std::string_view taken = left_.substr(0, size);
    left_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view left_;
};

}  // namespace clonefs::test
