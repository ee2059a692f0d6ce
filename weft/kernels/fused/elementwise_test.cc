// merge, add, prepare_backward and convert of every path against the reference, and what must hold
// exactly.
#include <gtest/gtest.h>

#include <bit>

#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

constexpr DType kTypes[] = {DType::fp64, DType::fp32, DType::bf16, DType::fp16};

std::vector<const KernelSet*> every_kernel_set() {
  std::vector<const KernelSet*> sets = {&reference_kernels()};
  for (std::string_view path : available_cpu_paths()) sets.push_back(&cpu_kernels(path));
  return sets;
}

Field random_field(Random& random, Shape shape, DType type, double deviation = 1) {
  Field field(shape, type, random.uniform(3), random.uniform(5));
  field.randomize(random, deviation);
  return field;
}

Field with_empty_rows(Random& random, Field lse) {
  for (int64_t r = 0; r < lse.shape.rows; ++r) {
    for (int64_t h = 0; h < lse.shape.heads; ++h) {
      if (random.uniform(3) == 0) lse.set(r, h, 0, kNoKeys);
    }
  }
  return lse;
}

TEST(Elementwise, MergeAgreesWithTheReference) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (DType sum_type : {DType::fp32, DType::fp64}) {
      for (DType wire : kTypes) {
        if (wire == DType::fp64 && sum_type != DType::fp64) continue;
        for (int64_t columns : {1, 7, 64, 600}) {
          Random random(columns);
          const Shape shape{9, 3, columns};
          Field o = random_field(random, shape, sum_type), from = random_field(random, shape, wire);
          Field lse = with_empty_rows(random, random_field(random, {9, 3, 1}, sum_type, 5));
          Field from_lse = with_empty_rows(random, random_field(random, {9, 3, 1}, sum_type, 5));
          Field exact = o.as(DType::fp64), exact_lse = lse.as(DType::fp64);
          const Field from64 = from.as(DType::fp64), from_lse64 = from_lse.as(DType::fp64);
          kernels->merge(o.view(), lse.view(), from.view(), from_lse.view(), shape);
          reference_kernels().merge(exact.view(), exact_lse.view(), from64.view(), from_lse64.view(), shape);
          EXPECT_LT(relative_error(o, exact), 1e-6) << kernels->name();
          EXPECT_LT(relative_error(lse, exact_lse), 1e-6) << kernels->name();
          EXPECT_TRUE(o.gaps_intact() && lse.gaps_intact());
        }
      }
    }
  }
}

TEST(Elementwise, MergeSelectsTheIdentity) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const KernelSet* kernels : every_kernel_set()) {
    const Shape shape{1, 1, 5};
    const auto merged = [&](double o, double lse, double from_o, double from_lse) {
      Field a(shape, DType::fp32), b(shape, DType::fp32), a_lse({1, 1, 1}, DType::fp32), b_lse = a_lse;
      a.fill([&](int64_t, int64_t, int64_t) { return o; });
      b.fill([&](int64_t, int64_t, int64_t) { return from_o; });
      a_lse.set(0, 0, 0, lse);
      b_lse.set(0, 0, 0, from_lse);
      kernels->merge(a.view(), a_lse.view(), b.view(), b_lse.view(), shape);
      return std::pair(a.at(0, 0, 4), a_lse.at(0, 0, 0));
    };
    EXPECT_EQ(merged(0, kNoKeys, 0, kNoKeys), std::pair(0.0, kNoKeys)) << kernels->name();
    EXPECT_EQ(merged(2.5, 1.5, nan, kNoKeys), std::pair(2.5, 1.5)) << kernels->name();
    EXPECT_EQ(merged(nan, kNoKeys, 2.5, 1.5), std::pair(2.5, 1.5)) << kernels->name();
    EXPECT_EQ(merged(1, 1e4, 3, -1e4), std::pair(1.0, 1e4)) << kernels->name();
    EXPECT_EQ(merged(1, -1e4, 3, 1e4), std::pair(3.0, 1e4)) << kernels->name();
    EXPECT_EQ(merged(1, 0, 3, 0).first, 2) << kernels->name();
  }
}

TEST(Elementwise, AddInEveryWireType) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (DType sum_type : {DType::fp32, DType::fp64}) {
      for (DType wire : kTypes) {
        Random random(3);
        const Shape shape{5, 2, 530};
        Field to = random_field(random, shape, sum_type);
        const Field from = random_field(random, shape, wire);
        Field exact = to.as(DType::fp64);
        const Field from64 = from.as(DType::fp64);
        kernels->add(to.view(), from.view(), shape);
        reference_kernels().add(exact.view(), from64.view(), shape);
        EXPECT_LT(relative_error(to, exact), 1e-7) << kernels->name();
        EXPECT_TRUE(to.gaps_intact());
      }
    }
  }
}

