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
    const Entry& entry = sets_[index_[place] - 1];
    if (entry.hash == hash && entry.set == set) return static_cast<SetId>(index_[place] - 1);
    place = (place + 1) & (index_.size() - 1);
  }
  sets_.push_back({set, set.size(), hash});
  index_[place] = static_cast<uint32_t>(sets_.size());
  if (2 * sets_.size() > index_.size()) grow();
  return static_cast<SetId>(sets_.size() - 1);
}

void SetPool::grow() {
  index_.assign(2 * index_.size(), 0);
  for (size_t i = 0; i < sets_.size(); ++i) {
    size_t place = sets_[i].hash & (index_.size() - 1);
    while (index_[place] != 0) place = (place + 1) & (index_.size() - 1);
    index_[place] = static_cast<uint32_t>(i + 1);
  }
}

template <typename F>
SetId SetPool::remember(Operation operation, SetId a, int64_t b, F&& compute) {
  const uint64_t key = (static_cast<uint64_t>(a) << 32) ^ (static_cast<uint64_t>(b) << 3) ^ static_cast<uint64_t>(operation);
  Remembered& entry = remembered_[mix(key) & (kRemembered - 1)];
  if (entry.operation == operation && entry.a == a && entry.b == b) return entry.result;
  const SetId result = intern(compute());
  entry = {operation, a, result, b};
  return result;
}

SetId SetPool::unite(SetId a, SetId b) {
  if (a == b || b == SetId::empty) return a;
  if (a == SetId::empty) return b;
  return remember(Operation::unite, a, static_cast<int64_t>(b), [&] { return weft::unite((*this)[a], (*this)[b]); });
}

SetId SetPool::intersect(SetId a, SetId b) {
  if (a == b) return a;
  if (a == SetId::empty || b == SetId::empty) return SetId::empty;
  return remember(Operation::intersect, a, static_cast<int64_t>(b),
                  [&] { return weft::intersect((*this)[a], (*this)[b]); });
}

SetId SetPool::subtract(SetId a, SetId b) {
  if (a == b || a == SetId::empty) return SetId::empty;
  if (b == SetId::empty) return a;
  return remember(Operation::subtract, a, static_cast<int64_t>(b),
                  [&] { return weft::subtract((*this)[a], (*this)[b]); });
}

SetId SetPool::expand(SetId heads, int64_t group) {
  if (group == 1) return heads;
  return remember(Operation::expand, heads, group, [&] {
    IntervalSet result;
    for (const Range& r : (*this)[heads].ranges()) result.append({r.begin * group, r.end * group});
    return result;
  });
}

SetId SetPool::contract(SetId heads, int64_t group) {
  if (group == 1) return heads;
  return remember(Operation::contract, heads, group, [&] {
    IntervalSet result;
    for (const Range& r : (*this)[heads].ranges()) result.unite(Range{r.begin / group, (r.end - 1) / group + 1});
    return result;
  });
}

}  // namespace weft
