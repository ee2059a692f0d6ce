// Recursive doubling over fragments, one for each rank or group of ranks, in bytes: what doubling.h writes.
#pragma once

#include "weft/methods/formulas/linear_parts.h"
#include "weft/methods/linear/fragments.h"

namespace weft::methods {

// Rounds in which windows of 1, 2, 4 .. cover so many.
inline int64_t rounds_over(int64_t count) {
  int64_t rounds = 0;
  for (int64_t d = 1; d < count; d *= 2) ++rounds;
  return rounds;
}

// Scans before and after what comes.
inline void scan_first(Ledger& ledger, Ledger::Id entering) { ledger.attend({entering}, {}); }
inline void scan_rest(Ledger& ledger, const LinearShares& shares, Ledger::Id coming, Ledger::Id entering) {
  if (first_heads(shares.size.heads) < shares.size.heads) ledger.attend({coming, entering}, {});
  ledger.use({coming, entering}, {});
}

// What a rank has and keeps: its own state or dstate and its transition, and the state that entered.
struct RankMaps {
  Ledger::Id own = 0, transition = 0, entering = 0;

  // Forward, between so many ranks: what another one needs.
  void make(Ledger& ledger, const LinearShares& shares, int64_t before, int64_t after) {
    if (after > 0) own = ledger.make(shares.size.states());
    if (before > 0 && after > 0) transition = ledger.make(shares.size.transitions());
  }
};

// What enters a rank and, where another follows it, what it passes, are kept by both.
inline int64_t kept_maps(const LinearShares& shares) {
  return (shares.ranks > 1 ? shares.size.states() : 0) + (shares.ranks > 2 ? shares.size.transitions() : 0);
}

class DoublingWalk {
 public:
  // Fragments behind this one and ahead of it, in all and in its group, which is joined by itself.
  struct Place {
    int64_t behind, ahead, behind_in, ahead_in;
    bool crossed() const { return behind > 0 && ahead > 0; }
    bool goes_on_behind(int64_t d) const { return crossed() && behind > std::min(d - 1, behind_in); }
  };
  struct Window {
    Ledger::Id state = 0, transition = 0;
  };
  DoublingWalk(Ledger& ledger, const LinearShares& shares, const RankMaps& mine, Place place)
      : ledger_(ledger), shares_(shares), mine_(mine), place_(place) {}
  void round(int64_t d);
  // The window with the fragment itself; `made` where its values are new.
  Window inclusive(int64_t d, bool& made);
  const Window& known() const { return known_; }
  Ledger::Id state() const { return known_.state; }
  Ledger::Id take() { return std::exchange(known_.state, 0); }
  void drop() { ledger_.drop(known_.state), ledger_.drop(known_.transition); }
  Ledger::Id joined(Ledger::Id near, Ledger::Id far, Ledger::Id transition, int64_t bytes) {
    Ledger::Id id = ledger_.make(bytes);
    ledger_.use({near, far, transition}, {id});
    return id;
  }

 private:
  const LinearSizes& size() const { return shares_.size; }

  Ledger& ledger_;
  const LinearShares& shares_;
  const RankMaps& mine_;
  const Place place_;
  Window known_;
};

}  // namespace weft::methods
