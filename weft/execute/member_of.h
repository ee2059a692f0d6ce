// Structs with a member for each field of some set, all of one type: which member is which field's, told once for all of them.
#pragma once

#include "weft/schedule/problem.h"

namespace weft {

// The member that is called as the field; null if `tensors` has none.
template <typename Tensors>
auto member_of(Tensors& tensors, Field field) -> decltype(&tensors.out) {
  switch (field) {
#define WEFT_MEMBER(name)                                           \
  case Field::name:                                                 \
    if constexpr (requires { tensors.name; }) return &tensors.name; \
    break
    WEFT_MEMBER(q);
    WEFT_MEMBER(k);
    WEFT_MEMBER(v);
    WEFT_MEMBER(out);
    WEFT_MEMBER(lse);
    WEFT_MEMBER(dout);
    WEFT_MEMBER(dq);
    WEFT_MEMBER(dk);
    WEFT_MEMBER(dv);
    WEFT_MEMBER(g);
    WEFT_MEMBER(beta);
    WEFT_MEMBER(a);
    WEFT_MEMBER(b);
    WEFT_MEMBER(u);
    WEFT_MEMBER(dg);
    WEFT_MEMBER(dbeta);
    WEFT_MEMBER(da);
    WEFT_MEMBER(db);
    WEFT_MEMBER(du);
    WEFT_MEMBER(initial_state);
    WEFT_MEMBER(final_state);
    WEFT_MEMBER(dinitial_state);
    WEFT_MEMBER(dfinal_state);
#undef WEFT_MEMBER
    default: break;
  }
  return nullptr;
}

}  // namespace weft
