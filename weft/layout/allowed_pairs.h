// The mask seen through the axes of a layout: every question a schedule asks about (query, key) pairs.
//
// All sets are slots; all answers are exact. Methods ask what a rank needs, the verifier asks how many allowed pairs
// two sets share, and the executor asks for the band rectangles to hand to a kernel.
//
//   AllowedPairs pairs(mask, layout.axis(), layout.axis());
//   pairs.area(queries, keys);                      // allowed pairs among them
//   pairs.keys_needed(queries, keys);               // the keys that at least one of the queries sees
#pragma once

#include <cstdint>
#include <memory>

#include "weft/base/interval_set.h"
#include "weft/layout/axis.h"
#include "weft/layout/consecutive_unions.h"
#include "weft/mask/mask.h"

namespace weft {

class AllowedPairs {
 public:
  // Throws Error(usage) unless the axes are as long as the mask's.
  AllowedPairs(Mask mask, Axis queries, Axis keys);

  const Mask& mask() const { return side_->mask; }
  const Axis& queries() const { return side_->queries; }
  const Axis& keys() const { return side_->keys; }

  // Number of allowed pairs among the given slots.
  int64_t area(const IntervalSet& queries, const IntervalSet& keys) const;
  // Whether there is an allowed pair among them.
  bool any(const IntervalSet& queries, const IntervalSet& keys) const;
  // Those of `keys` that at least one of `queries` sees.
  IntervalSet keys_needed(const IntervalSet& queries, const IntervalSet& keys) const {
    return keys_needed(*side_, Cover(&queries), keys);
  }
  IntervalSet keys_needed(const Cover& queries, const IntervalSet& keys) const {
    return keys_needed(*side_, queries, keys);
  }
  // Those of `queries` that see at least one of `keys`.
  IntervalSet queries_needed(const IntervalSet& queries, const IntervalSet& keys) const {
    return keys_needed(*transposed_, Cover(&keys), queries);
  }
  IntervalSet queries_needed(const IntervalSet& queries, const Cover& keys) const {
    return keys_needed(*transposed_, keys, queries);
  }

  // Calls f(BandRectangle) with disjoint, non-empty bands in slot numbers (q and k are slots, lo and hi bound the
  // difference of slots) that together are the allowed pairs of two slot intervals. f returns false to stop early.
  template <typename F>
  void for_each_band(Range queries, Range keys, F&& f) const;

 private:
  struct Side {
    Mask mask;
    Axis queries;
    Axis keys;
  };
  static IntervalSet keys_needed(const Side& side, const Cover& queries, const IntervalSet& keys);
  static void add_keys_seen(const Side& side, Range positions, Range keys, IntervalSet& result);
  // Adds what `queries` need of `keys` to `result`.
  static void add_keys_needed_on_runs(const Side& side, const IntervalSet& queries, Range keys, IntervalSet& result);
  template <typename F>
  static bool for_each_band(const Side& side, Range queries, Range keys, F&& f);
  template <typename F>
  static bool for_each_band(const Side& side, const IntervalSet& queries, const IntervalSet& keys, F&& f);

  std::shared_ptr<const Side> side_;
  std::shared_ptr<const Side> transposed_;  // queries and keys exchanged, for queries_needed
};

// Floor and ceiling of a / b for b > 0 and any sign of a.
inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

namespace internal {

// Which members of a run lie at the given positions.
inline Range indices_in(const Run& run, Range positions) {
  if (run.stride == 1) return intersect({positions.begin - run.base, positions.end - run.base}, {0, run.count});
  return intersect({ceil_div(positions.begin - run.base, run.stride), ceil_div(positions.end - run.base, run.stride)},
                   {0, run.count});
}

// The band `rule` among two runs of positions, as bands in slots that begin at q_slot and k_slot.
// Equal strides give one band; unequal ones give one per query.
template <typename F>
bool for_each_band_of_runs(const BandRectangle& rule, int64_t q_slot, Run q, int64_t k_slot, Run k, F&& f) {
  if (q.count == 1) q.stride = k.stride;
  if (k.count == 1) k.stride = q.stride;
  const Range i = indices_in(q, rule.q);
  const Range j = indices_in(k, rule.k);
  if (i.empty() || j.empty()) return true;
  if (q.stride == k.stride) {
    // k - q = (k.base - q.base) + stride * (j - i)
    const int64_t shift = k.base - q.base;
    const int64_t to_slots = k_slot - q_slot;
    const BandRectangle band = shrink({.q = {q_slot + i.begin, q_slot + i.end},
                                       .k = {k_slot + j.begin, k_slot + j.end},
                                       .lo = ceil_div(rule.lo - shift, q.stride) + to_slots,
                                       .hi = floor_div(rule.hi - shift, q.stride) + to_slots});
    return band.q.empty() || f(band);
  }
  for (int64_t row = i.begin; row < i.end; ++row) {
    const int64_t position = q.base + row * q.stride;
    const Range seen = intersect(j, indices_in(k, {position + rule.lo, position + rule.hi + 1}));
    if (seen.empty()) continue;
    if (!f(BandRectangle{.q = {q_slot + row, q_slot + row + 1}, .k = {k_slot + seen.begin, k_slot + seen.end}})) {
      return false;
    }
  }
  return true;
}

}  // namespace internal

template <typename F>
bool AllowedPairs::for_each_band(const Side& side, Range queries, Range keys, F&& f) {
  if (side.queries.is_identity() && side.keys.is_identity()) {
    for (const BandRectangle& rule : side.mask.bands_meeting(queries, keys)) {
      const BandRectangle band = shrink(cut(rule, queries, keys));
      if (!band.q.empty() && !f(band)) return false;
    }
    return true;
  }
  bool go_on = true;
  side.queries.for_each_run(queries, [&](Range q_slots, Run q) {
    if (!go_on) return;
    side.keys.for_each_run(keys, [&](Range k_slots, Run k) {
      if (!go_on) return;
      const Range q_hull{q.base, q.base + (q.count - 1) * q.stride + 1};
      const Range k_hull{k.base, k.base + (k.count - 1) * k.stride + 1};
      for (const BandRectangle& rule : side.mask.bands_meeting(q_hull, k_hull)) {
        go_on = internal::for_each_band_of_runs(rule, q_slots.begin, q, k_slots.begin, k, f);
        if (!go_on) return;
      }
    });
  });
  return go_on;
}

template <typename F>
void AllowedPairs::for_each_band(Range queries, Range keys, F&& f) const {
  for_each_band(*side_, queries, keys, f);
}

}  // namespace weft
