#include "weft/base/error.h"

namespace weft {

bool is_stopped(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const Error& thrown) {
    return thrown.code() == ErrorCode::stopped;
  } catch (...) {
    return false;
  }
}

void internal::check_failed(const char* condition, const char* file, int line) {
  throw Error(ErrorCode::internal, std::string("internal error: ") + condition + " is false at " + file + ":" +
                                       std::to_string(line) + "; please report it with the command that led here");
}

}  // namespace weft
