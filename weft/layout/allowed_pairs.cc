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

// The first of some sorted ranges for which `before` does not hold. Few ranges are the rule, documents the exception.
template <typename F>
const Range* first_not(std::span<const Range> ranges, F&& before) {
  constexpr size_t kFew = 8;
  const Range* range = ranges.data();
  const Range* const end = range + ranges.size();
  if (ranges.size() > kFew) return std::partition_point(range, end, before);
  while (range != end && before(*range)) ++range;
  return range;
}

const Range* first_ending_after(std::span<const Range> ranges, int64_t begin) {
  return first_not(ranges, [&](const Range& range) { return range.end <= begin; });
}

const Range* first_beginning_from(std::span<const Range> ranges, int64_t end) {
  return first_not(ranges, [&](const Range& range) { return range.begin < end; });
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

// Under a band without a limit below (causal, full) the last of some queries sees all that any of them sees; without a
// limit above, the first does.
bool is_open(const BandRectangle& band) { return band.lo == kUnboundedBelow || band.hi == kUnboundedAbove; }
Range deciding(const BandRectangle& band, Range queries) {
  if (band.lo == kUnboundedBelow) return {queries.end - 1, queries.end};
  return {queries.begin, queries.begin + 1};
}

// Calls f(Range) with queries of the band that together see all keys that `queries` see there.
template <typename F>
void for_each_deciding(const BandRectangle& band, const Cover& queries, F&& f) {
  Range hull{band.q.end, band.q.begin};  // of those in the band
  for (const IntervalSet* set : queries) {
    const Range* q = first_ending_after(set->ranges(), band.q.begin);
    const Range* const end = set->ranges().data() + set->ranges().size();
    if (is_open(band)) {
      const Range* const behind = first_beginning_from({q, end}, band.q.end);
      if (q == behind) continue;
      hull = {std::min(hull.begin, std::max(q->begin, band.q.begin)),
              std::max(hull.end, std::min(std::prev(behind)->end, band.q.end))};
    } else {
      for (; q != end && q->begin < band.q.end; ++q) f(intersect(*q, band.q));
    }
  }
  if (!hull.empty()) f(deciding(band, hull));
}

}  // namespace

AllowedPairs::AllowedPairs(Mask mask, Axis queries, Axis keys) {
  if (mask.queries() != queries.tokens() || mask.keys() != keys.tokens()) {
    throw Error(ErrorCode::usage, "a mask of " + std::to_string(mask.queries()) + " queries x " +
                                      std::to_string(mask.keys()) + " keys does not fit layouts of " +
                                      std::to_string(queries.tokens()) + " and " + std::to_string(keys.tokens()) +
                                      " tokens");
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
  const Range hull = positions_of(side.queries, queries);
  if (hull.empty() || keys.empty()) return result;
  const std::vector<BandRectangle>& bands = side.mask.bands();
  if (side.queries.is_identity() && side.keys.is_identity()) {
    const auto add = [&](const BandRectangle& band, Range q) {
      const Range seen = shrink(cut(band, q, band.k)).k;
      const Range* k = first_ending_after(keys.ranges(), seen.begin);
      const Range* const end = keys.ranges().data() + keys.ranges().size();
      for (; k != end && k->begin < seen.end; ++k) result.unite(intersect(*k, seen));
    };
    size_t ranges = 0;
    for (const IntervalSet* set : queries) ranges += set->ranges().size();
    const auto meeting = side.mask.bands_meeting(hull, keys.hull());
    if (meeting.size() > 4 * ranges) {  // scattered over many documents: most have none of the queries
      for (const IntervalSet* set : queries) {
        for (const Range& q : set->ranges()) {
          for (const BandRectangle& band : side.mask.bands_meeting(q, keys.hull())) add(band, intersect(band.q, q));
        }
      }
      return result;
    }
    for (const BandRectangle& band : meeting) {
      for_each_deciding(band, queries, [&](Range q) { add(band, q); });
    }
  } else if (bands.size() == 1 && bands[0].q == Range{0, side.queries.tokens()} && is_open(bands[0])) {
    const Range seen = shrink(cut(bands[0], deciding(bands[0], hull), bands[0].k)).k;
    for (const Range& k : keys.ranges()) {
      side.keys.for_each_run(k, [&](Range slots, Run run) {
        const Range i = internal::indices_in(run, seen);
        result.append({slots.begin + i.begin, slots.begin + i.end});
      });
    }
  } else {
    const int64_t all = keys.size();
    for (const IntervalSet* set : queries) {
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
