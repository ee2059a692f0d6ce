// What lightseq.cc costs: near blocks come as keys, far ones as queries whose results go home a step later.
#include <array>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/parts.h"

namespace weft::methods {
namespace {

// Who works for whom, seen from below the diagonal; above it ranks count from the other end.
class Distances {
 public:
  explicit Distances(int64_t ranks) : ranks_(ranks) {}

  int64_t last() const { return ranks_ / 2; }
  bool halfway(int64_t t) const { return 2 * t == ranks_; }
  bool is_step(int64_t t) const { return t >= 1 && t <= last(); }
  // What r does in step t: attends to keys that came, or to queries of another rank.
  bool takes_keys(int64_t r, int64_t t) const { return is_step(t) && r >= t; }
  bool helps(int64_t r, int64_t t) const { return is_step(t) && r < t && !halfway(t); }
  // What another rank does with r's rows.
  bool keys_are_taken(int64_t r, int64_t t) const { return is_step(t) && r + t < ranks_; }
  bool is_helped(int64_t r, int64_t t) const { return is_step(t) && r + t >= ranks_ && !halfway(t); }

  // In how many steps.
  int64_t takes_keys(int64_t r) const { return std::min(last(), r); }
  int64_t helps(int64_t r) const { return std::max<int64_t>(0, (ranks_ - 1) / 2 - r); }
  int64_t keys_are_taken(int64_t r) const { return takes_keys(ranks_ - 1 - r); }
  int64_t is_helped(int64_t r) const { return helps(ranks_ - 1 - r); }

 private:
  int64_t ranks_;
};

class LightSeqPhase {
 public:
  LightSeqPhase(const Shares& shares, Side queries, Side keys)
      : distances_(shares.ranks), ranks_(shares.ranks), sides_(shares.full ? 2 : 1), queries_(queries), keys_(keys) {}

  // All in rows of one block.
  int64_t messages(int64_t r) const {
    return over_sides(r, [&](int64_t m) {
      return distances_.keys_are_taken(m) + distances_.is_helped(m) + distances_.helps(m) +
             (keys_.sums > 0 ? distances_.takes_keys(m) : 0);
    });
  }
  int64_t bytes(int64_t r) const {
    return over_sides(r, [&](int64_t m) {
      return distances_.keys_are_taken(m) * keys_.block + distances_.is_helped(m) * queries_.block +
             distances_.helps(m) * queries_.sent + distances_.takes_keys(m) * keys_.sent;
    });
  }
  int64_t exposed(int64_t r) const {
    const int64_t last = distances_.last();
    // Halfway round, ranks that have nothing to do wait for the results of the step before.
    const bool idle = ranks_ > 1 && works(r, last) == 0;
    return (idle ? coming(r, last - 1, &Side::sent) : 0) + coming(r, last, &Side::sent);
  }
  int64_t steps() const {
    const bool results = ranks_ > 1 && (keys_.sums > 0 || ranks_ % 2 == 1);
    return distances_.last() + 1 + results;
  }

  // Most that a rank holds besides what it holds all along, with `result` bytes at the end.
  int64_t most_held(int64_t r, int64_t result) const {
    int64_t most = 0, in_flight = 0;  // results of earlier steps whose exchange nothing has waited for
    for (int64_t t = 0; t <= distances_.last() + 1; ++t) {
      const int64_t got = coming(r, t - 1, &Side::sums), sent = leaving(r, t - 1, &Side::sums);
      const int64_t fixed = working_on(r, t) + working_on(r, t + 1) + sent + got;
      const int64_t packed = leaving(r, t - 1, &Side::packed);
      most = std::max(most, fixed + in_flight);
      // The first compute of the step waits for the exchange before; its target exists by then.
      int64_t targets = 0, waiting = in_flight;
      for (int64_t side = 0; side < sides_; ++side) {
        const int64_t m = side == 0 ? r : ranks_ - 1 - r;
        targets += target(m, t);
        most = std::max(most, fixed + packed + waiting + targets);
        if (distances_.takes_keys(m, t) || distances_.helps(m, t)) waiting = 0;
      }
      in_flight = got > 0 ? 0 : waiting + sent + packed;
    }
    return std::max(most, in_flight + result);
  }

