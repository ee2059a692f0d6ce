// USP: Ulysses inside, ring outside. P = ulysses x ring.
//
//   ranks of a 2 x 2 grid, ulysses 2, placement inner       place 0: ranks 0, 1     place 1: ranks 2, 3
//   all-to-all of heads inside each place, then a ring between equal heads: 0 <-> 2 and 1 <-> 3
//
// Fang and Zhao 2024, arXiv 2405.07719. Placement inner makes the members of an all-to-all adjacent ranks, outer the
// members of a ring. Tokens are dealt to the places in the order of zigzag, contiguous or striped, and a place's tokens are
// cut into consecutive pieces, one for each member; but any layout is right, since a place holds the union of its members'
// tokens in order of position, whatever order they have. So Megatron's hierarchical a2a+p2p is this on `--layout
// dual-chunk`, without the reordering that its code needs around the all-to-all.
// With u x r = P ranks, rows sent per rank under a full mask: all-to-all as in ulysses.cc with u for P, ring as in
// ring.cc with r for P on S/r tokens and 1/u of the heads.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/head_exchange.h"

namespace weft::methods {
namespace {

HeadGridShape usp_shape(int ranks, const MethodOptions& options) {
  HeadGridShape shape;
  shape.degree = middle_degree("usp", "ulysses", ranks, options);
  shape.adjacent = options.is("placement", "inner");
  shape.direction = direction_of(options);
  read_head_options(options, shape);
  return shape;
}

Layout usp_layout(const Documents& documents, int ranks, const MethodOptions& options) {
  const HeadGridShape shape = usp_shape(ranks, options);
  const int places = ranks / shape.degree;
  const std::string& order = options.text("order");
  return layout_of_members(
      order == "zigzag" ? zigzag_layout(documents.lengths, places) : make_layout(order, documents.lengths, places),
      shape);
}

}  // namespace

const Method usp = {
    .name = "usp",
    .paper = "USP, Fang and Zhao 2024, arXiv 2405.07719",
    .summary = "all-to-all of heads inside groups of ranks, ring of key-value blocks between them",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "a ulysses degree that divides the ranks; any tokens, heads and kv heads",
    .options = {MethodOption::integer("ulysses", "auto", {.min = 1, .max = 65536},
                                      "ranks that trade heads, a divisor of all; the others ring", {"auto"}),
                MethodOption::choice("placement", "inner", {"inner", "outer"},
                                     "whether ranks that trade heads are adjacent, or those of a ring"),
                direction_option("reverse"),
                MethodOption::choice("order", "zigzag", {"zigzag", "contiguous", "striped"},
                                     "how tokens are dealt to the members of a ring"),
                kv_option(), exchange_option()},
    .layout = usp_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      auto grid = make_head_grid(*problem, usp_shape(problem->ranks(), options));
      return [grid](int rank, Builder& b) { return write_head_exchange(grid, rank, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return head_exchange_formula(c, usp_shape(c.ranks, options), options.text("order"));
        },
};

}  // namespace weft::methods
