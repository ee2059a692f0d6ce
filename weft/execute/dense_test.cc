#include "weft/execute/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "weft/base/random.h"
#include "weft/execute/host_tensor.h"

namespace weft {
namespace {

DenseInputs random_inputs(int64_t tokens, const DenseShape& shape, uint64_t seed) {
  DenseInputs inputs;
  Random random(seed);
  const auto fill = [&](std::vector<double>& to, int64_t heads, int64_t columns) {
    to.resize(static_cast<size_t>(tokens * heads * columns));
    for (double& x : to) x = random.normal();
  };
  fill(inputs.q, shape.heads, shape.dim);
  fill(inputs.k, shape.kv_heads, shape.dim);
  fill(inputs.v, shape.kv_heads, shape.dim_v);
  fill(inputs.dout, shape.heads, shape.dim_v);
  return inputs;
}

// One query and two keys, by hand: the weights are 1/4 and 3/4.
TEST(Dense, ByHand) {
  const DenseInputs inputs{{1}, {0, std::log(3.0)}, {8, 4}, {2}};
  const DenseAttention result = dense_attention(Mask::cross(1, 2), {}, inputs, DType::fp64);
  EXPECT_DOUBLE_EQ(result.out[0], 5);
  EXPECT_DOUBLE_EQ(result.lse[0], std::log(4.0));
  EXPECT_DOUBLE_EQ(result.dv[0], 0.5);
  EXPECT_DOUBLE_EQ(result.dv[1], 1.5);
  EXPECT_DOUBLE_EQ(result.dk[0], 0.25 * (16 - 10));
  EXPECT_DOUBLE_EQ(result.dk[1], 0.75 * (8 - 10));
  EXPECT_DOUBLE_EQ(result.dq[0], std::log(3.0) * 0.75 * (8 - 10));
}

TEST(Dense, GradientsAreThoseOfFiniteDifferences) {
  const DenseShape shape{4, 2, 3, 2, 0.7};
  const Mask mask = Mask::documents({5, 1, 6}, {.causal = true, .window = 4});
  const DenseInputs inputs = random_inputs(12, shape, 1);
  const DenseAttention result = dense_attention(mask, shape, inputs, DType::fp64);
  const auto loss = [&](const DenseInputs& at) {  // whose gradient by out is dout
    const DenseAttention there = dense_attention(mask, shape, at, DType::fp64);
    double sum = 0;
    for (size_t i = 0; i < there.out.size(); ++i) sum += there.out[i] * inputs.dout[i];
    return sum;
  };
  const auto compare = [&](std::vector<double> DenseInputs::*input, const std::vector<double>& gradient) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      DenseInputs above = inputs, below = inputs;
      (above.*input)[i] += 1e-5;
      (below.*input)[i] -= 1e-5;
      EXPECT_NEAR(gradient[i], (loss(above) - loss(below)) / 2e-5, 1e-8) << i;
    }
  };
  compare(&DenseInputs::q, result.dq);
  compare(&DenseInputs::k, result.dk);
  compare(&DenseInputs::v, result.dv);
}

TEST(Dense, RowsWithoutKeys) {
  const Mask mask = Mask::from_bands(3, 3, {{.q = {0, 1}, .k = {0, 3}}, {.q = {2, 3}, .k = {1, 2}}});
  const DenseShape shape{1, 1, 2, 2, 1};
  const DenseAttention result = dense_attention(mask, shape, random_inputs(3, shape, 2), DType::fp64);
  EXPECT_EQ(result.lse[1], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(result.out[2], 0);
  EXPECT_EQ(result.out[3], 0);
  EXPECT_EQ(result.dq[2], 0);
  EXPECT_NE(result.lse[2], result.lse[1]);
}

// The plain low-precision computation is off by about the rounding of its type, and rounds its results.
TEST(Dense, LowerPrecision) {
  const DenseShape shape{2, 1, 16, 16, 0.25};
  const Mask mask = Mask::of(64, {.causal = true});
  const DenseInputs inputs = random_inputs(64, shape, 3);
  const DenseAttention exact = dense_attention(mask, shape, inputs, DType::fp64);
  for (const auto& [type, unit] : {std::pair(DType::fp32, 0x1p-24), {DType::fp16, 0x1p-11}, {DType::bf16, 0x1p-8}}) {
    const DenseAttention plain = dense_attention(mask, shape, inputs, type);
    double error = 0;
    HostTensor one(type, 1, 1, 1);
    for (size_t i = 0; i < exact.out.size(); ++i) {
      error = std::max(error, std::abs(plain.out[i] - exact.out[i]));
      one.set(0, plain.out[i]);
      EXPECT_EQ(one.at(0), plain.out[i]);
    }
    EXPECT_GT(error, unit / 4);
    EXPECT_LT(error, unit * 40);
  }
}

TEST(HostTensor, KeepsEveryType) {
  for (const DType type : {DType::fp64, DType::fp32, DType::bf16, DType::fp16}) {
    HostTensor tensor(type, 2, 1, 3);
    for (int64_t i = 0; i < 6; ++i) tensor.set(i, static_cast<double>(i) - 2.5);
    EXPECT_EQ(tensor.to_fp64(), (std::vector<double>{-2.5, -1.5, -0.5, 0.5, 1.5, 2.5}));
    EXPECT_EQ(static_cast<int64_t>(tensor.bytes.size()), 6 * size_of(type));
  }
}

}  // namespace
}  // namespace weft