TEST(Elementwise, PrepareBackward) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (DType type : kTypes) {
      for (bool with_dlse : {false, true}) {
        Random random(4);
        const Shape shape{6, 3, 77};
        const DType sum_type = accumulator_of(type);
        const Field out = random_field(random, shape, sum_type), dout = random_field(random, shape, type);
        const Field dlse = random_field(random, {6, 3, 1}, sum_type);
        Field delta({6, 3, 1}, sum_type, 1, 2);
        kernels->prepare_backward(delta.view(), out.view(), dout.view(), with_dlse ? dlse.view() : ConstView(), shape);
        Field expected({6, 3, 1}, DType::fp64);
        expected.fill([&](int64_t r, int64_t h, int64_t) {
          double sum = with_dlse ? -dlse.at(r, h, 0) : 0;
          for (int64_t c = 0; c < shape.columns; ++c) sum += out.at(r, h, c) * dout.at(r, h, c);
          return sum;
        });
        EXPECT_LT(relative_error(delta, expected), 1e-6) << kernels->name();
        EXPECT_TRUE(delta.gaps_intact());
      }
    }
  }
}

// Bit by bit equal to the conversions of weft/base, over all 16-bit values and awkward floats.
TEST(Elementwise, ConvertIsExact) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (DType from_type : kTypes) {
      for (DType to_type : kTypes) {
        const Shape shape{64, 2, 521};
        Random random(5);
        Field from(shape, from_type, 1, 3);
        from.fill([&](int64_t, int64_t, int64_t) {
          const double x = random.normal() * std::ldexp(1.0, static_cast<int>(random.uniform(-30, 20)));
          return random.uniform(8) ? x : random.uniform(2) ? std::numeric_limits<double>::infinity() : -0.0;
        });
        Field to(shape, to_type, 2, 1), expected(shape, to_type, 2, 1);
        kernels->convert(to.view(), from.view(), shape);
        expected.fill([&](int64_t r, int64_t h, int64_t c) { return from.at(r, h, c); });
        EXPECT_EQ(to.bytes, expected.bytes)
            << kernels->name() << ": " << name_of(from_type) << " to " << name_of(to_type);
      }
    }
  }
}

TEST(Elementwise, ConvertKeepsEvery16BitValue) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (DType type : {DType::bf16, DType::fp16}) {
      Field bits({1, 1, 65536}, type), wide({1, 1, 65536}, DType::fp32), back({1, 1, 65536}, type);
      uint16_t* values = reinterpret_cast<uint16_t*>(bits.bytes.data());
      for (int i = 0; i < 65536; ++i) values[i] = static_cast<uint16_t>(i);
      kernels->convert(wide.view(), bits.view(), bits.shape);
      kernels->convert(back.view(), wide.view(), bits.shape);
      for (int i = 0; i < 65536; ++i) {
        const double x = bits.at(0, 0, i);
        if (std::isnan(x)) {
          ASSERT_TRUE(std::isnan(wide.at(0, 0, i)) && std::isnan(back.at(0, 0, i))) << kernels->name();
        } else {
          ASSERT_EQ(wide.at(0, 0, i), x) << kernels->name();
          ASSERT_EQ(reinterpret_cast<uint16_t*>(back.bytes.data())[i], i) << kernels->name();
        }
      }
    }
  }
}

// Halfway between two bf16 and just beside, of every exponent and sign, NaN whose bits are all in the lower half among them.
TEST(Elementwise, ConvertRoundsBf16ToEven) {
  for (const KernelSet* kernels : every_kernel_set()) {
    for (const uint32_t low : {0x0001u, 0x7fffu, 0x8000u, 0x8001u}) {
      Field wide({1, 1, 65536}, DType::fp32), narrow({1, 1, 65536}, DType::bf16);
      uint32_t* from = reinterpret_cast<uint32_t*>(wide.bytes.data());
      for (uint32_t i = 0; i < 65536; ++i) from[i] = i << 16 | low;
      kernels->convert(narrow.view(), wide.view(), wide.shape);
      const uint16_t* to = reinterpret_cast<const uint16_t*>(narrow.bytes.data());
      for (int i = 0; i < 65536; ++i) {
        ASSERT_EQ(to[i], float_to_bf16(std::bit_cast<float>(from[i]))) << kernels->name() << ": " << from[i];
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
