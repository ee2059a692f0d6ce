// What token_ring.cc costs: queries go round as the blocks of a ring in direction -1, results straight home.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ring.h"

namespace weft::methods {
namespace {

// One phase: bytes of a row that travels, of a result in memory and of its packed copy on the way.
struct Visitors {
  int64_t block, result, packed;
  bool own_block;  // the own rows travel in a copy of their own
};

class TokenRingPhase {
 public:
  TokenRingPhase(const Shares& shares, const Visitors& moving)
      : ranks_(shares.ranks), rows_(shares.rows), need_(shares.queries), moving_(moving) {}

  // Most that a rank holds besides what it holds all along.
  int64_t most_held(int64_t r) const {
    if (ranks_ == 1) return 0;
    const int64_t own = moving_.own_block ? rows_ * moving_.block : 0;
    int64_t most = ranks_ == 2 ? own + block(r, 1) + result(r, 1) : own + block(r, 1) + block(r, 2);
    for (int64_t t = 2; t < std::min(ranks_, kSteps); ++t) {
      const bool last = t + 1 == ranks_;
      const int64_t next = last ? 0 : block(r, t + 1), leaving = t == 2 ? block(r, 1) : 0;
      const int64_t held = block(r, t) + next + coming(r, t) + result(r, t - 1);
      most = std::max({most, held + leaving, held + (last ? leaving : 0) + packed(r, t - 1) + result(r, t)});
    }
    const int64_t home = (r + 1 < ranks_ ? need_.by_after : need_.by_before) * moving_.result;
    return std::max(most, home + result(r, ranks_ - 1) + packed(r, ranks_ - 1));
  }
  // Over the ranks near the wrap, where all that can come together does.
  int64_t most_held() const {
    int64_t most = 0;
    for (int64_t r = 0; r < std::min(ranks_, kSteps); ++r) most = std::max(most, most_held(r));
    return most;
  }

 private:
  static constexpr int64_t kSteps = 5;  // all steps from the third on are alike

  // Rows that r works on in step t: those of r + t, with what the ranks after r need of them.
  int64_t block(int64_t r, int64_t t) const {
    const int64_t owner = r + t;
    const int64_t rows = owner >= ranks_ ? need_.by_after : owner == ranks_ - 1 ? need_.by_before : need_.most();
    return rows * moving_.block;
  }
  int64_t result_rows(int64_t r, int64_t t) const { return r + t < ranks_ ? need_.by_before : need_.by_after; }
  int64_t result(int64_t r, int64_t t) const { return result_rows(r, t) * moving_.result; }
  int64_t packed(int64_t r, int64_t t) const { return result_rows(r, t) * moving_.packed; }
  // What comes home to r in step t.
  int64_t coming(int64_t r, int64_t t) const {
    return (r - t + 1 >= 0 ? need_.by_before : need_.by_after) * moving_.result;
  }

  int64_t ranks_, rows_;
  Needed need_;
  Visitors moving_;
};

}  // namespace

Formula token_ring_formula(const Configuration& c) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f);
  if (!f.known()) return f;
  const int64_t ranks = c.ranks, rows = shares.rows;
  const Needed need = shares.queries, any = need.any();
  if (ranks > 1 && (need.by_before == 0 || need.by_after == 0)) {
    return no_formula("no closed form where some ranks need nothing of others");
  }
  const RowBytes row(c);
  const RingRows round(c.ranks, need, -1);
  const auto home = [ranks](Needed rows_by, int64_t r) {
    return (ranks - 1 - r) * rows_by.by_before + r * rows_by.by_after;
  };
  const auto phase = [&](PhaseCost& cost, int64_t block, int64_t result) {
    cost.steps = ranks > 1 ? ranks + 1 : 1;
    cost.work = shares.work;
    cost.messages = shares.over_ranks([&](int64_t r) { return round.forward_messages(r) + home(any, r); });
    cost.bytes = shares.over_ranks([&](int64_t r) { return round.forward(r) * block + home(need, r) * result; });
    // The last results.
    if (ranks == 1) return;
    cost.exposed_bytes =
        shares.over_ranks([&](int64_t r) { return (r + 1 < ranks ? need.by_after : need.by_before) * result; });
  };
  phase(f.forward, row.q, row.sent_partial);
  const TokenRingPhase forward(shares, {row.q, row.partial, row.packed_partial, false});
  f.live_bytes = rows * (row.q + row.kv + row.partial) + std::max(forward.most_held(), rows * row.out);
  if (!c.backward) return f;

  phase(f.backward, row.bundle, row.sent_dq);
  const TokenRingPhase backward(shares, {row.bundle, row.dq, row.packed_dq, true});
  const int64_t all_along = rows * (row.kv + row.dq + row.dkv);
  // The own rows are copied into one value while the first ones of the neighbour arrive.
  const int64_t first = ranks > 1 ? need.most() * row.bundle : 0;
  const int64_t begin = rows * (row.backward_inputs() + row.dkv + row.bundle) + first;
  const int64_t end = all_along + rows * std::max(row.dq_done, row.dkv_done);
  f.live_bytes = std::max({f.live_bytes, begin, end, all_along + backward.most_held()});
  return f;
}

}  // namespace weft::methods
