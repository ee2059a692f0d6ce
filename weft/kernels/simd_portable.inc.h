// SIMD type of the portable path: four lanes of the compiler's own vectors (SSE2 on x86-64, NEON on
// ARM).
#pragma once

#include <cstdint>

#include "weft/base/dtype.h"
#include "weft/kernels/simd.inc.h"

namespace weft::kernels {
namespace {

inline constexpr int kLanes = 4;
inline constexpr int kPanel = 4;  // 8 accumulators, 2 right operands, 1 broadcast, 1 product: 12 of 16 registers
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
inline constexpr int kDoubles = kLanes / 2;
typedef double DVec __attribute__((vector_size(8 * kDoubles)));
typedef int64_t LVec __attribute__((vector_size(8 * kDoubles)));

WEFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// b where either is NaN, on every path: so NaN in scores, passed as b, survives.
WEFT_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
WEFT_INLINE Vec sqrt(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}

WEFT_INLINE Vec load_bf16(const uint16_t* p) {
  const IVec bits = {p[0], p[1], p[2], p[3]};
  return (Vec)(bits << 16);
}
WEFT_INLINE Vec load_fp16(const uint16_t* p) {
  return Vec{fp16_to_float(p[0]), fp16_to_float(p[1]), fp16_to_float(p[2]), fp16_to_float(p[3])};
}
WEFT_INLINE void store_fp16(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = float_to_fp16(v[i]);
}

// Whether any bit is set.
WEFT_INLINE bool any_word(LVec v) { return (v[0] | v[1]) != 0; }

}  // namespace
}  // namespace weft::kernels

#include "weft/kernels/store_bf16.inc.h"
