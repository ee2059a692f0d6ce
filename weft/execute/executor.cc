// What a caller gives and gets, by field.
#include "weft/execute/executor.h"

#include "weft/base/error.h"

namespace weft {

const ConstTensor* Inputs::of(Field field) const {
  switch (field) {
    case Field::q: return &q;
    case Field::k: return &k;
    case Field::v: return &v;
    case Field::out: return &out;
    case Field::lse: return &lse;
    case Field::dout: return &dout;
    case Field::g: return &g;
    case Field::beta: return &beta;
    case Field::a: return &a;
    case Field::b: return &b;
    case Field::initial_state: return &initial_state;
    case Field::dfinal_state: return &dfinal_state;
    case Field::u: return &u;
    default: return nullptr;
  }
}

void** Destinations::place_of(Field field) {
  switch (field) {
    case Field::out: return &out;
    case Field::lse: return &lse;
    case Field::dq: return &dq;
    case Field::dk: return &dk;
    case Field::dv: return &dv;
    case Field::dg: return &dg;
    case Field::dbeta: return &dbeta;
    case Field::da: return &da;
    case Field::db: return &db;
    case Field::final_state: return &final_state;
    case Field::dinitial_state: return &dinitial_state;
    case Field::du: return &du;
    default: return nullptr;
  }
}

void* Destinations::of(Field field) const {
  void** place = const_cast<Destinations*>(this)->place_of(field);
  return place == nullptr ? nullptr : *place;
}

Result& Results::of(Field field) {
  switch (field) {
    case Field::out: return out;
    case Field::lse: return lse;
    case Field::dq: return dq;
    case Field::dk: return dk;
    case Field::dv: return dv;
    case Field::dg: return dg;
    case Field::dbeta: return dbeta;
    case Field::da: return da;
    case Field::db: return db;
    case Field::final_state: return final_state;
    case Field::dinitial_state: return dinitial_state;
    case Field::du: return du;
    default: throw Error(ErrorCode::internal, std::string(name_of(field)) + " is no result");
  }
}

}  // namespace weft
