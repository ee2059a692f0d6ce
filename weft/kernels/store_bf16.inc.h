// Lanes of fp32 as bf16 in the compiler's vectors, for SIMD types without instructions of their own for it.
#pragma once

namespace weft::kernels {
namespace {

// Rounds to nearest even; NaN stays NaN.
WEFT_INLINE void store_bf16(uint16_t* p, Vec v) {
  typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  typedef uint16_t UnalignedHalves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
  const Words bits = (Words)v;
  const Words rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Words kept = select(v != v, bits | 0x400000u, rounded);
  *(UnalignedHalves*)p = __builtin_convertvector(kept >> 16, Halves);
}

}  // namespace
}  // namespace weft::kernels
