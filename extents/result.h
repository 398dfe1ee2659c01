// Result<T>: a value or an Error. Errors carry an errno and a sentence for the user that says what
// was refused, why, and what to do. Thread safety: as a plain value.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

namespace clonefs {

struct Error {
  int code = EIO;       // an errno, positive
  std::string message;  // complete, without the program's name

  // "WHAT: text of CODE"; CODE may be negative (-errno as the Disk interface returns it).
  static Error from_errno(int code, const std::string& what) {
    const int e = code < 0 ? -code : code;
    return {e, what + ": " + std::strerror(e)};
  }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() { return std::get<0>(state_); }
  const T& operator*() const { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return state_.index() == 0; }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<std::monostate, Error> state_;
};

using Status = Result<void>;

}  // namespace clonefs
