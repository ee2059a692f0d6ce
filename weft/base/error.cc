#include "weft/base/error.h"

namespace weft::internal {

void check_failed(const char* condition, const char* file, int line) {
  throw Error(ErrorCode::internal, std::string("internal error: ") + condition + " is false at " + file + ":" +
                                       std::to_string(line) + "; please report it with the command that led here");
}

}  // namespace weft::internal
