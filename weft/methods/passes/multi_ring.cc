#include "weft/methods/passes/multi_ring.h"

#include <algorithm>
#include <numeric>

#include "weft/methods/passes/pieces.h"

namespace weft::methods {

PieceNeeds::PieceNeeds(const IntervalSet& piece, const std::vector<IntervalSet>& wanted,
                       const std::vector<int>& nearest, const std::vector<int>& farthest, int ranks)
    : ranks_(ranks), sets_(1, NamedSet({})) {
  for (const IntervalSet& rows : wanted) wanted_.push_back(number_of(intersect(rows, piece)));
  so_far_ = grow(nearest);
  std::vector<int> places_left = farthest;
  for (int& distance : places_left) distance = distance == 0 ? 0 : ranks - distance;
  ahead_ = grow(places_left);
}

int PieceNeeds::number_of(const IntervalSet& rows) {
  const auto known = std::find_if(sets_.begin(), sets_.end(), [&](const NamedSet& s) { return s.intervals() == rows; });
  const auto number = static_cast<int>(known - sets_.begin());
  if (known == sets_.end()) sets_.emplace_back(rows);
  return number;
}

std::vector<PieceNeeds::Entry> PieceNeeds::grow(const std::vector<int>& begin) {
  std::vector<size_t> order(begin.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return begin[a] < begin[b]; });
  std::vector<Entry> entries;
  for (size_t k : order) {
    const int before = entries.empty() ? 0 : entries.back().set;
    if (begin[k] == 0 || wanted_[k] == before) continue;
    const int set = number_of(unite(rows(before).intervals(), rows(wanted_[k]).intervals()));
    if (set != before) entries.push_back({begin[k], set});
  }
  return entries;
}

MultiRing::MultiRing(const Problem& problem, std::vector<Tour> rings) : rings_(std::move(rings)) {
  for (const Tour& tour : rings_) {
    std::vector<int>& place = places_.emplace_back(tour.size());
    for (size_t i = 0; i < tour.size(); ++i) place[at(tour[i])] = static_cast<int>(i);
  }
  needs_.assign(rings_.size(), std::vector<PieceNeeds>(at(ranks())));
  std::vector<int> set_of(at(ranks()));  // by rank: what it wants
  for (int owner = 0; owner < ranks(); ++owner) {
    const Wanted& wanted = wanted_.emplace_back(find_wanted(problem, owner));
    int rank = 0;
    for (const Wanted::Ranks& some : wanted.ranks) {
      while (rank < some.end) set_of[at(rank++)] = some.set;
    }
    const std::vector<IntervalSet> pieces =
        cut_in_pieces(problem.key_layout.shard(owner), this->rings(), problem.unit_of_cuts());
    for (size_t i = 0; i < rings_.size(); ++i) {
      std::vector<int> nearest(wanted.sets.size()), farthest(wanted.sets.size());
      const size_t own_place = at(places_[i][at(owner)]);
      size_t place = own_place;
      for (int distance = 1; distance < ranks(); ++distance) {
        if (++place == rings_[i].size()) place = 0;
        const size_t set = at(set_of[at(rings_[i][place])]);
        if (nearest[set] == 0) nearest[set] = distance;
        farthest[set] = distance;
      }
      needs_[i][own_place] = PieceNeeds(pieces[i], wanted.sets, nearest, farthest, ranks());
    }
  }
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
