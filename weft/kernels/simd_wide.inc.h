// SIMD type of the emulation of wide processors: sixteen lanes, each operation two of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "weft/kernels/simd.inc.h"

namespace weft::kernels {
namespace {

inline constexpr int kLanes = 16;
inline constexpr int kPanel = 12;  // as on AVX-512, whose registers are not there: sums live in memory
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
inline constexpr int kDoubles = kLanes / 2;
typedef double DVec __attribute__((vector_size(8 * kDoubles)));
typedef int64_t LVec __attribute__((vector_size(8 * kDoubles)));

struct TwoHalves {
  __m256 low, high;
};
WEFT_INLINE TwoHalves halves(Vec v) {
  TwoHalves h;
  __builtin_memcpy(&h, &v, sizeof(v));
  return h;
}
WEFT_INLINE Vec joined(TwoHalves h) {
  Vec v;
  __builtin_memcpy(&v, &h, sizeof(v));
  return v;
}

WEFT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  const TwoHalves x = halves(a), y = halves(b), z = halves(c);
  return joined({_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)});
}
WEFT_INLINE Vec max(Vec a, Vec b) {
  const TwoHalves x = halves(a), y = halves(b);
  return joined({_mm256_max_ps(x.low, y.low), _mm256_max_ps(x.high, y.high)});
}
WEFT_INLINE Vec sqrt(Vec a) {
  const TwoHalves x = halves(a);
  return joined({_mm256_sqrt_ps(x.low), _mm256_sqrt_ps(x.high)});
}

WEFT_INLINE __m256 load_bf16_half(const uint16_t* p) {
  return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
WEFT_INLINE Vec load_bf16(const uint16_t* p) { return joined({load_bf16_half(p), load_bf16_half(p + 8)}); }
WEFT_INLINE Vec load_fp16(const uint16_t* p) {
  return joined(
      {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))});
}
WEFT_INLINE void store_fp16(uint16_t* p, Vec v) {
  const TwoHalves x = halves(v);
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}

// Whether any bit is set.
WEFT_INLINE bool any_word(LVec v) {
  int64_t bits = 0;
  for (int i = 0; i < kDoubles; ++i) bits |= v[i];
  return bits != 0;
}

}  // namespace
}  // namespace weft::kernels

#include "weft/kernels/store_bf16.inc.h"
