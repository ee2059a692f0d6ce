// What one side of attention sends round: its own slices and their sums, told by fields, since an empty rank's values
// hold none but still has to pass on what others have.
#pragma once

#include <vector>

#include "weft/schedule/builder.h"

namespace weft::methods {

// Rows of one rank that travel, as one slice for each of Travelling::fields.
struct Held {
  Value rows;  // {}: the own ones, which are values of their own
  std::vector<Slice> slices;
  // Of queries in backward: dout, lse and delta, which follow q.
  std::vector<Slice> bundle() const { return {slices.begin() + 1, slices.end()}; }
};

struct Travelling {
  std::vector<Fields> fields;  // of each slice, in one order on all ranks
  std::vector<Slice> own;      // all rows of this rank
  Fields sums;                 // what is summed along the way; none where nothing is
  Value home;                  // where the sums of this rank's rows end

  Fields all() const {
    Fields all;
    for (Fields some : fields) all = all | some;
    return all;
  }
  // Receives these rows of `peer`; nothing where there are none.
  Held receive(Builder& b, Exchange& x, int peer, Set rows, Set heads) const {
    Held held;
    if (rows.empty()) return held;
    held.rows = b.whole(all(), rows, heads);
    for (Fields some : fields) {
      held.slices.push_back(held.rows.only(some));
      x.receive(peer, held.slices.back());
    }
    return held;
  }
};

// Sends some rows of each slice.
inline void send_rows(Exchange& x, int peer, const std::vector<Slice>& slices, Set rows) {
  for (Slice slice : slices) {
    slice.tokens = rows.id();
    x.send(peer, slice);
  }
}

inline Travelling moving_keys(const Value& kv) { return {{Field::k | Field::v}, {kv}, {}, {}}; }
inline Travelling moving_keys(const Value& kv, const Value& dkv) {
  return {{Field::k | Field::v}, {kv}, Field::dk | Field::dv, dkv};
}
inline Travelling moving_queries(const Value& q, const Value& partial) {
  return {{Field::q}, {q}, Field::out | Field::lse, partial};
}
// Backward: `bundle` holds dout, lse and delta.
inline Travelling moving_queries(const Value& q, const std::vector<Slice>& bundle, const Value& dq) {
  return {{Field::q, Field::dout, Field::lse, Field::delta}, {q, bundle[0], bundle[1], bundle[2]}, Field::dq, dq};
}

}  // namespace weft::methods
