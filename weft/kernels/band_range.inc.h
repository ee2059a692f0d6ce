// Which keys a strip of queries sees: the band in tile coordinates.
#pragma once

namespace weft::kernels {
namespace {

// Keys of [tile_begin, tile_end) for the queries [first, last]: [begin, end) are seen by at least
// one of them (for a band without holes, all between the first and the last), [full_begin,
// full_end) by every one.
struct KeyRange {
  int64_t begin, end, full_begin, full_end;
};
WEFT_INLINE KeyRange key_range(int64_t first, int64_t last, int64_t lo, int64_t hi, int64_t tile_begin,
                               int64_t tile_end) {
  return {larger(tile_begin, first + lo), smaller(tile_end, last + hi + 1), larger(tile_begin, last + lo),
          smaller(tile_end, first + hi + 1)};
}

// Lanes (queries first + lane number) that may see `key`.
struct LaneMask {
  IVec low, high;
};
WEFT_INLINE int32_t clamp_lane(int64_t x) { return (int32_t)smaller(larger(x, -1), kStrip); }
WEFT_INLINE LaneMask lane_mask(int64_t key, int64_t first, int64_t lo, int64_t hi, bool exists) {
  // key - hi <= query <= key - lo
  const IVec from = broadcast_int(exists ? clamp_lane(key - hi - first) : kStrip);
  const IVec to = broadcast_int(clamp_lane(key - lo - first));
  const IVec low = lane_numbers(), high = low + kLanes;
  return {(IVec)(low >= from) & (IVec)(low <= to), (IVec)(high >= from) & (IVec)(high <= to)};
}

// Scores that the band excludes, and those of keys from `end` on, become -inf.
WEFT_INLINE void mask_tile(Tile& c, int64_t key, int64_t first_query, int64_t lo, int64_t hi, int64_t end) {
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    const LaneMask mask = lane_mask(key + r, first_query, lo, hi, key + r < end);
    c.row[r][0] = select(mask.low, c.row[r][0], broadcast(-kInfinity));
    c.row[r][1] = select(mask.high, c.row[r][1], broadcast(-kInfinity));
  }
}

}  // namespace
}  // namespace weft::kernels
