// Ring Self-Attention: one ring of keys for whole rows of scores, and after softmax one ring of values.
//
//   4 ranks, full mask (cell: whose keys, then whose values the rank works on)
//            rank 0   rank 1   rank 2   rank 3
//   step 0     k0       k1       k2       k3     scores of the own queries, block of columns by block of columns
//   step 1     k3       k0       k1       k2
//   step 2     k2       k3       k0       k1
//   step 3     k1       k2       k3       k0     softmax: the rows are complete
//   step 4     v0       v1       v2       v3     out += probabilities of a block of columns x its values
//   step 5     v3       v0       v1       v2     ... and so on
//
// Backward: a ring of values with dv following gives the gradient of the probabilities, softmax backward that of the
// scores, a ring of keys with dk following gives dq. Li, Xue, Baranwal, Li, You 2021, arXiv 2105.13120. It is older than
// online softmax: a rank holds its queries x all their keys in every head, in forward twice for a moment, in backward up
// to three times, and keeps them once in between. So it is a reference to compare with.
//
// With S tokens and P ranks, rows sent per rank under a full mask: forward (P-1)/P * S of k and of v, backward as many of
// (v, dv) and of (k, dk). The published code sums full-length dk, dv over all ranks instead, and divides dq, dk and dv by
// P, which nothing undoes.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/double_ring_pass.h"

namespace weft::methods {
namespace {

using SharedRing = std::shared_ptr<const DoubleRing>;

// A ring of k or of v, and of their gradient behind it.
DoubleRingPass ring_of(Builder& b, const SharedRing& ring, Field field, const Value& own, Fields gradient = {},
                       const Value& home = {}) {
  return {b, ring, b.rank(), {{field}, {own}, gradient, home}, b.all_kv_heads()};
}

Steps write(SharedRing ring, Builder& b) {
  Value q = b.input(Field::q), k = b.input(Field::k);
  Value scores = b.sums(Field::scores, q.tokens(), q.heads());
  {
    DoubleRingPass keys = ring_of(b, ring, Field::k, k);
    for (int t = 0; t < keys.steps(); ++t) {
      keys.trade(t);
      b.score(q, keys.block(), scores);
      co_yield Step{};
    }
  }
  q.reset(), k.reset();

  Value v = b.input(Field::v), out = b.sums(Field::out, scores.tokens(), scores.heads()), probs;
  {
    DoubleRingPass values = ring_of(b, ring, Field::v, v);
    for (int t = 0; t < values.steps(); ++t) {
      values.trade(t);
      if (t == 0) {  // while the first values are on their way
        auto [p, lse] = b.normalise(scores);
        b.result(lse);
        probs = std::move(p);
        scores.reset();
      }
      b.weigh(probs, values.block(), out);
      co_yield Step{};
    }
  }
  b.result(b.finish(out));
  out.reset(), v.reset();
  if (!b.problem().backward) co_return;

  b.begin_backward();
  Value dout = b.input(Field::dout), dscores;
  v = b.input(Field::v);
  {
    Value dprobs = b.sums(Field::dprobs, dout.tokens(), dout.heads());
    Value dv = b.sums(Field::dv, v.tokens(), v.heads());
    DoubleRingPass values = ring_of(b, ring, Field::v, v, Field::dv, dv);
    for (int t = 0; t <= values.steps(); ++t) {
      values.trade(t);
      b.weigh_backward(dout, values.block(), probs, dprobs, values.target());
      if (t == values.steps()) {  // while the last gradients are on their way home
        dscores = b.normalise_backward(probs, dprobs);
        probs.reset(), dprobs.reset(), dout.reset();
      }
      values.settle();
      co_yield Step{};
    }
    b.result(b.finish(dv));
  }
  v.reset();

  q = b.input(Field::q), k = b.input(Field::k);
  Value dq = b.sums(Field::dq, q.tokens(), q.heads()), dk = b.sums(Field::dk, k.tokens(), k.heads());
  {
    DoubleRingPass keys = ring_of(b, ring, Field::k, k, Field::dk, dk);
    for (int t = 0; t <= keys.steps(); ++t) {
      keys.trade(t);
      b.score_backward(q, keys.block(), dscores, dq, keys.target());
      keys.settle();
      co_yield Step{};
    }
  }
  b.result(b.finish(dq));
  b.result(b.finish(dk));
}

void check_size(const Problem& problem) {
  if (problem.canonical_tile != 0) {
    throw Error(ErrorCode::unsupported,
                "rsa sums over whole rows of scores, not tile by tile, and has no canonical results; use ring");
  }
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    if (problem.bytes_of_scores(problem.query_layout.shard(rank), problem.heads)) continue;
    throw Error(ErrorCode::unsupported, "rsa keeps the scores of all queries and keys, more than 2^50 on rank " +
                                            std::to_string(rank) + "; use ring, which keeps none");
  }
}

}  // namespace

const Method rsa = {
    .name = "rsa",
    .paper = "Ring Self-Attention, Li, Xue, Baranwal, Li, You 2021, arXiv 2105.13120",
    .summary =
        "a ring of keys for whole rows of scores, then a ring of values: a reference, memory grows with tokens^2",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "memory for queries x keys x heads scores; any tokens, ranks, heads and kv heads",
    .reference = true,
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      check_size(*problem);
      SharedRing members = make_double_ring(*problem, Travels::keys, 1, 1);
      return [members](int /*rank*/, Builder& b) { return write(members, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return rsa_formula(c); },
};

}  // namespace weft::methods
