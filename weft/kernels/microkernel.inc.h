// The two micro-kernels: a kPanel x kStrip tile of C in registers, all of its products in one pass.
#pragma once

namespace weft::kernels {
namespace {

// C tile in registers: kPanel rows of two vectors.
struct Tile {
  Vec row[kPanel][2];
};

WEFT_INLINE void clear(Tile& c) {
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) c.row[r][0] = c.row[r][1] = Vec{};
}
WEFT_INLINE void load_tile(Tile& c, const float* p) {
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    c.row[r][0] = load(p + r * kStrip);
    c.row[r][1] = load(p + r * kStrip + kLanes);
  }
}
WEFT_INLINE void store_tile(const Tile& c, float* p) {
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    store(p + r * kStrip, c.row[r][0]);
    store(p + r * kStrip + kLanes, c.row[r][1]);
  }
}

// One step of the sum: C[r][j] += a[r * a_stride] * b[j].
WEFT_INLINE void multiply_step(Tile& c, const float* a, int a_stride, const float* b) {
  const Vec b0 = load(b), b1 = load(b + kLanes);
  WEFT_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    const Vec x = broadcast(a[r * a_stride]);
    c.row[r][0] = fma(x, b0, c.row[r][0]);
    c.row[r][1] = fma(x, b1, c.row[r][1]);
  }
}

// Two sums of such steps.
//   multiply        C[r][j] += sum over t < depth of a[t][r] * b[t][j]: a is a panel, b a strip.
//   multiply_lanes  C[r][j] += sum over t < kStrip of a[r][t] * b[t][j]: a is a tile as scores are stored, so its
//                   reduction index is the query lane; b is a strip of kStrip rows.
#if !defined(WEFT_AVX2_MICROKERNEL)
// Not unrolled over t: one round keeps the units busy, and with several in sight gcc 12 moves accumulators to the stack.
WEFT_INLINE void multiply(Tile& c, const float* a, const float* b, int64_t depth) {
  for (int64_t t = 0; t < depth; ++t) multiply_step(c, a + t * kPanel, 1, b + t * kStrip);
}
WEFT_INLINE void multiply_lanes(Tile& c, const float* a, const float* b) {
  for (int t = 0; t < kStrip; ++t) multiply_step(c, a + t, kStrip, b + t * kStrip);
}
#endif

}  // namespace
}  // namespace weft::kernels

#if defined(WEFT_AVX2_MICROKERNEL)
#include "weft/kernels/microkernel_avx2.inc.h"
#endif
