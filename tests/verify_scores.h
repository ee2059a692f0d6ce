// Programs by whole rows of scores, written by hand: right ones, and such with a step done differently.
//
//   refused(two(Instead::weigh, [](Rows& r) { r.b.weigh(r.probs, r.v, r.out); }), {"coverage", 0, Op::finish, 0, ...});
#pragma once

#include "tests/verify_script.h"

namespace weft {

// Both phases on one rank or two. A test says what happens in place of one of the parts.
struct Rows {
  explicit Rows(Builder& builder) : b(builder), rank(builder.rank()), alone(b.problem().ranks() == 1) {}

  // The other rank's rows of k or v; none when there is no other.
  Value other(const Value& mine, Field field) {
    if (alone) return {};
    Value theirs = b.whole(field, b.keys_of(1 - rank), b.all_kv_heads());
    swap_kv(rank, b, mine, theirs);
    return theirs;
  }
  void open() {
    q = b.input(Field::q), k = b.input(Field::k), v = b.input(Field::v);
    scores = b.sums(Field::scores, q.tokens(), q.heads()), out = b.sums(Field::out, q.tokens(), q.heads());
    k2 = other(k, Field::k), v2 = other(v, Field::v);
  }
  void score() { b.score(q, {k, k2}, scores); }
  void normalise() {
    auto [p, l] = b.normalise(scores);
    probs = std::move(p);
    b.result(l);
  }
  void weigh() { b.weigh(probs, {v, v2}, out); }
  void close() {
    b.result(b.finish(out));
    q.reset(), k.reset(), v.reset(), scores.reset(), out.reset(), k2.reset(), v2.reset();
  }
  void forward() { open(), score(), normalise(), weigh(), close(); }

  void open_backward() {
    b.begin_backward();
    q = b.input(Field::q), k = b.input(Field::k), v = b.input(Field::v), dout = b.input(Field::dout);
    k2 = other(k, Field::k), v2 = other(v, Field::v);
    dprobs = b.sums(Field::dprobs, q.tokens(), q.heads()), dq = b.sums(Field::dq, q.tokens(), q.heads());
    dk = b.sums(Field::dk, k.tokens(), k.heads()), dv = b.sums(Field::dv, v.tokens(), v.heads());
    if (alone) return;
    dk2 = b.sums(Field::dk, k2.tokens(), k2.heads()), dv2 = b.sums(Field::dv, v2.tokens(), v2.heads());
  }
  void weigh_backward() { b.weigh_backward(dout, {v, v2}, probs, dprobs, {dv, dv2}); }
  void normalise_backward() { dscores = b.normalise_backward(probs, dprobs); }
  void score_backward() { b.score_backward(q, {k, k2}, dscores, dq, {dk, dk2}); }
  void send_home() {
    for (auto* sums : {&dk, &dv}) {
      const Value& part = sums == &dk ? dk2 : dv2;
      b.exchange().send(1 - rank, part).receive(1 - rank, *sums, Combine::add).issue();
    }
  }
  void close_backward() {
    if (!alone) send_home();
    for (const Value* sums : {&dq, &dk, &dv}) b.result(b.finish(*sums));
  }
  void backward() { open_backward(), weigh_backward(), normalise_backward(), score_backward(), close_backward(); }

  Builder& b;
  int rank;
  bool alone;
  Value q, k, v, k2, v2, scores, probs, out;          // forward
  Value dout, dprobs, dscores, dq, dk, dv, dk2, dv2;  // backward
};

// `change` does what a test is about, instead of one step of a program that is right.
enum class Instead { nothing, score, normalise, weigh, close, weigh_backward, normalise_backward, score_backward };
using RowsStep = std::function<void(Rows& r)>;

inline Schedule rows(Problem problem, Instead instead = Instead::nothing, RowsStep change = {}) {
  problem.backward = true;
  return script(std::move(problem), [instead, change](int, Builder& b) {
    Rows r(b);
    const auto step = [&](Instead which, auto&& usual) { which == instead ? change(r) : usual(); };
    r.open();
    step(Instead::score, [&] { r.score(); });
    step(Instead::normalise, [&] { r.normalise(); });
    step(Instead::weigh, [&] { r.weigh(); });
    step(Instead::close, [&] { r.close(); });
    r.open_backward();
    step(Instead::weigh_backward, [&] { r.weigh_backward(); });
    step(Instead::normalise_backward, [&] { r.normalise_backward(); });
    step(Instead::score_backward, [&] { r.score_backward(); });
    r.close_backward();
  });
}
inline Schedule two(Instead instead = Instead::nothing, RowsStep change = {}) {
  return rows(tokens8(2), instead, change);
}

inline Value whole(Builder& b, Field field, const Value& like) { return b.whole(field, like.tokens(), like.heads()); }

}  // namespace weft
