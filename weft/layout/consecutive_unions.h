// Unions of consecutive members of a cyclic list of sets, two set unions each.
//
// "The keys that some rank from a to b still needs" starts from the union of those ranks' shards. A table of the
// unions of 1, 2, 4, ... neighbours makes every such union the union of two entries.
#pragma once

#include <vector>

#include "weft/base/interval_set.h"

namespace weft {

class ConsecutiveUnions {
 public:
  ConsecutiveUnions() = default;
  explicit ConsecutiveUnions(std::vector<IntervalSet> sets);

  int size() const { return levels_.empty() ? 0 : static_cast<int>(levels_[0].size()); }
  const IntervalSet& operator[](int i) const { return levels_[0][static_cast<size_t>(i)]; }
  // Union of `count` sets first, first + 1, ... counted cyclically; 0 <= count <= size().
  IntervalSet of(int first, int count) const;

 private:
  std::vector<std::vector<IntervalSet>> levels_;  // levels_[k][i] = union of sets i .. i + 2^k - 1, not wrapping
};

}  // namespace weft
