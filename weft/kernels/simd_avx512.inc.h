// SIMD type of the AVX-512 path: sixteen lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "weft/kernels/simd.inc.h"

namespace weft::kernels {
namespace {

inline constexpr int kLanes = 16;
inline constexpr int kPanel = 12;  // 24 accumulators, 2 right operands, 1 broadcast: 27 of 32 registers
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
inline constexpr int kDoubles = kLanes / 2;
typedef double DVec __attribute__((vector_size(8 * kDoubles)));
typedef int64_t LVec __attribute__((vector_size(8 * kDoubles)));

WEFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
WEFT_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }

WEFT_INLINE Vec sqrt(Vec a) { return (Vec)_mm512_sqrt_ps((__m512)a); }

WEFT_INLINE Vec load_bf16(const uint16_t* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return (Vec)_mm512_slli_epi32(bits, 16);
}
WEFT_INLINE Vec load_fp16(const uint16_t* p) { return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
WEFT_INLINE void store_fp16(uint16_t* p, Vec v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}

// Whether any bit is set.
WEFT_INLINE bool any_word(LVec v) { return _mm512_test_epi64_mask((__m512i)v, (__m512i)v) != 0; }

}  // namespace
}  // namespace weft::kernels
