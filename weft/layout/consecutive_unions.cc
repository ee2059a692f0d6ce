#include "weft/layout/consecutive_unions.h"

#include <bit>
#include <utility>

namespace weft {

ConsecutiveUnions::Table::Table(std::vector<IntervalSet> all)
    : sets(std::move(all)), rows(static_cast<size_t>(std::bit_width(sets.size()))) {}

const std::vector<IntervalSet>& ConsecutiveUnions::Table::unions(int level) {
  if (level == 0) return sets;
  Row& row = rows[static_cast<size_t>(level - 1)];
  std::call_once(row.made, [&] {
    const std::vector<IntervalSet>& half = unions(level - 1);
    const size_t width = size_t{1} << level;
    row.unions.resize(sets.size() - width + 1);
    for (size_t i = 0; i < row.unions.size(); ++i) row.unions[i] = unite(half[i], half[i + width / 2]);
  });
  return row.unions;
}

ConsecutiveUnions::ConsecutiveUnions(std::vector<IntervalSet> sets)
    : table_(std::make_shared<Table>(std::move(sets))) {}

Cover ConsecutiveUnions::cover(int first, int count) const {
  Cover cover;
  const auto add = [&](int begin, int length) {
    if (length <= 0) return;
    const int level = std::bit_width(static_cast<unsigned>(length)) - 1;
    const std::vector<IntervalSet>& unions = table_->unions(level);
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
