#include "weft/layout/allowed_pairs.h"

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "weft/base/error.h"

namespace weft {
namespace {

bool is_all(const IntervalSet& set, const Axis& axis) {
  return set.ranges().size() == 1 && set.hull() == Range{0, axis.tokens()};
}

// The first of some ranges that ends behind `begin`. Few ranges are the rule, documents the exception.
const Range* first_ending_after(std::span<const Range> ranges, int64_t begin) {
  constexpr size_t kFew = 8;
  const Range* range = ranges.data();
  const Range* const end = range + ranges.size();
  if (ranges.size() > kFew) {
    return std::upper_bound(range, end, begin, [](int64_t b, const Range& r) { return b < r.end; });
  }
  while (range != end && range->end <= begin) ++range;
  return range;
}

// Smallest range that holds the positions of some slots.
Range positions_of(const Axis& axis, const Cover& slots) {
  Range hull{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  const auto add = [&](Range part) {
    if (!part.empty()) hull = {std::min(hull.begin, part.begin), std::max(hull.end, part.end)};
  };
  for (const IntervalSet* set : slots) {
    if (axis.is_identity()) {
      add(intersect(set->hull(), {0, axis.tokens()}));
    } else {
      for (const Range& range : set->ranges()) add(axis.positions_of(range));
    }
  }
  return hull;
}

}  // namespace

AllowedPairs::AllowedPairs(Mask mask, Axis queries, Axis keys) {
  if (mask.queries() != queries.tokens() || mask.keys() != keys.tokens()) {
    throw Error(ErrorCode::usage, "a mask of " + std::to_string(mask.queries()) + " queries x " +
                                      std::to_string(mask.keys()) + " keys does not fit layouts of " +
                                      std::to_string(queries.tokens()) + " and " +
                                      std::to_string(keys.tokens()) + " tokens");
  }
  Mask flipped = mask.transposed();
  transposed_ = std::make_shared<const Side>(Side{std::move(flipped), keys, queries});
  side_ = std::make_shared<const Side>(Side{std::move(mask), std::move(queries), std::move(keys)});
}

// For sets. Packed documents make sets of many intervals, of which few pairs have anything in common: so go from the
// queries to the bands that they meet, and from there to the keys, instead of trying every pair of intervals.
template <typename F>
bool AllowedPairs::for_each_band(const Side& side, const IntervalSet& queries, const IntervalSet& keys, F&& f) {
  const auto key_ranges = keys.ranges();
  if (side.queries.is_identity() && side.keys.is_identity()) {
    const Range hull = keys.hull();
    const Range* const end = key_ranges.data() + key_ranges.size();
    for (const Range& q : queries.ranges()) {
      for (const BandRectangle& rule : side.mask.bands_meeting(q, hull)) {
        const BandRectangle part = shrink(cut(rule, q, hull));
        if (part.q.empty()) continue;
        for (const Range* k = first_ending_after(key_ranges, part.k.begin); k != end && k->begin < part.k.end; ++k) {
          const BandRectangle band = shrink(cut(part, part.q, *k));
          if (!band.q.empty() && !f(band)) return false;
        }
      }
    }
    return true;
  }
  for (const Range& q : queries.ranges()) {
    for (const Range& k : key_ranges) {
      if (!for_each_band(side, q, k, f)) return false;
    }
  }
  return true;
}

int64_t AllowedPairs::area(const IntervalSet& queries, const IntervalSet& keys) const {
  if (is_all(queries, side_->queries) && is_all(keys, side_->keys)) return mask().area();
  int64_t sum = 0;
  for_each_band(*side_, queries, keys, [&](const BandRectangle& band) {
    sum += band.area();
    return true;
  });
  return sum;
}

bool AllowedPairs::any(const IntervalSet& queries, const IntervalSet& keys) const {
  // Bands come shrunk, so one that is called for holds a pair.
  return !for_each_band(*side_, queries, keys, [](const BandRectangle&) { return false; });
}

IntervalSet AllowedPairs::keys_needed(const Side& side, const Cover& queries, const IntervalSet& keys) {
  IntervalSet result;
  const std::vector<BandRectangle>& bands = side.mask.bands();
  const bool one_band = bands.size() == 1 && bands[0].q == Range{0, side.queries.tokens()};
  const bool open_below = one_band && bands[0].lo == kUnboundedBelow;
  const bool open_above = one_band && bands[0].hi == kUnboundedAbove;
  if (open_below || open_above) {  // causal, full: the last query, or the first, sees all that any of them sees
    const Range all = positions_of(side.queries, queries);
    if (all.empty()) return result;
    const int64_t one = open_below ? all.end - 1 : all.begin;
    const Range seen = shrink(cut(bands[0], {one, one + 1}, bands[0].k)).k;
    for (const Range& k : keys.ranges()) {
      side.keys.for_each_run(k, [&](Range slots, Run run) {
        const Range i = internal::indices_in(run, seen);
        result.append({slots.begin + i.begin, slots.begin + i.end});
      });
    }
    return result;
  }
  const int64_t all = keys.size();
  const auto collect = [&](const BandRectangle& band) {
    result.unite(band.k);
    return result.size() < all;
  };
  for (const IntervalSet* set : queries) {
    if (side.queries.is_identity() && side.keys.is_identity()) {
      if (!for_each_band(side, *set, keys, collect)) break;
    } else {
      for (const Range& k : keys.ranges()) add_keys_needed_on_runs(side, *set, k, result);
      if (result.size() == all) break;
    }
  }
  return result;
}

// Adds the slots of `keys` that are seen when queries are at every one of these positions.
void AllowedPairs::add_keys_seen(const Side& side, Range positions, Range keys, IntervalSet& result) {
  side.keys.for_each_run(keys, [&](Range slots, Run run) {
    const Range hull{run.base, run.base + (run.count - 1) * run.stride + 1};
    for (const BandRectangle& rule : side.mask.bands_meeting(positions, hull)) {
      const Range seen = shrink(cut(rule, positions, hull)).k;  // positions; the run thins them out
      if (seen.empty()) continue;
      const Range i = internal::indices_in(run, seen);
      result.unite({slots.begin + i.begin, slots.begin + i.end});
    }
  });
}

// Strided queries: a set of many residues is a long list of runs, yet one or two of them usually need everything that
// any of them can need. So look at the outermost runs of each interval before the others, and stop as soon as all
// keys are found that queries at *every* position around them would need.
void AllowedPairs::add_keys_needed_on_runs(const Side& side, const IntervalSet& queries, Range keys,
                                           IntervalSet& result) {
  for (const Range& q : queries.ranges()) {
    const auto [begin, end] = side.queries.runs_in(q);
    if (begin == end) continue;
    IntervalSet bound;
    add_keys_seen(side, side.queries.hull_of_runs(begin, end), keys, bound);
    if (result.includes(bound)) continue;
    const auto look = [&](size_t run) {
      for_each_band(side, side.queries.part_of(run, q).slots, keys, [&](const BandRectangle& band) {
        result.unite(band.k);
        return true;
      });
    };
    look(end - 1);
    if (end - begin > 1) look(begin);
    for (size_t run = begin + 1; run + 1 < end && !result.includes(bound); ++run) look(run);
  }
}

}  // namespace weft
