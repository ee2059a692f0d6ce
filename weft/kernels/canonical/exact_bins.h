// Constants of exact sums (exact_sum.h); only those, since files compiled for one instruction set include it.
#pragma once

#include <cstdint>

namespace weft::kernels {

inline constexpr int64_t kMostTerms = int64_t{1} << 22;

// Bin i holds multiples of 2^(32 i - kBinBias), i in 1 .. 67. 16 more than a multiple of 32, so that numbers around 1, where
// most are, do not straddle two bins.
inline constexpr int64_t kBinBias = 1136;
inline constexpr int64_t kIndexMask = 255;  // of a top word
inline constexpr int64_t kSpecial = 128;    // in the index: the sum is not finite, and the bits below say how
inline constexpr int64_t kHasPlusInfinity = 1, kHasMinusInfinity = 2, kHasNaN = 4;

}  // namespace weft::kernels
