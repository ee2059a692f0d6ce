// The engine of processors with AVX512-BF16: dot products of pairs, whose tiles are those of AMX (matrix_ops.h).
#pragma once

#include "weft/kernels/matrix/narrow_avx512.inc.h"

namespace weft::kernels {
namespace {

// Rows of sums in registers, of two vectors each: sixteen sums hide the latency of a dot product.
inline constexpr int kDotRows = 8;
using DotSums = TileRows<kDotRows>;

WEFT_INLINE Vec dot_pairs(Vec sum, __m512i a, __m512i b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// kDotRows rows of one row tile times two pair tiles.
WEFT_INLINE void add_dots(DotSums& sums, const uint16_t* a, const uint16_t* b0, const uint16_t* b1) {
  typedef int32_t Pair __attribute__((may_alias, aligned(2)));
  for (int pair = 0; pair < 16; ++pair) {
    const __m512i right0 = _mm512_loadu_si512(b0 + pair * 32), right1 = _mm512_loadu_si512(b1 + pair * 32);
    WEFT_UNROLL
    for (int r = 0; r < kDotRows; ++r) {
      const __m512i left = _mm512_set1_epi32(*(const Pair*)(a + r * 32 + pair * 2));
      sums.row[r][0] = dot_pairs(sums.row[r][0], left, right0);
      sums.row[r][1] = dot_pairs(sums.row[r][1], left, right1);
    }
  }
}
WEFT_INLINE void load_sums(DotSums& sums, const float* c, int64_t stride) {
  WEFT_UNROLL
  for (int r = 0; r < kDotRows; ++r) {
    sums.row[r][0] = load(c + r * stride);
    sums.row[r][1] = load(c + r * stride + kLanes);
  }
}
WEFT_INLINE void store_sums(const DotSums& sums, float* c, int64_t stride) {
  WEFT_UNROLL
  for (int r = 0; r < kDotRows; ++r) {
    store(c + r * stride, sums.row[r][0]);
    store(c + r * stride + kLanes, sums.row[r][1]);
  }
}

class Engine {
 public:
  // As the engine of engine_amx.inc.h.
  void multiply(float* c, int64_t c_stride, bool add, const uint16_t* const* a, int64_t a_step,
                const uint16_t* const* b, int64_t b_step, int64_t depth) const {
    for (int row = 0; row < 32; row += kDotRows) {
      float* const to = c + row * c_stride;
      DotSums sums = {};
      if (add) load_sums(sums, to, c_stride);
      const uint16_t* left = a[row / 16] + row % 16 * 32;
      for (int64_t t = 0; t < depth; ++t) {
        add_dots(sums, left + t * a_step, b[0] + t * b_step, b[1] + t * b_step);
      }
      store_sums(sums, to, c_stride);
    }
  }
};

}  // namespace
}  // namespace weft::kernels
