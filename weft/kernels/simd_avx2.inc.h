// SIMD type of the AVX2 path: eight lanes, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "weft/kernels/simd.inc.h"

#define WEFT_AVX2_MICROKERNEL  // microkernel_avx2.inc.h

namespace weft::kernels {
namespace {

inline constexpr int kLanes = 8;
inline constexpr int kPanel = 6;  // 12 accumulators, 2 right operands, 1 broadcast: 15 of 16 registers
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
inline constexpr int kDoubles = kLanes / 2;
typedef double DVec __attribute__((vector_size(8 * kDoubles)));
typedef int64_t LVec __attribute__((vector_size(8 * kDoubles)));

WEFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
WEFT_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }

WEFT_INLINE Vec sqrt(Vec a) { return (Vec)_mm256_sqrt_ps((__m256)a); }

WEFT_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return (Vec)_mm256_slli_epi32(bits, 16);
}
WEFT_INLINE Vec load_fp16(const uint16_t* p) { return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
WEFT_INLINE void store_fp16(uint16_t* p, Vec v) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}

// Whether any bit is set.
WEFT_INLINE bool any_word(LVec v) { return !_mm256_testz_si256((__m256i)v, (__m256i)v); }

}  // namespace
}  // namespace weft::kernels

#include "weft/kernels/store_bf16.inc.h"
