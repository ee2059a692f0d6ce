// TokenRing: keys and values never move; queries go round, results go straight home.
//
//   4 ranks, causal, zigzag layout (cell: query block that the rank works on)
//            rank 0   rank 1   rank 2   rank 3
//   step 0      0        1        2        3
//   step 1      1        2        3        0hi      0hi: only the rows that see keys after the wrap
//   step 2      2        3        0hi      1hi
//   step 3      3        0hi      1hi      2hi
//
// Wang, Liu, Li, Jiang 2024, arXiv 2412.20501, which has no backward; here it is the same loop: the bundle
// (q, dout, lse, delta) travels as q did, dk and dv stay, and sums of dq go home as the partials did. With S tokens and
// P ranks, rows sent per rank under a full mask: forward (P-1)/P * S of q and of (out, lse), backward as many of the
// bundle and of dq. Independent of the number of kv heads, so it suits models with as many kv heads as heads.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/needed_sets.h"

namespace weft::methods {
namespace {

// Which query rows ranks need, the same on every rank. Made once per schedule.
struct NeededRows {
  explicit NeededRows(const Problem& problem) {
    const Layout &queries = problem.query_layout, &keys = problem.key_layout;
    const AllowedPairs& pairs = problem.pairs;
    single = NeededSets(problem.ranks(), Growing::no, [&queries, &keys, &pairs](int i, int p) {
      return pairs.queries_needed(queries.shard(i), keys.shard(p));
    });
    ahead = NeededSets(problem.ranks(), Growing::yes, [&queries, &keys, &pairs](int i, int count) {
      return pairs.queries_needed(queries.shard(i), keys.shards().cover((i + 1) % queries.ranks(), count));
    });
  }
  NeededSets single;  // rows of a rank that another one needs for its keys
  NeededSets ahead;   // rows of a rank that the last `number` ranks of their way round need
};

class TokenRing {
 public:
  TokenRing(Builder& b, const NeededRows& rows) : b_(b), rows_(rows), ranks_(b.problem().ranks()) {}

  // Any integer to a rank.
  int place(int p) const {
    while (p < 0) p += ranks_;  // no further than a lap or two: cheaper than a division
    while (p >= ranks_) p -= ranks_;
    return p;
  }
  // Query rows of rank i that rank p needs for its keys.
  Set need(int i, int p) { return rows_.single.at(b_, place(i), place(p)); }
  // Query rows of rank i that p or a rank after it on the way p, p-1, ..., i+1 needs.
  Set ahead(int i, int p) { return rows_.ahead.at(b_, place(i), place(p - i)); }

 private:
  Builder& b_;
  const NeededRows& rows_;
  int ranks_;
};

// One phase. `mine` are the travelling fields of my own rows, `home` the sums of my own rows; `work(current, part)`
// adds what my keys contribute to `part`, and `bring(home, got)` what came back.
template <typename Work, typename Bring>
void step_round(Builder& b, TokenRing& ring, int t, Fields travelling, Fields returning, Value& current, Value& back,
                const Value& home, Work&& work, Bring&& bring) {
  const int r = b.rank(), ranks = b.problem().ranks();
  const int i = r + t;  // owner of the current rows
  Value next, got;
  Exchange x = b.exchange(0);
  if (t + 1 < ranks) {
    next = b.whole(travelling, ring.ahead(i + 1, r), b.all_heads());
    x.send(ring.place(r - 1), current[ring.ahead(i, r - 1)]);
    x.receive(ring.place(r + 1), next);
  }
  if (t > 1) {
    got = b.sums(returning, ring.need(r, r - t + 1), b.all_heads());
    x.send(ring.place(i - 1), back);
    x.receive(ring.place(r - t + 1), got);
  }
  x.issue();
  back.reset();
  if (t == 0) {
    work(current, home);
  } else {
    back = b.sums(returning, ring.need(i, r), b.all_heads());
    work(current, back);
  }
  bring(home, got);
  if (t + 1 < ranks) current = std::move(next);
}

// After the loop: the last results go home, exposed.
template <typename Bring>
void last_return(Builder& b, TokenRing& ring, Fields returning, Value& back, const Value& home, Bring&& bring) {
  if (b.problem().ranks() == 1) return;
  const int r = b.rank();
  Value got = b.sums(returning, ring.need(r, r + 1), b.all_heads());
  Exchange x = b.exchange(0);
  x.send(ring.place(r - 1), back);
  x.receive(ring.place(r + 1), got);
  x.issue();
  back.reset();
  bring(home, got);
}

Steps write(std::shared_ptr<const Problem> problem, std::shared_ptr<const NeededRows> needed, Builder& b) {
  TokenRing ring(b, *needed);
  const Fields partial = Field::out | Field::lse;
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q), current = q, back;
  const auto attend = [&](const Value& rows, const Value& part) { b.attend(rows[part.tokens()], kv, part); };
  const auto merge = [&](const Value& home, const Value& got) { b.merge(home[got.tokens()], got); };
  for (int t = 0; t < problem->ranks(); ++t) {
    step_round(b, ring, t, Field::q, partial, current, back, acc, attend, merge);
    co_yield Step{};
  }
  current.reset();
  last_return(b, ring, partial, back, acc, merge);
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  co_yield Step{};
  if (!problem->backward) co_return;

  b.begin_backward();
  q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  // The bundle is one value so that it travels as one; the own rows are copied into it once.
  const Fields bundle = Field::q | Field::dout | Field::lse | Field::delta;
  Value out = b.input(Field::out | Field::lse), dout = b.input(Field::dout);
  Value delta = b.prepare_backward(out.only(Field::out), dout);
  Value dq = b.sums(Field::dq, q.tokens(), q.heads());
  Value dkv = b.sums(Field::dk | Field::dv, kv.tokens(), kv.heads());
  current = b.whole(bundle, q.tokens(), q.heads());
  Exchange pack = b.exchange(0);
  pack.send(b.rank(), q).receive(b.rank(), current.only(Field::q));
  pack.send(b.rank(), dout).receive(b.rank(), current.only(Field::dout));
  pack.send(b.rank(), out.only(Field::lse)).receive(b.rank(), current.only(Field::lse));
  pack.send(b.rank(), delta).receive(b.rank(), current.only(Field::delta));
  pack.issue();
  out.reset(), dout.reset(), delta.reset(), q.reset();
  const auto attend_backward = [&](const Value& rows, const Value& part) {
    const Slice taken = rows[part.tokens()];
    b.attend_backward(taken.only(Field::q), kv, taken.only(Field::dout | Field::lse | Field::delta), part, dkv);
  };
  const auto add = [&](const Value& home, const Value& got) { b.add(home[got.tokens()], got); };
  for (int t = 0; t < problem->ranks(); ++t) {
    step_round(b, ring, t, bundle, Field::dq, current, back, dq, attend_backward, add);
    co_yield Step{};
  }
  current.reset();
  last_return(b, ring, Field::dq, back, dq, add);
  b.result(b.finish(dq));
  b.result(b.finish(dkv));
}

}  // namespace

const Method token_ring = {
    .name = "token-ring",
    .paper = "TokenRing, Wang, Liu, Li, Jiang 2024, arXiv 2412.20501; backward is weft's",
    .summary = "keys and values stay; queries go round one way and partial results straight home the other",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads",
    .options = {},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      auto rows = std::make_shared<const NeededRows>(*problem);
      return [problem, rows](int /*rank*/, Builder& b) { return write(problem, rows, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return token_ring_formula(c); },
};

}  // namespace weft::methods
