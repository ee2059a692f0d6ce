// Band rectangles: the one primitive in which weft describes attention masks.
//
// A band rectangle says "query q sees key k when q is in [q.begin, q.end), k is in [k.begin, k.end) and
// lo <= k - q <= hi". Full, causal, sliding-window and per-document masks are lists of them, the form is closed
// under cuts of either axis, and its area is exact in O(1).
//
//   BandRectangle causal{.q = {0, 4}, .k = {0, 4}, .hi = 0};
//   causal.area();                                 // 10
//   cut(causal, {2, 4}, {0, 4}).area();            // 7: the last two rows
#pragma once

#include <cstdint>

#include "weft/base/range.h"

namespace weft {

// No limit on a diagonal. Far outside every k - q of tokens below 2^31, and safe to add offsets to.
inline constexpr int64_t kUnboundedBelow = -(int64_t{1} << 40);
inline constexpr int64_t kUnboundedAbove = int64_t{1} << 40;

// Diagonals lie between kUnboundedBelow and kUnboundedAbove, positions between 0 and 2^31.
struct BandRectangle {
  Range q;                       // queries
  Range k;                       // keys
  int64_t lo = kUnboundedBelow;  // smallest allowed k - q
  int64_t hi = kUnboundedAbove;  // largest allowed k - q

  bool contains(int64_t query, int64_t key) const {
    return q.contains(query) && k.contains(key) && lo <= key - query && key - query <= hi;
  }
  // Number of allowed (query, key) pairs. O(1), exact while both sides are below 2^31.
  int64_t area() const;
  bool empty() const { return area() == 0; }
  friend bool operator==(const BandRectangle&, const BandRectangle&) = default;
};

// The same pairs, restricted to the given queries and keys. The diagonals are untouched: k - q is unchanged by a cut.
inline BandRectangle cut(const BandRectangle& band, Range q, Range k) {
  return {intersect(band.q, q), intersect(band.k, k), band.lo, band.hi};
}

// The smallest ranges that hold the same pairs: every remaining query has a key and every key a query.
// All-empty bands give {}.
inline BandRectangle shrink(const BandRectangle& band) {
  BandRectangle s = band;
  if (s.q.empty() || s.k.empty() || s.lo > s.hi) return {};
  s.q = intersect(s.q, {s.k.begin - s.hi, s.k.end - s.lo});
  if (s.q.empty()) return {};
  s.k = intersect(s.k, {s.q.begin + s.lo, s.q.end + s.hi});
  if (s.k.empty()) return {};
  return s;
}

}  // namespace weft
