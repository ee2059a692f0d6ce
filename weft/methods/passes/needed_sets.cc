#include "weft/methods/passes/needed_sets.h"

#include <utility>

namespace weft::methods {

NeededSets::NeededSets(int size, Growing growing, Query query) : query_(std::move(query)) {
  rows_.resize(static_cast<size_t>(size));
  for (int owner = 0; owner < size; ++owner) {
    std::vector<Run>& row = rows_[static_cast<size_t>(owner)];
    for (int begin = 0; begin < size; begin = row.back().end) {
      if (row.size() == kMostRuns) {
        row.clear();
        break;
      }
      IntervalSet set = query_(owner, begin);
      const int end = end_of_run(owner, begin, size, growing, set);
      row.push_back({end, NamedSet(std::move(set))});
    }
  }
}

int NeededSets::end_of_run(int owner, int begin, int size, Growing growing, const IntervalSet& set) const {
  int end = begin + 1;
  if (growing == Growing::no) {
    while (end < size && query_(owner, end) == set) ++end;
    return end;
  }
  int differs = size;  // `end - 1` has the set, `differs` has not
  if (query_(owner, size - 1) == set) return size;
  while (end < differs) {
    const int middle = end + (differs - end) / 2;
    if (query_(owner, middle) == set) {
      end = middle + 1;
    } else {
      differs = middle;
    }
  }
  return end;
}

}  // namespace weft::methods
