// Transposing a square of kLanes vectors in registers.
#pragma once

#include <utility>  // for a type only: nothing of it is ever compiled

namespace weft::kernels {
namespace {

// One stage: swaps the off-diagonal blocks of size kBlock between two rows that lie kBlock apart.
template <int kBlock, int... kLane>
WEFT_INLINE void swap_blocks(Vec& upper, Vec& lower, std::integer_sequence<int, kLane...>) {
  const Vec a = upper, b = lower;
  upper = __builtin_shufflevector(a, b, (kLane & kBlock ? kLanes + kLane - kBlock : kLane)...);
  lower = __builtin_shufflevector(a, b, (kLane & kBlock ? kLanes + kLane : kLane + kBlock)...);
}

template <int kBlock>
WEFT_INLINE void transpose_stage(Vec* v) {
  if constexpr (kBlock < kLanes) {
    WEFT_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & kBlock)) swap_blocks<kBlock>(v[i], v[i + kBlock], std::make_integer_sequence<int, kLanes>());
    }
    transpose_stage<2 * kBlock>(v);
  }
}

// v[i][j] <-> v[j][i].
WEFT_INLINE void transpose(Vec* v) { transpose_stage<1>(v); }

}  // namespace
}  // namespace weft::kernels
