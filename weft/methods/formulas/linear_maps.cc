// What all_gather_state.cc and log_step.cc cost: maps of all heads, joined on the way.
#include "weft/methods/formulas/linear_doubling.h"

namespace weft::methods {
namespace {

// The fragments whose maps a rank joins, in one phase: `behind` of them, towards the begin in forward.
struct GatherWalk {
  Ledger& ledger;
  const LinearShares& shares;
  int64_t behind, ahead;

  // The states of all fragments behind, and the transitions of all but the farthest: a value each.
  struct Maps {
    Ledger::Id states, transitions;
  };
  Maps exchange(const RankMaps& mine) {
    const int64_t state = shares.size.states(), transition = shares.size.transitions();
    const int64_t passed = std::max<int64_t>(0, behind - 1) * transition;
    const Maps maps{ledger.make(behind * state), ledger.make(passed)};
    const Ledger::Out out[] = {{mine.own, ahead * state, 0, static_cast<int>(ahead)},
                               {mine.transition, ahead * transition, 0, 0}};
    const Ledger::In in[] = {{maps.states, behind * state}, {maps.transitions, passed}};
    ledger.exchange(0, out, in);
    return maps;
  }
  // One by itself is what enters.
  Ledger::Id fold(Maps& maps) {
    Ledger::Id folded = 0;
    if (behind == 1) {
      std::swap(folded, maps.states);
    } else if (behind > 1) {
      folded = ledger.make(shares.size.states());
      ledger.use({maps.states, maps.transitions}, {folded});
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
    ledger.drop(maps.states), ledger.drop(maps.transitions);
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
  const Ledger::Id folded = gather.fold(maps);
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
  count_ranks(f, shares.ranks, false, 8, [&](Ledger& ledger, int64_t rank) { walk_gather(ledger, shares, rank); });
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
