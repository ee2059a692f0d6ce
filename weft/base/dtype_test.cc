#include "weft/base/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/base/error.h"

namespace weft {
namespace {

// A binary format, read by the textbook: sign, `exponent_bits`, `fraction_bits`. Exact in double.
struct Format {
  int exponent_bits;
  int fraction_bits;

  double value(uint16_t bits) const {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    const double fraction = std::ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1) {
      return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
    }
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
    return sign * std::ldexp(1 + fraction, exponent - bias);
  }
};

constexpr Format kFp16{5, 10};
constexpr Format kBf16{8, 7};

// All finite magnitudes in ascending order: pattern i has value i, since both formats are monotonic.
std::vector<double> magnitudes(const Format& format) {
  std::vector<double> values;
  for (uint32_t bits = 0; std::isfinite(format.value(static_cast<uint16_t>(bits))); ++bits) {
    values.push_back(format.value(static_cast<uint16_t>(bits)));
  }
  return values;
}

// Nearest pattern, ties to even, found by comparing exact distances; beyond the largest value the
// next power of two stands for infinity (IEEE 754, 4.3.1).
uint16_t round_slowly(float value, const std::vector<double>& finite) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  const auto infinity = static_cast<uint16_t>(finite.size());
  const double step = finite[finite.size() - 1] - finite[finite.size() - 2];
  const auto at = [&](size_t i) { return i < finite.size() ? finite[i] : finite.back() + step; };
  if (magnitude >= at(finite.size())) return sign | infinity;
  const auto above = static_cast<size_t>(std::upper_bound(finite.begin(), finite.end(), magnitude) - finite.begin());
  const double down = magnitude - at(above - 1);  // exact: neighbours in double
  const double up = at(above) - magnitude;
  const bool take_above = up < down || (up == down && above % 2 == 0);
  return sign | static_cast<uint16_t>(take_above ? above : above - 1);
}

float to_float(const Format& format, uint16_t bits) {
  return format.exponent_bits == 5 ? fp16_to_float(bits) : bf16_to_float(bits);
}
uint16_t from_float(const Format& format, float value) {
  return format.exponent_bits == 5 ? float_to_fp16(value) : float_to_bf16(value);
}

class SixteenBits : public testing::TestWithParam<Format> {};

TEST_P(SixteenBits, EveryPatternWidensExactlyAndComesBack) {
  const Format format = GetParam();
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<uint16_t>(pattern);
    const double expected = format.value(bits);
    const float wide = to_float(format, bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << pattern;
      ASSERT_TRUE(std::isnan(format.value(from_float(format, wide)))) << pattern;
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << pattern;
    ASSERT_EQ(std::signbit(wide), std::signbit(expected)) << pattern;
    ASSERT_EQ(from_float(format, wide), bits) << pattern;
  }
}

TEST_P(SixteenBits, RoundsToNearestEvenAroundEveryPattern) {
  const Format format = GetParam();
  const std::vector<double> finite = magnitudes(format);
  const auto check = [&](float value) {
    ASSERT_EQ(from_float(format, value), round_slowly(value, finite)) << value;
    ASSERT_EQ(from_float(format, -value), round_slowly(-value, finite)) << value;
  };
  for (size_t i = 0; i + 1 < finite.size(); ++i) {
    // The pattern, the tie above it, and one float to each side of both.
    const auto value = static_cast<float>(finite[i]);
    const auto tie = static_cast<float>((finite[i] + finite[i + 1]) / 2);
    for (const float x : {value, tie}) {
      check(x);
      check(std::nextafter(x, std::numeric_limits<float>::infinity()));
      if (x > 0) check(std::nextafter(x, 0.0f));
    }
  }
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 65521) check(std::bit_cast<float>(bits));
  const auto largest = static_cast<float>(finite.back());
  for (const float x :
       {largest, std::nextafter(largest, std::numeric_limits<float>::infinity()), std::numeric_limits<float>::max(),
        std::numeric_limits<float>::min(), std::numeric_limits<float>::denorm_min(), 65519.996f, 65520.0f,
        std::numeric_limits<float>::infinity()}) {
    check(x);
  }
}

INSTANTIATE_TEST_SUITE_P(DType, SixteenBits, testing::Values(kFp16, kBf16),
                         [](const auto& format) { return format.param.exponent_bits == 5 ? "fp16" : "bf16"; });

TEST(SixteenBits, NanStaysNanWhateverItsPayload) {
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7fc00000u}) {
    const auto nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(fp16_to_float(float_to_fp16(nan)))) << bits;
    EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan)))) << bits;
  }
}

TEST(DType, NamesSizesAndAccumulators) {
  for (const DType type : {DType::fp64, DType::fp32, DType::bf16, DType::fp16}) {
    EXPECT_EQ(dtype_of(name_of(type)), type);
  }
  EXPECT_EQ(size_of(DType::fp64), 8);
  EXPECT_EQ(size_of(DType::fp32), 4);
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_EQ(size_of(DType::fp16), 2);
  EXPECT_EQ(accumulator_of(DType::fp64), DType::fp64);
  EXPECT_EQ(accumulator_of(DType::bf16), DType::fp32);
  EXPECT_THROW(dtype_of("float"), Error);
}

}  // namespace
}  // namespace weft
