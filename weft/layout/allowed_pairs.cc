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
  if (queries.empty() || keys.empty()) return {};
  std::vector<Range> found;
  const auto note = [&](const BandRectangle& band) {
    found.push_back(band.k);
    return true;
  };
  if (side.queries.is_identity()) {
    for_each_band(side, queries, keys, note);
    return IntervalSet(std::span<const Range>(found));
  }
  // Strided queries: a set of many residues is a long list of runs, yet one or two of them usually need everything
  // that any of them can need. So look at the last and the first run before the others, and stop as soon as
  // all keys are found that queries at *every* position between the outermost ones would need.
  std::vector<std::pair<Range, Run>> runs;
  for (const Range& q : queries.ranges()) {
    side.queries.for_each_run(q, [&](Range slots, Run run) { runs.emplace_back(slots, run); });
  }
  if (runs.empty()) return {};
  if (runs.size() > 2) std::swap(runs[1], runs.back());
  Range hull{runs[0].second.base, runs[0].second.base + 1};
  for (const auto& [slots, run] : runs) {
    hull.begin = std::min(hull.begin, run.base);
    hull.end = std::max(hull.end, run.base + (run.count - 1) * run.stride + 1);
  }
  IntervalSet result;
  for (const Range& k : keys.ranges()) {
    found.clear();
    side.keys.for_each_run(k, [&](Range slots, Run run) {
      const Range k_hull{run.base, run.base + (run.count - 1) * run.stride + 1};
      for (const BandRectangle& rule : side.mask.bands_meeting(hull, k_hull)) {
        const Range seen = shrink(cut(rule, hull, k_hull)).k;  // positions; runs thin them out
        const Range i = intersect({ceil_div(seen.begin - run.base, run.stride), ceil_div(seen.end - run.base, run.stride)},
                                  {0, run.count});
        if (!seen.empty() && !i.empty()) found.push_back({slots.begin + i.begin, slots.begin + i.end});
      }
    });
    const int64_t at_most = IntervalSet(std::span<const Range>(found)).size();
    IntervalSet here;
    for (size_t r = 0; r < runs.size() && here.size() < at_most; ++r) {
      found.clear();
      for_each_band(side, runs[r].first, k, note);
      here.unite(IntervalSet(std::span<const Range>(found)));
    }
    result.unite(here);
  }
  return result;
}

}  // namespace weft
