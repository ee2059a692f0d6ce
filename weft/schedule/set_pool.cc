#include "weft/schedule/set_pool.h"

namespace weft {

SetId SetPool::compute(Operation operation, SetId a, uint32_t b) {
  const IntervalSet& set = (*this)[a];
  const int64_t group = b;
  IntervalSet result;
  switch (operation) {
    case Operation::none: break;
    case Operation::unite: return intern(weft::unite(set, (*this)[SetId{b}]));
    case Operation::intersect: return intern(weft::intersect(set, (*this)[SetId{b}]));
    case Operation::subtract: return intern(weft::subtract(set, (*this)[SetId{b}]));
    case Operation::includes: return set.includes((*this)[SetId{b}]) ? SetId{b} : SetId::empty;
    case Operation::expand:
      for (const Range& r : set.ranges()) result.append({r.begin * group, r.end * group});
      break;
    case Operation::contract:
      for (const Range& r : set.ranges()) result.unite(Range{r.begin / group, (r.end - 1) / group + 1});
      break;
  }
  return intern(result);
}

}  // namespace weft
