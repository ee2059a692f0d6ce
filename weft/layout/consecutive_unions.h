// Unions of consecutive members of a cyclic list of sets, two set unions each.
//
// "The keys that some rank from a to b still needs" starts from the union of those ranks' shards. A table of the
// unions of 1, 2, 4, ... neighbours makes every such union the union of two entries, four where it wraps. A row of the
// table is made when it is asked for first: where sets are scattered it is long, and methods that send straight to where
// keys are needed never ask.
#pragma once

#include <array>
#include <memory>
#include <mutex>
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

// Immutable, so copies share one table; threads may ask for unions together.
class ConsecutiveUnions {
 public:
  ConsecutiveUnions() = default;
  explicit ConsecutiveUnions(std::vector<IntervalSet> sets);

  int size() const { return table_ ? static_cast<int>(table_->sets.size()) : 0; }
  const IntervalSet& operator[](int i) const { return table_->sets[static_cast<size_t>(i)]; }
  // The `count` sets first, first + 1, ... counted cyclically; 0 <= count <= size().
  Cover cover(int first, int count) const;
  // Their union.
  IntervalSet of(int first, int count) const;

 private:
  struct Row {
    std::once_flag made;
    std::vector<IntervalSet> unions;
  };
  struct Table {
    explicit Table(std::vector<IntervalSet> all);
    // Unions of sets i .. i + 2^level - 1, not wrapping.
    const std::vector<IntervalSet>& unions(int level);

    const std::vector<IntervalSet> sets;
    std::vector<Row> rows;  // rows[k] of 2^(k + 1) sets each
  };
  std::shared_ptr<Table> table_;
};

}  // namespace weft
