// What a caller gives and gets, by field.
#include "weft/execute/executor.h"

#include "weft/base/error.h"
#include "weft/execute/member_of.h"

namespace weft {

const ConstTensor* Inputs::of(Field field) const { return member_of(*this, field); }
ConstTensor* Inputs::of(Field field) { return member_of(*this, field); }

void** Destinations::place_of(Field field) { return member_of(*this, field); }

void* Destinations::of(Field field) const {
  void* const* place = member_of(*this, field);
  return place ? *place : nullptr;
}

Result& Results::of(Field field) {
  if (Result* member = member_of(*this, field)) return *member;
  throw Error(ErrorCode::internal, std::string(name_of(field)) + " is no result");
}

}  // namespace weft
