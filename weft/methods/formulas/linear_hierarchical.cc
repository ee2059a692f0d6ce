// What hierarchical.cc costs: windows inside groups of ranks, between groups, and the result home.
#include "weft/methods/formulas/linear_doubling.h"

namespace weft::methods {
namespace {

// One phase on one rank: towards the end of the sequence, or its begin.
class NodeWalk {
 public:
  using Id = Ledger::Id;
  NodeWalk(Ledger& ledger, const LinearShares& shares, const RankMaps& mine, int64_t rank, int64_t size, bool forward)
      : ledger_(ledger),
        shares_(shares),
        groups_((shares.ranks + size - 1) / size),
        group_(forward ? rank / size : groups_ - 1 - rank / size),
        size_(size),
        in_group_(std::min(size, shares.ranks - rank / size * size)),
        place_(place_of(rank, forward)),
        inside_(ledger, shares, mine, place_),
        between_(ledger, shares, sum_, {group_, groups_ - 1 - group_, group_, groups_ - 1 - group_}) {}

  void first_round() {
    if (size_ > 1 && shares_.ranks > 1) inside_.round(1);
  }
  // The other rounds, the group's sum on the rank that completes it, those between groups, and home.
  Id rest() {
    for (int64_t d = 2; d < std::min(size_, shares_.ranks); d *= 2) inside_.round(d);
    const bool completes = place_.ahead_in == 0;
    if (completes) {
      DoublingWalk::Window sum = inside_.inclusive(size_, made_);
      sum_.own = sum.state;
      if (group_ > 0 && group_ + 1 < groups_) std::swap(sum_.transition, sum.transition);
      if (made_) ledger_.drop(sum.transition);
      for (int64_t d = 1; d < groups_; d *= 2) between_.round(d);
    }
    const Id far = home(completes), near = inside_.known().state;
    if (far == 0) return near;
    if (near == 0) return far;
    const Id joined = inside_.joined(far, near, inside_.known().transition, shares_.size.states());
    ledger_.drop(came_);
    return came_ = joined;
  }
  // What rest() gave, unless it is a window.
  void drop_result() { ledger_.drop(came_); }
  // Everything but what rest() gave.
  void drop(Id given) {
    if (inside_.state() == given) inside_.take();
    if (between_.state() == given) between_.take();
    if (came_ == given) came_ = 0;
    ledger_.drop(came_), inside_.drop(), between_.drop();
    if (made_) ledger_.drop(sum_.own), ledger_.drop(sum_.transition);
  }

 private:
  DoublingWalk::Place place_of(int64_t rank, bool forward) const {
    const int64_t after = shares_.ranks - 1 - rank, in = rank % size_, after_in = in_group_ - 1 - in;
    return forward ? DoublingWalk::Place{rank, after, in, after_in} : DoublingWalk::Place{after, rank, after_in, in};
  }
  // What enters the group, from the rank that knows it.
  Id home(bool completes) {
    if (group_ == 0) return 0;
    const int64_t bytes = shares_.size.states(), others = in_group_ - 1;
    if (completes) {
      ledger_.exchange(0, {{between_.state(), others * bytes, 0, static_cast<int>(others)}}, {});
      return between_.state();
    }
    came_ = ledger_.make(bytes);
    ledger_.exchange(0, {}, {{came_, bytes}});
    return came_;
  }

  Ledger& ledger_;
  const LinearShares& shares_;
  const int64_t groups_, group_, size_, in_group_;
  const DoublingWalk::Place place_;
  RankMaps sum_;  // the group's
  bool made_ = false;
  DoublingWalk inside_, between_;
  Id came_ = 0;  // and what it has been joined to
};

void walk_nodes(Ledger& ledger, const LinearShares& shares, int64_t rank, int64_t size) {
  const int64_t before = rank, after = shares.ranks - 1 - rank;
  RankMaps mine;
  {
    LinearTensors tensors(ledger, shares, false);
    mine.make(ledger, shares, before, after);
    NodeWalk walk(ledger, shares, mine, rank, size, true);
    walk.first_round();
    scan_first(ledger, 0);
    mine.entering = walk.rest();
    walk.drop(mine.entering);
    ledger.drop(mine.own);
    if (before > 0) scan_rest(ledger, shares, mine.entering, 0);
    tensors.finish();
  }
  if (!shares.backward) return;
  ledger.begin_phase();
  LinearTensors tensors(ledger, shares, true);
  if (before > 0) mine.own = ledger.make(shares.size.states());
  NodeWalk walk(ledger, shares, mine, rank, size, false);
  walk.first_round();
  scan_first(ledger, mine.entering);
  const Ledger::Id following = walk.rest();
  if (after > 0) scan_rest(ledger, shares, following, mine.entering);
  walk.drop_result();
  tensors.finish();
}

}  // namespace

Formula hierarchical_formula(const Configuration& c, int64_t node) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  const int64_t size = std::min(node, shares.ranks), groups = (shares.ranks + size - 1) / size;
  const int64_t inside = rounds_over(size), between = rounds_over(groups);
  // Of the last step: heads that are left to scan, or the way home, which the first group in each direction has not.
  const auto steps = [&](int64_t ranks_behind) {
    const bool last =
        (shares.ranks > 1 && first_heads(c.heads) < c.heads) || (groups > 1 && size > 1 && ranks_behind > 1);
    return 1 + std::max<int64_t>(0, inside - 1) + between + last;
  };
  f.forward.steps = steps(shares.ranks - size);
  if (c.backward) f.backward.steps = steps(size), f.saved_bytes = kept_maps(shares);
  count_ranks(f, shares.ranks, false, 8 * (inside + between + 1),
              [&](Ledger& ledger, int64_t rank) { walk_nodes(ledger, shares, rank, size); });
  return f;
}

}  // namespace weft::methods
