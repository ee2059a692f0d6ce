// Half-open ranges of integers: the unit in which tokens, slots, rows and heads are counted.
#pragma once

#include <algorithm>
#include <cstdint>

namespace weft {

// [begin, end). Empty when end <= begin; empty ranges compare by their bounds.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  bool empty() const { return end <= begin; }
  int64_t size() const { return empty() ? 0 : end - begin; }
  bool contains(int64_t x) const { return begin <= x && x < end; }
  friend bool operator==(const Range&, const Range&) = default;
};

inline Range intersect(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

}  // namespace weft
