// USP: Ulysses inside, ring outside. P = ulysses x ring.
//
//   ranks of a 2 x 2 grid, ulysses 2, placement inner       place 0: ranks 0, 1     place 1: ranks 2, 3
//   all-to-all of heads inside each place, then a ring between equal heads: 0 <-> 2 and 1 <-> 3
//
// Fang and Zhao 2024, arXiv 2405.07719; LoongTrain's 2D attention (Gu et al. 2024, arXiv 2406.18485) without its
// double ring. Placement inner makes the members of an all-to-all adjacent ranks, outer the members of a ring.
// With u x r = P ranks, rows sent per rank under a full mask: all-to-all as in ulysses.cc with u for P, ring as in
// ring.cc with r for P on S/r tokens and 1/u of the heads.
#include "weft/methods/degrees.h"
#include "weft/methods/head_exchange.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// The ulysses degree: as given, or the largest divisor of the ranks that is not above their square root.
int degree_of(int ranks, const MethodOptions& options) {
  if (const int given = degree_option("usp", "ulysses", ranks, options)) return given;
  int degree = 1;
  for (int d : divisors_of(ranks)) {
    if (int64_t{d} * d <= ranks) degree = d;
  }
  return degree;
}

bool is_adjacent(const MethodOptions& options) { return options.is("placement", "inner"); }

// Zigzag over the places; inside a place, consecutive pieces of its tokens.
Layout usp_layout(const std::vector<int64_t>& lengths, int ranks, const MethodOptions& options) {
  const int degree = degree_of(ranks, options), places = ranks / degree;
  const Layout outer = zigzag_layout(lengths, places);
  std::vector<std::vector<Run>> shards(static_cast<size_t>(ranks));
  for (int place = 0; place < places; ++place) {
    const int64_t tokens = outer.tokens_of(place);
    int64_t passed = 0;
    int index = 0;
    for (Run run : outer.runs(place)) {
      while (run.count > 0) {
        const int64_t end = tokens * (index + 1) / degree;  // of this member, in local tokens of the place
        const int64_t take = std::min(run.count, end - passed);
        if (take > 0) {
          const int rank = is_adjacent(options) ? place * degree + index : index * places + place;
          shards[static_cast<size_t>(rank)].push_back({run.base, 1, take});
        }
        run.base += take, run.count -= take, passed += take;
        if (passed == end) ++index;
      }
    }
  }
  return Layout::from_runs(outer.tokens(), std::move(shards));
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
                MethodOption::choice("direction", "reverse", {"forward", "reverse"},
                                     "which way key-value blocks travel in the ring")},
    .layout = usp_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int direction = options.is("direction", "forward") ? 1 : -1;
      auto grid = make_head_grid(*problem, degree_of(problem->ranks(), options), is_adjacent(options), direction);
      return [grid](int rank, Builder& b) { return write_head_exchange(grid, rank, b); };
    },
};

}  // namespace weft::methods
