// Unions of consecutive members of a cyclic list of sets, two set unions each.
//
// "The keys that some rank from a to b still needs" starts from the union of those ranks' shards. A table of the
// unions of 1, 2, 4, ... neighbours makes every such union the union of two entries, four where it wraps.
#pragma once

#include <array>
#include <vector>

#include "weft/base/interval_set.h"

namespace weft {

// A few sets that stand for their union; they may overlap. Cheaper than the union where a look at one of them often
// decides. Points into the table it comes from.
class Cover {
 public:
  Cover() = default;
  explicit Cover(const IntervalSet* set) { add(set); }
  void add(const IntervalSet* set) { sets_[size_++] = set; }
  const IntervalSet* const* begin() const { return sets_.data(); }
  const IntervalSet* const* end() const { return sets_.data() + size_; }
  bool empty() const { return size_ == 0; }

 private:
  std::array<const IntervalSet*, 4> sets_;
  size_t size_ = 0;
};

class ConsecutiveUnions {
 public:
  ConsecutiveUnions() = default;
  explicit ConsecutiveUnions(std::vector<IntervalSet> sets);

  int size() const { return levels_.empty() ? 0 : static_cast<int>(levels_[0].size()); }
  const IntervalSet& operator[](int i) const { return levels_[0][static_cast<size_t>(i)]; }
  // The `count` sets first, first + 1, ... counted cyclically; 0 <= count <= size().
  Cover cover(int first, int count) const;
  // Their union.
  IntervalSet of(int first, int count) const;

 private:
  std::vector<std::vector<IntervalSet>> levels_;  // levels_[k][i] = union of sets i .. i + 2^k - 1, not wrapping
};

}  // namespace weft
