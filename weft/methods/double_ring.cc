// LoongTrain's 2D attention: heads exchanged inside groups of ranks, and a ring of rings over the contexts of the groups.
//
//   P = ulysses x context ranks, context ranks = windows x window; 16 ranks, ulysses 2, window 4, placement head-first
//     place 0: ranks 0, 1    place 1: ranks 2, 3    ...   place 7: ranks 14, 15     all-to-all of heads in each place
//     even ranks 0 2 4 6 | 8 10 12 14, and the odd ones: inner rings of 4 places, and an outer ring between windows
//
// Inside a window blocks of keys go round in short steps; meanwhile the block that a rank began the window with is on its
// way to the next window, with a whole window's time to arrive. A flat ring leaves a node over one network card; here all
// ranks of a window send at once. The passes are those of double_ring_pass.h. Gu et al. 2024, arXiv 2406.18485. Placement
// head-first makes the members of an all-to-all adjacent ranks, context-first those of a window.
//
// With r = W N context ranks, N windows of W, hops of a block: forward r-1, of which N-1 between windows; backward as many,
// and r-1 of its gradients (published: r+N, since they return to each window's start and, in 16 bits between windows, home at
// the end). One window, or windows of one rank, is usp's flat ring, which saves a hop of keys in backward.
//
// The published code is for causal masks and equal lengths, and slices tokens by context rank while the ring counts in the
// order of windows, so that its interleaved placement computes wrong blocks (not offered here).
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/head_exchange.h"

namespace weft::methods {
namespace {

HeadGridShape double_ring_shape(int ranks, const MethodOptions& options) {
  HeadGridShape shape;
  shape.degree = middle_degree("double-ring", "ulysses", ranks, options);
  shape.window = middle_degree("double-ring", "window", ranks / shape.degree, options, "ranks of a context ring");
  shape.adjacent = options.is("placement", "head-first");
  shape.direction = direction_of(options);
  read_head_options(options, shape);
  return shape;
}

}  // namespace

const Method double_ring = {
    .name = "double-ring",
    .paper = "LoongTrain, Gu et al. 2024, arXiv 2406.18485",
    .summary = "all-to-all of heads inside groups of ranks, a ring of rings of key-value blocks between them",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "a ulysses degree that divides the ranks, a window that divides the rest; any tokens, heads and kv heads",
    .options = {MethodOption::integer("ulysses", "auto", {.min = 1, .max = 65536},
                                      "ranks that trade heads, a divisor of all; the others ring", {"auto"}),
                MethodOption::integer("window", "auto", {.min = 1, .max = 65536},
                                      "ranks of an inner ring, a divisor of those that ring", {"auto"}),
                MethodOption::choice("placement", "head-first", {"head-first", "context-first"},
                                     "whether ranks that trade heads are adjacent, or those of a window"),
                direction_option("reverse"), kv_option(), exchange_option()},
    .layout = [](const Documents& documents, int ranks, const MethodOptions& options) -> Layout {
      const HeadGridShape shape = double_ring_shape(ranks, options);
      return layout_of_members(zigzag_layout(documents.lengths, ranks / shape.degree), shape);
    },
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      auto grid = make_head_grid(*problem, double_ring_shape(problem->ranks(), options));
      return [grid](int rank, Builder& b) { return write_head_exchange(grid, rank, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return head_exchange_formula(c, double_ring_shape(c.ranks, options), "zigzag");
        },
};

}  // namespace weft::methods
