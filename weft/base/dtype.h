// Element types of tensors, and conversions between the 16-bit ones and float.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace weft {

// Elements are of the first four. The others are accumulators of canonical results (kernels/canonical/exact_sum.h): the sum of any
// numbers in two or three bins, and the sum of exponentials with the exponent that they share.
enum class DType : uint8_t { fp64, fp32, bf16, fp16, sum2, sum3, expsum2, expsum3 };

// Bytes of one element.
constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::fp64: return 8;
    case DType::fp32: return 4;
    case DType::bf16:
    case DType::fp16: return 2;
    case DType::sum2: return 16;
    case DType::sum3:
    case DType::expsum2: return 24;
    case DType::expsum3: return 32;
  }
  return 0;
}

constexpr bool is_exact_sum(DType type) { return type >= DType::sum2; }

// "fp64", "fp32", "bf16", "fp16"; "sum2" and so on for accumulators.
std::string_view name_of(DType type);

// Inverse of name_of for element types. Throws Error(usage) naming the four allowed names.
DType dtype_of(std::string_view name);

// The type in which partial results of elements of `type` are kept: fp64 for fp64, else fp32.
constexpr DType accumulator_of(DType type) { return type == DType::fp64 ? DType::fp64 : DType::fp32; }

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float fp16_to_float(uint16_t bits);
uint16_t float_to_fp16(float value);  // round to nearest even; overflow gives infinity

}  // namespace weft
