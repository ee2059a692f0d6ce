// What all_gather_state.cc and log_step.cc cost: maps of all heads, joined on the way.
#include "weft/methods/formulas/linear_doubling.h"

namespace weft::methods {
namespace {

// The fragments whose maps a rank joins, in one phase: `behind` of them, towards the begin in forward.
struct GatherWalk {
  Ledger& ledger;
  const LinearShares& shares;
  int64_t behind, ahead;

  Ledger::Id compose(Ledger::Id near, Ledger::Id far, Ledger::Id transition) {
    Ledger::Id joined = ledger.make(shares.size.states());
    ledger.use({near, far, transition}, {joined});
    return joined;
  }
  // The maps of all fragments behind, the farthest first, which alone has no transition.
  std::vector<std::pair<Ledger::Id, Ledger::Id>> exchange(const RankMaps& mine) {
    std::vector<std::pair<Ledger::Id, Ledger::Id>> maps;
    std::vector<Ledger::In> in;
    for (int64_t n = 0; n < behind; ++n) {
      maps.emplace_back(ledger.make(shares.size.states()), n == 0 ? 0 : ledger.make(shares.size.transitions()));
      in.push_back({maps.back().first, shares.size.states()});
      in.push_back({maps.back().second, shares.size.transitions()});
    }
    const Ledger::Out out[] = {{mine.own, ahead * shares.size.states(), 0, static_cast<int>(ahead)},
                               {mine.transition, ahead * shares.size.transitions(), 0, 0}};
    ledger.exchange(0, out, in);
    return maps;
  }
  Ledger::Id fold(const std::vector<std::pair<Ledger::Id, Ledger::Id>>& maps) {
    Ledger::Id folded = 0;
    for (size_t n = 0; n < maps.size(); ++n) {
      if (n == 0) continue;
      Ledger::Id next = compose(n == 1 ? maps[0].first : folded, maps[n].first, maps[n].second);
      if (n > 1) ledger.drop(folded);
      folded = next;
    }
    return folded;
  }
};

void walk_gather(Ledger& ledger, const LinearShares& shares, int64_t rank) {
  const int64_t before = rank, after = shares.ranks - 1 - rank;
  RankMaps mine;
  {
    LinearTensors tensors(ledger, shares, false);
    mine.make(ledger, shares, before, after);
    GatherWalk gather{ledger, shares, before, after};
    auto maps = gather.exchange(mine);
    scan_first(ledger, 0);
    mine.entering = gather.fold(maps);
    if (before == 1) std::swap(mine.entering, maps[0].first);
    for (auto& [state, transition] : maps) ledger.drop(state), ledger.drop(transition);
    ledger.drop(mine.own);
    if (before > 0) scan_rest(ledger, shares, mine.entering, 0);
    tensors.finish();
  }
  if (!shares.backward) return;
  ledger.begin_phase();
  LinearTensors tensors(ledger, shares, true);
  if (before > 0) mine.own = ledger.make(shares.size.states());
  GatherWalk gather{ledger, shares, after, before};
  auto maps = gather.exchange(mine);
  scan_first(ledger, mine.entering);
  const Ledger::Id folded = after == 1 ? maps[0].first : gather.fold(maps);
  if (after > 0) scan_rest(ledger, shares, folded, mine.entering);
  tensors.finish();
}

void walk_doubling(Ledger& ledger, const LinearShares& shares, int64_t rank) {
  const int64_t before = rank, after = shares.ranks - 1 - rank;
  RankMaps mine;
  const auto rounds = [&](DoublingWalk& doubling) {
    for (int64_t d = 1; d < shares.ranks || d == 1; d *= 2) {
      if (d < shares.ranks) doubling.round(d);
      if (d == 1) scan_first(ledger, mine.entering);
    }
  };
  {
    LinearTensors tensors(ledger, shares, false);
    mine.make(ledger, shares, before, after);
    DoublingWalk doubling(ledger, shares, mine, {before, after, before, after});
    rounds(doubling);
    mine.entering = doubling.take();
    doubling.drop();
    ledger.drop(mine.own);
    if (before > 0) scan_rest(ledger, shares, mine.entering, 0);
    tensors.finish();
  }
  if (!shares.backward) return;
  ledger.begin_phase();
  LinearTensors tensors(ledger, shares, true);
  if (before > 0) mine.own = ledger.make(shares.size.states());
  DoublingWalk doubling(ledger, shares, mine, {after, before, after, before});
  rounds(doubling);
  if (after > 0) scan_rest(ledger, shares, doubling.state(), mine.entering);
  tensors.finish();
}

}  // namespace

Formula gather_state_formula(const Configuration& c) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  f.forward.steps = 1;
  if (c.backward) f.backward.steps = 1, f.saved_bytes = kept_maps(shares);
  count_ranks(f, shares.ranks, false, shares.ranks,
              [&](Ledger& ledger, int64_t rank) { walk_gather(ledger, shares, rank); });
  return f;
}

Formula log_step_formula(const Configuration& c) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  const int64_t rounds = rounds_over(shares.ranks);
  const bool rest = rounds > 0 && first_heads(c.heads) < c.heads;
  f.forward.steps = std::max<int64_t>(1, rounds + rest);
  if (c.backward) f.backward.steps = f.forward.steps, f.saved_bytes = kept_maps(shares);
  count_ranks(f, shares.ranks, false, 8 * (rounds + 1),
              [&](Ledger& ledger, int64_t rank) { walk_doubling(ledger, shares, rank); });
  return f;
}

}  // namespace weft::methods
