// BurstAttention: a ring, or a ring of rings, whose backward moves queries where that is cheaper.
//
//   forward    (k, v) go round                                     2 Hkv D elements a row
//   backward   (q, dout, lse, delta) go round, dq follows          3 H D elements a row, dk and dv stay
//          or  (k, v) go round, (dk, dv) follow                    4 Hkv D elements a row
//
// Moving queries pays with as many kv heads as heads, and not with grouped heads; `backward=auto` compares the bytes.
// Sun et al. 2024, arXiv 2403.09347; 2025, arXiv 2509.19836, which accumulates in the element type; here partial sums are
// fp32 or the wire type. Rows sent per rank under a full mask, one node: forward (P-1)/P * S of (k, v), backward as many of
// the bundle and of its sums.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/double_ring_pass.h"

namespace weft::methods {
namespace {

struct Burst {
  std::shared_ptr<const DoubleRing> forward, backward;
};

// Bytes of a block and of its sums, for one hop.
bool queries_are_cheaper(const AttentionShape& shape) {
  const int64_t queries = shape.wire_bytes_per_token(Field::q | Field::dout | Field::lse | Field::delta, Form::whole) +
                          shape.wire_bytes_per_token(Field::dq, Form::accumulating);
  const int64_t keys = shape.wire_bytes_per_token(Field::k | Field::v, Form::whole) +
                       shape.wire_bytes_per_token(Field::dk | Field::dv, Form::accumulating);
  return queries < keys;
}

bool moves_queries(const AttentionShape& shape, const MethodOptions& options) {
  return options.is("backward", "auto") ? queries_are_cheaper(shape) : options.is("backward", "queries");
}

Steps write(std::shared_ptr<const Burst> plan, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  {
    DoubleRingPass pass(b, plan->forward, b.rank(), moving_keys(kv), b.all_kv_heads());
    for (int t = 0; t < pass.steps(); ++t) {
      pass.trade(t);
      b.attend(q, pass.block(), acc);
      co_yield Step{};
    }
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!b.problem().backward) co_return;

  BackwardInputs in(b);
  in.prepare();
  Value dkv = in.key_sums();
  const std::vector<Slice> bundle = in.bundle();
  const bool queries = plan->backward->travels == Travels::queries;
  {
    DoubleRingPass pass(b, plan->backward, b.rank(),
                        queries ? moving_queries(in.q, bundle, in.dq) : moving_keys(in.kv, dkv),
                        queries ? b.all_heads() : b.all_kv_heads());
    for (int t = 0; t <= pass.steps(); ++t) {
      pass.trade(t);
      const std::vector<Slice>& block = pass.block();
      if (!block.empty() && queries) {
        b.attend_backward(block[0], in.kv, std::vector<Slice>(block.begin() + 1, block.end()), pass.target(), dkv);
      } else if (!block.empty()) {
        b.attend_backward(in.q, block, bundle, in.dq, pass.target());
      }
      pass.settle();
      co_yield Step{};
    }
  }
  b.result(b.finish(in.dq));
  b.result(b.finish(dkv));
}

}  // namespace

const Method burst = {
    .name = "burst",
    .paper = "BurstAttention, Sun et al. 2024, arXiv 2403.09347; BurstEngine 2025, arXiv 2509.19836",
    .summary =
        "ring, or ring of rings over nodes, whose backward moves queries and their gradients where that is cheaper",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "nodes that divide the ranks; any tokens, heads and kv heads",
    .options = {MethodOption::integer("nodes", "1", {.min = 1, .max = 65536},
                                      "rings inside nodes, a divisor of ranks, and a ring between them"),
                MethodOption::choice("backward", "auto", {"auto", "queries", "keys"},
                                     "what travels in backward; auto: what has fewer bytes")},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int nodes = degree_option("burst", "nodes", problem->ranks(), options);
      const bool queries = moves_queries(*problem, options);
      auto plan = std::make_shared<Burst>();
      plan->forward = make_double_ring(*problem, Travels::keys, nodes, -1);
      plan->backward = queries ? make_double_ring(*problem, Travels::queries, nodes, -1) : plan->forward;
      return
          [plan = std::shared_ptr<const Burst>(std::move(plan))](int /*rank*/, Builder& b) { return write(plan, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return burst_formula(c, degree_option("burst", "nodes", c.ranks, options), moves_queries(c, options));
        },
};

}  // namespace weft::methods
