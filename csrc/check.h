#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace memcore {

// The exception classes of memcore/errors.py that native code can raise.
enum class ErrorKind { kShape, kDtype, kInput, kNotFound, kBackend };

// An error whose text is one sentence: "op: argument is X, should be Y".
class Error : public std::runtime_error {
 public:
  Error(ErrorKind error_kind, const std::string& message)
      : std::runtime_error(message), kind(error_kind) {}
  ErrorKind kind;
};

template <typename... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw Error(kind, sentence.str());
}

}  // namespace memcore

// MEMCORE_CHECK(ok, kShape, "add: vectors has dim ", a, ", should be ", b)
#define MEMCORE_CHECK(condition, kind, ...)                     \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      ::memcore::fail(::memcore::ErrorKind::kind, __VA_ARGS__); \
  } while (false)
