// Recursive doubling: after round d every fragment knows the state of twice as many fragments before it.
//
//   8 ranks (cell: whose fragments the state holds that has been put together on the rank)
//             rank 0   1     2     3     4     5     6     7
//   round 1     -      0     1     2     3     4     5     6        from r-1: its own map
//   round 2     -      0    0-1   0-2   1-3   2-4   3-5   4-6       from r-2: the map of its window, itself included
//   round 4     -      0    0-1   0-2   0-3   0-4   0-5   0-6       from r-4
//
// ceil(log2 P) rounds in each direction instead of P-1 hops, for a state (and, until the begin of the document is reached, a
// transition) per round. The textbook algorithm of MPI_Exscan, on affine maps; backward it runs against the order. Only
// windows that a document reaches travel, so the rounds end at the longest document. Volume of one document over P ranks, n
// bytes of state and m of transition (0 where decays are constants): each phase sum over rounds d = 1, 2, 4, .. < P of
// (P-d) n + max(0, P-2d) m.
//
// On zigzag a rank takes part for both of its fragments; what a rank sends itself is a copy.
#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/doubling.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

Steps write_log_step(SharedFragments fragments, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, *fragments);
  {
    LinearPass pass(b);
    pass.begin_forward(own);
    {
      Doubling doubling(b, *fragments, own, 1);
      doubling.next();
      pass.scan_first(own);  // while the first maps are on their way
      co_yield Step{};
      while (doubling.next()) co_yield Step{};
      doubling.enter();
    }
    pass.scan_rest(own);
    pass.finish_forward();
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b);
  pass.begin_backward(own);
  Doubling doubling(b, *fragments, own, -1);
  doubling.next();
  pass.scan_backward_first(own);
  co_yield Step{};
  while (doubling.next()) co_yield Step{};
  pass.scan_backward_rest(own, doubling.known_states());
  pass.finish_backward();
  co_yield Step{};
}

}  // namespace

const Method log_step = {
    .name = "log-step",
    .family = Family::linear,
    .paper = "recursive doubling as in MPI_Exscan; on affine maps by Blelloch 1990",
    .summary = "every round joins windows of twice as many ranks: few messages in a row for many ranks",
    .masks = "causal, one document or packed ones",
    .needs = "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      const SharedFragments fragments = make_fragments(*problem);
      return [fragments](int /*rank*/, Builder& b) { return write_log_step(fragments, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return log_step_formula(c); },
};

}  // namespace weft::methods
