#include "weft/layout/allowed_pairs.h"

#include <algorithm>
#include <string>
#include <vector>

#include "weft/base/error.h"

namespace weft {
namespace {

bool is_all(const IntervalSet& set, const Axis& axis) {
  return set.ranges().size() == 1 && set.hull() == Range{0, axis.tokens()};
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
    for (const Range& q : queries.ranges()) {
      for (const BandRectangle& rule : side.mask.bands_meeting(q, keys.hull())) {
        const BandRectangle part = shrink(cut(rule, q, keys.hull()));
        if (part.q.empty()) continue;
        auto k = std::upper_bound(key_ranges.begin(), key_ranges.end(), part.k.begin,
                                  [](int64_t begin, const Range& range) { return begin < range.end; });
        for (; k != key_ranges.end() && k->begin < part.k.end; ++k) {
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

IntervalSet AllowedPairs::keys_needed(const IntervalSet& queries, const IntervalSet& keys) const {
  return keys_needed(*side_, queries, keys);
}

IntervalSet AllowedPairs::queries_needed(const IntervalSet& queries, const IntervalSet& keys) const {
  return keys_needed(*transposed_, keys, queries);
}

IntervalSet AllowedPairs::keys_needed(const Side& side, const IntervalSet& queries, const IntervalSet& keys) {
  IntervalSet result;
  if (queries.empty() || keys.empty()) return result;
  if (side.queries.is_identity() && side.keys.is_identity()) {
    const int64_t all = keys.size();
    for_each_band(side, queries, keys, [&](const BandRectangle& band) {
      result.unite(band.k);
      return result.size() < all;
    });
    return result;
  }
  for (const Range& k : keys.ranges()) result.unite(keys_needed_on_runs(side, queries, k));
  return result;
}

// Strided queries: a set of many residues is a long list of runs, yet one or two of them usually need everything that
// any of them can need. So look at the outermost runs of each interval before the others, and stop as soon as all
// keys are found that queries at *every* position around them would need.
IntervalSet AllowedPairs::keys_needed_on_runs(const Side& side, const IntervalSet& queries, Range keys) {
  const auto at_most = [&](Range positions) {
    IntervalSet bound;
    side.keys.for_each_run(keys, [&](Range slots, Run run) {
      const Range hull{run.base, run.base + (run.count - 1) * run.stride + 1};
      for (const BandRectangle& rule : side.mask.bands_meeting(positions, hull)) {
        const Range seen = shrink(cut(rule, positions, hull)).k;  // positions; the run thins them out
        if (seen.empty()) continue;
        const Range i = intersect({ceil_div(seen.begin - run.base, run.stride), ceil_div(seen.end - run.base, run.stride)},
                                  {0, run.count});
        bound.unite({slots.begin + i.begin, slots.begin + i.end});
      }
    });
    return bound;
  };
  IntervalSet result;
  for (const Range& q : queries.ranges()) {
    const auto [begin, end] = side.queries.runs_in(q);
    if (begin == end) continue;
    const IntervalSet bound = at_most(side.queries.hull_of_runs(begin, end));
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
  return result;
}

}  // namespace weft
