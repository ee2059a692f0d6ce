#include "weft/layout/tile_cuts.h"

namespace weft {
namespace {

// Calls found(slot) for the ends of a set that lie inside a tile, until it returns true; then the position of that one.
template <typename F>
std::optional<int64_t> first_cut(const IntervalSet& set, const Axis& axis, int64_t tile, F&& found) {
  for (const Range& range : set.ranges()) {
    for (const int64_t slot : {range.begin, range.end}) {
      if (slot == 0 || slot == axis.tokens() || axis.position(slot) % tile == 0) continue;
      if (axis.position(slot) == axis.position(slot - 1) + 1 && found(slot)) return axis.position(slot);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> keys_cut_inside_tile(const AllowedPairs& pairs, const IntervalSet& queries,
                                            const IntervalSet& keys, int64_t tile) {
  return first_cut(keys, pairs.keys(), tile, [&](int64_t slot) {
    bool both_seen = false;
    for (const Range& range : queries.ranges()) {
      pairs.for_each_band(range, {slot - 1, slot + 1}, [&](const BandRectangle& band) {
        both_seen = band.k.size() == 2 && !intersect(band.q, {slot - band.hi, slot - band.lo}).empty();
        return !both_seen;
      });
      if (both_seen) break;
    }
    return both_seen;
  });
}

std::optional<int64_t> queries_cut_inside_tile(const AllowedPairs& pairs, const IntervalSet& queries,
                                               const IntervalSet& keys, int64_t tile) {
  return first_cut(queries, pairs.queries(), tile, [&](int64_t slot) {
    bool both_see = false;
    for (const Range& range : keys.ranges()) {
      pairs.for_each_band({slot - 1, slot + 1}, range, [&](const BandRectangle& band) {
        both_see = band.q.size() == 2 && !intersect(band.k, {slot + band.lo, slot + band.hi}).empty();
        return !both_see;
      });
      if (both_see) break;
    }
    return both_see;
  });
}

}  // namespace weft
