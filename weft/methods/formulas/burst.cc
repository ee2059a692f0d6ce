// What burst.cc costs: a ring, or a ring of rings, of keys or of queries.
#include "weft/methods/formulas/double_ring.h"
#include "weft/methods/formulas/formulas.h"

namespace weft::methods {

Formula burst_formula(const Configuration& c, int nodes, bool moves_queries) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f);
  if (!f.known()) return f;
  if (c.ranks > 1 && c.mask.causal && !c.layout.empty() && c.layout != "zigzag") {
    return no_formula("no closed form for a causal mask on another layout than zigzag");
  }
  const int64_t ranks = c.ranks, rows = shares.rows;
  const RowBytes row(c);
  const auto count = [&](PhaseCost& cost, Needed needed, const Moving& moving) {
    const DoubleRingShape shape{nodes, ranks / nodes, needed, -1};
    const auto each = [&](auto&& of_rank) {
      return shares.over_ranks([&](int64_t r) { return of_rank(DoubleRingMember(shape, r)); });
    };
    const bool sums = moving.sums > 0 && ranks > 1;
    using Member = const DoubleRingMember&;
    cost.steps = ranks + sums;
    cost.work = shares.work;
    cost.messages = each([&](Member m) { return m.block_messages() + (sums ? m.sums_messages() : 0); });
    cost.bytes = each([&](Member m) { return m.blocks_sent() * moving.block + m.sums_sent() * moving.sent; });
    if (sums) cost.exposed_bytes = each([&](Member m) { return m.coming_home_last() * moving.sent; });
    return double_ring_most_held(shape, moving);
  };
  const int64_t held = count(f.forward, shares.keys, {row.kv, 0, 0, 0});
  f.live_bytes = rows * (row.q + row.kv + row.partial) + std::max(held, rows * row.out);
  if (!c.backward) return f;

  const Moving keys{row.kv, row.dkv, row.sent_dkv, row.packed_dkv};
  const Moving queries{row.bundle, row.dq, row.sent_dq, row.packed_dq};
  const int64_t held_backward =
      moves_queries ? count(f.backward, shares.queries, queries) : count(f.backward, shares.keys, keys);
  const int64_t results = rows * std::max(row.dq_done, row.dkv_done);
  f.live_bytes = std::max(f.live_bytes, rows * (row.backward_inputs() + row.dkv) + std::max(held_backward, results));
  return f;
}

}  // namespace weft::methods