 private:
  template <typename F>
  int64_t over_sides(int64_t r, F&& of_place) const {
    return of_place(r) + (sides_ == 2 ? of_place(ranks_ - 1 - r) : 0);
  }
  int64_t works(int64_t r, int64_t t) const {
    return over_sides(r, [&](int64_t m) -> int64_t { return distances_.takes_keys(m, t) || distances_.helps(m, t); });
  }
  int64_t working_on(int64_t r, int64_t t) const {
    return over_sides(r, [&](int64_t m) {
      return distances_.takes_keys(m, t) ? keys_.block : distances_.helps(m, t) ? queries_.block : 0;
    });
  }
  int64_t target(int64_t m, int64_t t) const {
    return distances_.takes_keys(m, t) ? keys_.sums : distances_.helps(m, t) ? queries_.sums : 0;
  }
  int64_t leaving(int64_t r, int64_t t, int64_t Side::*bytes) const {
    return over_sides(r, [&](int64_t m) {
      return distances_.takes_keys(m, t) ? keys_.*bytes : distances_.helps(m, t) ? queries_.*bytes : 0;
    });
  }
  int64_t coming(int64_t r, int64_t t, int64_t Side::*bytes) const {
    return over_sides(r, [&](int64_t m) {
      return distances_.keys_are_taken(m, t) ? keys_.*bytes : distances_.is_helped(m, t) ? queries_.*bytes : 0;
    });
  }

  Distances distances_;
  int64_t ranks_, sides_;
  Side queries_, keys_;
};

// The most over ranks of every kind: near both ends and near the middle, where they differ in what they do when.
template <typename F>
int64_t most_of_ranks(int64_t ranks, F&& of_rank) {
  constexpr int64_t kNear = 4;
  int64_t most = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    if (r == kNear && ranks / 2 - kNear > r) r = ranks / 2 - kNear;
    if (r == ranks / 2 + kNear && ranks - kNear > r) r = ranks - kNear;
    most = std::max(most, of_rank(r));
  }
  return most;
}

}  // namespace

Formula lightseq_formula(const Configuration& c) {
  Formula f;
  const Shares shares = share_rows(c, "contiguous", f);
  if (!f.known()) return f;
  if (c.mask.causal && !c.layout.empty() && c.layout != "contiguous") {
    return no_formula("no closed form for a causal mask on another layout than contiguous");
  }
  const int64_t ranks = c.ranks, rows = shares.rows;
  const RowBytes row(c);
  const auto count = [&](PhaseCost& cost, const LightSeqPhase& phase) {
    cost.steps = phase.steps();
    cost.work = shares.work;
    if (!shares.full) cost.work.busiest = (rows * (rows + 1) / 2 + ranks / 2 * rows * rows) * c.heads;
    cost.messages = over_all(ranks, [&](int64_t r) { return phase.messages(r); });
    cost.bytes = over_all(ranks, [&](int64_t r) { return rows * phase.bytes(r); });
    cost.exposed_bytes = over_all(ranks, [&](int64_t r) { return rows * phase.exposed(r); });
  };
  const auto held = [&](const LightSeqPhase& phase, int64_t result) {
    return most_of_ranks(ranks, [&](int64_t r) { return phase.most_held(r, result); });
  };
  const LightSeqPhase forward(shares, {row.q, row.partial, row.sent_partial, row.packed_partial}, {row.kv, 0, 0, 0});
  count(f.forward, forward);
  f.live_bytes = rows * (row.q + row.kv + row.partial + held(forward, row.out));
  if (!c.backward) return f;

  const LightSeqPhase backward(shares, {row.bundle, row.dq, row.sent_dq, row.packed_dq},
                               {row.kv, row.dkv, row.sent_dkv, row.packed_dkv});
  count(f.backward, backward);
  const int64_t results = std::max(row.dq_done, row.dkv_done);
  f.live_bytes = std::max(f.live_bytes, rows * (row.backward_inputs() + row.dkv + held(backward, results)));
  return f;
}

}  // namespace weft::methods
