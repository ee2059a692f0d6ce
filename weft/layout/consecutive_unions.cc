#include "weft/layout/consecutive_unions.h"

#include <bit>

namespace weft {

ConsecutiveUnions::ConsecutiveUnions(std::vector<IntervalSet> sets) {
  levels_.push_back(std::move(sets));
  const size_t size = levels_[0].size();
  for (size_t width = 2; width <= size; width *= 2) {
    const std::vector<IntervalSet>& half = levels_.back();
    std::vector<IntervalSet> level(size - width + 1);
    for (size_t i = 0; i < level.size(); ++i) level[i] = unite(half[i], half[i + width / 2]);
    levels_.push_back(std::move(level));
  }
}

Cover ConsecutiveUnions::cover(int first, int count) const {
  Cover cover;
  const auto add = [&](int begin, int length) {
    if (length <= 0) return;
    const int level = std::bit_width(static_cast<unsigned>(length)) - 1;
    const std::vector<IntervalSet>& unions = levels_[static_cast<size_t>(level)];
    const int last = begin + length - (1 << level);
    cover.add(&unions[static_cast<size_t>(begin)]);
    if (last != begin) cover.add(&unions[static_cast<size_t>(last)]);
  };
  const int wrapped = first + count - size();
  if (wrapped > 0) add(0, wrapped);
  add(first, wrapped > 0 ? count - wrapped : count);
  return cover;
}

IntervalSet ConsecutiveUnions::of(int first, int count) const {
  IntervalSet result;
  for (const IntervalSet* set : cover(first, count)) result.unite(*set);
  return result;
}

}  // namespace weft
