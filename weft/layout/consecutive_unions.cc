#include "weft/layout/consecutive_unions.h"

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

IntervalSet ConsecutiveUnions::of(int first, int count) const {
  if (count <= 0) return {};
  const int wrapped = first + count - size();
  if (wrapped > 0) return unite(of(first, count - wrapped), of(0, wrapped));
  size_t level = 0;
  while ((2 << level) <= count) ++level;
  const int last = first + count - (1 << level);
  return unite(levels_[level][static_cast<size_t>(first)], levels_[level][static_cast<size_t>(last)]);
}

}  // namespace weft
