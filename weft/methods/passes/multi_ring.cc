#include "weft/methods/passes/multi_ring.h"

#include <algorithm>
#include <numeric>

#include "weft/methods/passes/pieces.h"

namespace weft::methods {

void RingNeeds::add(const IntervalSet& piece, const std::vector<IntervalSet>& wanted, const std::vector<int>& nearest,
                    const std::vector<int>& farthest) {
  const size_t first = sets_.size();
  std::vector<int> wanted_here;
  for (const IntervalSet& rows : wanted) wanted_here.push_back(number_of(intersect(rows, piece), first));
  std::vector<int> places_left = farthest;
  for (int& distance : places_left) distance = distance == 0 ? 0 : ranks_ - distance;
  grow(wanted_here, places_left, first);
  pieces_.back().so_far = static_cast<int>(entries_.size());
  grow(wanted_here, nearest, first);
  wanted_.insert(wanted_.end(), wanted_here.begin(), wanted_here.end());
  const auto end = static_cast<int>(entries_.size());
  pieces_.push_back({.ahead = end, .so_far = end, .wanted = static_cast<int>(wanted_.size())});
}

int RingNeeds::number_of(const IntervalSet& rows, size_t first) {
  if (rows.empty()) return 0;
  const auto known = std::find_if(sets_.begin() + static_cast<int64_t>(first), sets_.end(),
                                  [&](const NamedSet& s) { return s.intervals() == rows; });
  const auto number = static_cast<int>(known - sets_.begin());
  if (known == sets_.end()) sets_.emplace_back(rows);
  return number;
}

void RingNeeds::grow(const std::vector<int>& wanted, const std::vector<int>& begin, size_t first) {
  std::vector<size_t> order(begin.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return begin[a] < begin[b]; });
  int before = 0;
  for (size_t k : order) {
    if (begin[k] == 0 || wanted[k] == before) continue;
    const int set = number_of(unite(sets_[at(before)].intervals(), sets_[at(wanted[k])].intervals()), first);
    if (set != before) entries_.push_back({begin[k], set});
    before = set;
  }
}

MultiRing::MultiRing(const Problem& problem, std::vector<Tour> rings) : rings_(std::move(rings)) {
  std::vector<std::vector<IntervalSet>> pieces;  // of each owner, by ring
  for (int owner = 0; owner < ranks(); ++owner) {
    wanted_.push_back(find_wanted(problem, owner));
    pieces.push_back(cut_in_pieces(problem.key_layout.shard(owner), this->rings(), problem.unit_of_cuts()));
  }
  for (size_t i = 0; i < rings_.size(); ++i) {
    std::vector<int>& place = places_.emplace_back(rings_[i].size());
    for (size_t k = 0; k < rings_[i].size(); ++k) place[at(rings_[i][k])] = static_cast<int>(k);
    needs_.emplace_back(ranks());
    for (int owner : rings_[i]) add_needs(i, owner, pieces[at(owner)][i]);
  }
}

void MultiRing::add_needs(size_t i, int owner, const IntervalSet& piece) {
  const Wanted& wanted = wanted_[at(owner)];
  std::vector<int> nearest(wanted.sets.size()), farthest(wanted.sets.size());
  int begin = 0;
  for (const Wanted::Ranks& some : wanted.ranks) {
    for (int rank = begin; rank < some.end; ++rank) {
      if (rank == owner) continue;
      const int steps = places_[i][at(rank)] - places_[i][at(owner)], distance = steps < 0 ? steps + ranks() : steps;
      int &first = nearest[at(some.set)], &last = farthest[at(some.set)];
      if (first == 0 || distance < first) first = distance;
      last = std::max(last, distance);
    }
    begin = some.end;
  }
  needs_[i].add(piece, wanted.sets, nearest, farthest);
}

MultiRing::Wanted MultiRing::find_wanted(const Problem& problem, int owner) {
  const IntervalSet& own = problem.key_layout.shard(owner);
  Wanted wanted;
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    std::vector<Wanted::Ranks>& ranks = wanted.ranks;
    // Nobody asks what the owner wants, so it may join its neighbours.
    if (rank != owner || ranks.empty()) {
      IntervalSet rows = problem.pairs.keys_needed(problem.query_layout.shard(rank), own);
      if (ranks.empty() || wanted.sets[at(ranks.back().set)] != rows) {
        const int set = static_cast<int>(std::find(wanted.sets.begin(), wanted.sets.end(), rows) - wanted.sets.begin());
        if (at(set) == wanted.sets.size()) wanted.sets.push_back(std::move(rows));
        ranks.push_back({rank + 1, set});
      }
    }
    ranks.back().end = rank + 1;
  }
  return wanted;
}

int MultiRing::wanted_by(int owner, int rank) const {
  const std::vector<Wanted::Ranks>& ranks = wanted_[at(owner)].ranks;
  const auto some = std::upper_bound(ranks.begin(), ranks.end(), rank,
                                     [](int r, const Wanted::Ranks& up_to) { return r < up_to.end; });
  return some->set;
}

}  // namespace weft::methods
