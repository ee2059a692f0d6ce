// The two micro-kernels: a kPanel x kStrip tile of C in registers, all of its products in one pass.
#pragma once

namespace weft::kernels {
namespace {

// Rows of a C tile in registers, of a few vectors each.
template <int kRows, int kVecs = 2>
struct TileRows {
  Vec row[kRows][kVecs];
};
using Tile = TileRows<kPanel>;

WEFT_INLINE void clear(Tile& c) {
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) c.row[r][0] = c.row[r][1] = Vec{};
}
template <int kRows>
WEFT_INLINE void load_tile(TileRows<kRows>& c, const float* p) {
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    c.row[r][0] = load(p + r * kStrip);
    c.row[r][1] = load(p + r * kStrip + kLanes);
  }
}
template <int kRows>
WEFT_INLINE void store_tile(const TileRows<kRows>& c, float* p) {
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    store(p + r * kStrip, c.row[r][0]);
    store(p + r * kStrip + kLanes, c.row[r][1]);
  }
}

// C[r][j] += sum over t < depth of a[r * a_row + t * a_step] * b[t * b_step + j]; strides in elements.
// Not unrolled over t: one round keeps the units busy, and with several in sight gcc 12 moves accumulators to the stack.
template <int kRows, int kVecs>
WEFT_INLINE void multiply_rows(TileRows<kRows, kVecs>& c, const float* a, int64_t a_row, int64_t a_step, const float* b,
                               int64_t b_step, int64_t depth) {
  for (int64_t t = 0; t < depth; ++t) {
    Vec right[kVecs];
    WEFT_UNROLL
    for (int i = 0; i < kVecs; ++i) right[i] = load(b + i * kLanes);
    WEFT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec x = broadcast(a[r * a_row]);
      WEFT_UNROLL
      for (int i = 0; i < kVecs; ++i) c.row[r][i] = fma(x, right[i], c.row[r][i]);
    }
    a += a_step;
    b += b_step;
  }
}

// Two such sums.
//   multiply        C[r][j] += sum over t < depth of a[t][r] * b[t][j]: a is a panel, b a strip.
//   multiply_lanes  C[r][j] += sum over t < kStrip of a[r][t] * b[t][j]: a is a tile as scores are stored, so its
//                   reduction index is the query lane; b is a strip of kStrip rows.
#if !defined(WEFT_AVX2_MICROKERNEL)
WEFT_INLINE void multiply(Tile& c, const float* a, const float* b, int64_t depth) {
  multiply_rows(c, a, 1, kPanel, b, kStrip, depth);
}
WEFT_INLINE void multiply_lanes(Tile& c, const float* a, const float* b) {
  multiply_rows(c, a, kStrip, 1, b, kStrip, kStrip);
}
#endif

}  // namespace
}  // namespace weft::kernels

#if defined(WEFT_AVX2_MICROKERNEL)
#include "weft/kernels/microkernel_avx2.inc.h"
#endif

namespace weft::kernels {
namespace {

// c[r][j] += a panel times a strip, c in memory, for the first rows of the panel: of those that pad the last panel no
// more than a third of a panel is multiplied.
WEFT_INLINE void add_product(float* c, const float* a, const float* b, int64_t depth, int64_t rows) {
  constexpr int kThird = kPanel % 3 == 0 ? kPanel / 3 : kPanel;
  const auto add_first = [&](auto tile) {
    load_tile(tile, c);
    multiply_rows(tile, a, 1, kPanel, b, kStrip, depth);
    store_tile(tile, c);
  };
  if (rows <= kThird && kThird < kPanel) return add_first(TileRows<kThird>());
  if (rows <= 2 * kThird && kThird < kPanel) return add_first(TileRows<2 * kThird>());
  Tile tile;
  load_tile(tile, c);
  multiply(tile, a, b, depth);
  store_tile(tile, c);
}

}  // namespace
}  // namespace weft::kernels
