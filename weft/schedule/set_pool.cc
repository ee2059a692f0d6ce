#include "weft/schedule/set_pool.h"

namespace weft {
namespace {

uint64_t mix(uint64_t h) {
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93u;
  h ^= h >> 32;
  return h;
}

uint64_t hash_of(const IntervalSet& set) {
  uint64_t h = 0x9e3779b97f4a7c15u;
  for (const Range& range : set.ranges()) {
    h = mix(h ^ static_cast<uint64_t>(range.begin)) + 0x9e3779b97f4a7c15u;
    h = mix(h ^ static_cast<uint64_t>(range.end));
  }
  return h;
}

}  // namespace

SetPool::SetPool() : index_(1 << 10, 0), remembered_(kRemembered) { intern({}); }

SetId SetPool::intern(const IntervalSet& set) {
  const uint64_t hash = hash_of(set);
  size_t place = hash & (index_.size() - 1);
  while (index_[place] != 0) {
    const SetId id{index_[place] - 1};
    if (entry(id).hash == hash && entry(id).set == set) return id;
    place = (place + 1) & (index_.size() - 1);
  }
  const size_t id = count();
  if (id % kPage == 0) pages_.push_back(std::make_unique<Entry[]>(kPage));
  pages_.back()[id % kPage] = {set, hash};
  sizes_.push_back(set.size());
  index_[place] = static_cast<uint32_t>(count());
  if (2 * count() > index_.size()) grow();
  return static_cast<SetId>(id);
}

void SetPool::grow() {
  index_.assign(2 * index_.size(), 0);
  for (size_t i = 0; i < count(); ++i) {
    size_t place = entry(static_cast<SetId>(i)).hash & (index_.size() - 1);
    while (index_[place] != 0) place = (place + 1) & (index_.size() - 1);
    index_[place] = static_cast<uint32_t>(i + 1);
  }
}

IntervalSet SetPool::compute(Operation operation, SetId a, uint32_t b) const {
  const IntervalSet& set = (*this)[a];
  const int64_t group = b;
  IntervalSet result;
  switch (operation) {
    case Operation::none: break;
    case Operation::unite: return weft::unite(set, (*this)[SetId{b}]);
    case Operation::intersect: return weft::intersect(set, (*this)[SetId{b}]);
    case Operation::subtract: return weft::subtract(set, (*this)[SetId{b}]);
    case Operation::expand:
      for (const Range& r : set.ranges()) result.append({r.begin * group, r.end * group});
      break;
    case Operation::contract:
      for (const Range& r : set.ranges()) result.unite(Range{r.begin / group, (r.end - 1) / group + 1});
      break;
  }
  return result;
}

}  // namespace weft
