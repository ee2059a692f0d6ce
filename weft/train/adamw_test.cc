#include "weft/train/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "weft/base/random.h"

namespace weft {
namespace {

struct Arrays {
  explicit Arrays(const ParameterMap& map) : w(static_cast<size_t>(map.size())), g(w), m(w), v(w) {}
  AdamWArrays view() { return {w, g, m, v}; }
  std::vector<float> w, g, m, v;
};

TEST(AdamWTest, FollowsTheFormula) {
  const ParameterMap map(model_preset("tiny"));
  const AdamW options{.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .weight_decay = 0.2};
  Arrays arrays(map);
  Random random(1);
  for (float& x : arrays.w) x = static_cast<float>(random.normal());
  std::vector<double> w(arrays.w.begin(), arrays.w.end()), m(w.size()), v(w.size());
  const double lr = 0.01, scale = 0.5;
  for (int64_t step = 1; step <= 5; ++step) {
    for (const Parameter& p : map.parameters()) {
      for (int64_t n = p.offset; n < p.offset + p.count; ++n) {
        const size_t i = static_cast<size_t>(n);
        arrays.g[i] = static_cast<float>(random.normal());
        const double g = arrays.g[i] * scale;
        const double decay = p.shape.size() == 1 || p.name == "model.embed_tokens.weight" ? 0 : 0.2;
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.99 * v[i] + 0.01 * g * g;
        const double mean = m[i] / (1 - std::pow(0.9, step));
        const double square = v[i] / (1 - std::pow(0.99, step));
        w[i] = w[i] - lr * decay * w[i] - lr * mean / (std::sqrt(square) + 1e-6);
      }
    }
    adamw_update(options, map, {0, map.size()}, step, lr, scale, arrays.view());
  }
  for (const Parameter& p : map.parameters()) {
    for (int64_t n = p.offset; n < p.offset + p.count; ++n) {
      const size_t i = static_cast<size_t>(n);
      ASSERT_NEAR(arrays.w[i], w[i], 2e-6 * (1 + std::abs(w[i]))) << p.name;
      ASSERT_NEAR(arrays.m[i], m[i], 1e-6);
      ASSERT_NEAR(arrays.v[i], v[i], 1e-6);
    }
  }
}

TEST(AdamWTest, PartsGiveTheSameBits) {
  const ParameterMap map(model_preset("tiny"));
  Arrays whole(map);
  Random random(2);
  for (float& x : whole.w) x = static_cast<float>(random.normal());
  for (float& x : whole.g) x = static_cast<float>(random.normal());
  Arrays parts = whole;
  adamw_update({}, map, {0, map.size()}, 1, 0.1, 1, whole.view());
  for (int64_t r = 0; r < 3; ++r) {
    adamw_update({}, map, {map.size() * r / 3, map.size() * (r + 1) / 3}, 1, 0.1, 1, parts.view());
  }
  EXPECT_EQ(whole.w, parts.w);
  EXPECT_EQ(whole.v, parts.v);
}

TEST(LearningRateTest, WarmsUpAndFalls) {
  const LearningRate rate{.peak = 2, .warmup_steps = 4, .steps = 14, .final_share = 0.1};
  EXPECT_DOUBLE_EQ(rate.at(1), 0.5);
  EXPECT_DOUBLE_EQ(rate.at(4), 2);
  EXPECT_NEAR(rate.at(9), 2 * 0.55, 1e-12);
  EXPECT_DOUBLE_EQ(rate.at(14), 0.2);
  EXPECT_DOUBLE_EQ(rate.at(15), 0.2);
  for (int64_t step = 4; step < 14; ++step) EXPECT_GT(rate.at(step), rate.at(step + 1));
  const LearningRate short_run{.peak = 1, .warmup_steps = 100, .steps = 10};
  EXPECT_DOUBLE_EQ(short_run.at(10), 0.1);
  const LearningRate none{.peak = 1, .warmup_steps = 0, .steps = 1};
  EXPECT_DOUBLE_EQ(none.at(1), 0.1);
}

}  // namespace
}  // namespace weft
