// The one exception class of weft, and checks of its own invariants.
//
// Every message has the form "what was given; what is allowed; what to do" on one line. The core never prints
// and never aborts: it returns or throws weft::Error, and the program that calls it decides.
//
//   throw Error(ErrorCode::unsupported, "ulysses: 8 ranks share 6 heads unevenly; use --option uneven=true");
//   WEFT_CHECK(sent == received);   // a bug in weft if it fails
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

namespace weft {

enum class ErrorCode {
  usage,        // a value the caller gave is not allowed
  unsupported,  // a combination that is well formed but that weft (or this method) refuses
  format,       // a file or document is malformed
  io,           // the system could not read or write
  wrong,        // something that was checked is wrong: a schedule, a result
  stopped,      // another rank failed, or the user interrupted
  internal,     // a bug in weft
};

// Thrown for every failure. `what()` is one line without a trailing full stop or line break.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Whether it only says that something else failed: an Error(stopped).
bool is_stopped(const std::exception_ptr& error) noexcept;

namespace internal {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}  // namespace internal

}  // namespace weft

// A broken invariant of weft itself. Stays on in release builds: never put it in an inner loop.
#define WEFT_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::weft::internal::check_failed(#condition, __FILE__, __LINE__))
