// What the backward phase of every method that computes where its tokens live starts from.
#pragma once

#include <vector>

#include "weft/schedule/builder.h"

namespace weft::methods {

// Begins the phase with what the caller gives again: q, k, v, out, lse, and dout.
struct BackwardInputs {
  explicit BackwardInputs(Builder& b) : b_(&b) {
    b.begin_backward();
    q = b.input(Field::q), kv = b.input(Field::k | Field::v);
    out = b.input(Field::out | Field::lse), dout = b.input(Field::dout);
  }
  // Makes delta, and dq of zeros. Apart from the inputs, so that what is fetched can be on its way before.
  void prepare() {
    delta = b_->prepare_backward(out.only(Field::out), dout);
    dq = b_->sums(Field::dq, q.tokens(), q.heads());
  }
  // dk, dv of zeros for the own keys.
  Value key_sums() const { return b_->sums(Field::dk | Field::dv, kv.tokens(), kv.heads()); }
  // dout, lse and delta of the own queries, once prepared.
  std::vector<Slice> bundle() const { return {dout, out.only(Field::lse), delta}; }

  Value q, kv, out, dout, delta, dq;

 private:
  Builder* b_;
};

}  // namespace weft::methods
