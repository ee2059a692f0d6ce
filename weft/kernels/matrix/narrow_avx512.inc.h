// Rounding to bf16 by AVX512-BF16's own instructions, in the forms that products take.
#pragma once

namespace weft::kernels {
namespace {

// 32 floats as bf16, in order.
WEFT_INLINE void store_narrow(uint16_t* to, Vec first, Vec second) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}
// Two rows of 16 floats as 16 pairs of bf16.
WEFT_INLINE void store_pairs(uint16_t* to, Vec first, Vec second) {
  const __m512i rows = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  const __m512i order = (__m512i)(lane_numbers() | (lane_numbers() + 16) << 16);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, rows));
}

}  // namespace
}  // namespace weft::kernels
