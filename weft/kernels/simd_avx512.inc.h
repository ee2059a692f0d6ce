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
// Rounds to nearest even; NaN stays NaN. As in store_bf16.inc.h, but in six instructions instead of eleven: rows of bf16 would
// else be slower than memory.
WEFT_INLINE void store_bf16(uint16_t* p, Vec v) {
  const __m512i bits = (__m512i)v, half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  const __m512i rounded =
      _mm512_mask_add_epi32(half, _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000)), half, _mm512_set1_epi32(1));
  const __m512i kept = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q), bits,
                                            _mm512_set1_epi32(0x400000));
  const __m512i upper_halves = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                                31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm256_storeu_si256((__m256i*)p, _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper_halves, kept)));
}
WEFT_INLINE void store_fp16(uint16_t* p, Vec v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}

// Whether any bit is set.
WEFT_INLINE bool any_word(LVec v) { return _mm512_test_epi64_mask((__m512i)v, (__m512i)v) != 0; }

}  // namespace
}  // namespace weft::kernels
