// Whole rows of scores: the products against sums over pairs written here, softmax against its definition, and its
// backward against finite differences.
#include "weft/kernels/scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "weft/base/random.h"

namespace weft::kernels {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// [rows, heads, columns] in fp64 with room between rows, so that strides matter.
struct Tensor {
  Tensor(int64_t r, int64_t h, int64_t c) : rows(r), heads(h), columns(c), data(static_cast<size_t>(r * (h * c + 3))) {}
  static Tensor normal(int64_t r, int64_t h, int64_t c, Random& random) {
    Tensor tensor(r, h, c);
    for (double& x : tensor.data) x = random.normal();
    return tensor;
  }
  double& at(int64_t r, int64_t h, int64_t c) {
    return data[static_cast<size_t>(r * (heads * columns + 3) + h * columns + c)];
  }
  operator View() { return {data.data(), DType::fp64, heads * columns + 3, columns}; }
  operator ConstView() { return View(*this); }

  int64_t rows, heads, columns;
  std::vector<double> data;
};

// 5 queries and 6 keys of which 4 have a column: keys 1 and 2 in columns 0, 1 and keys 4 and 5 in columns 2, 3. Query q
// is row q + 1 of the other query-side tensor; two query heads read kv head 1 and one reads kv head 0.
struct Products : testing::Test {
  static constexpr int64_t kQueries = 5, kHeads = 3, kColumns = 4;
  Random random{5, 0};
  std::vector<int32_t> kv_head = {1, 0, 1};
  std::vector<Block> blocks = {
      {.band = {.q = {0, 5}, .k = {1, 3}, .lo = -2, .hi = 0}, .out_row = 1, .kv_grad_row = 0},
      {.band = {.q = {2, 5}, .k = {4, 6}, .lo = -3, .hi = 1}, .out_row = 3, .kv_grad_row = 2},
  };
  static int64_t column_of(int64_t k) { return k < 3 ? k - 1 : k - 2; }
  bool allowed(int64_t q, int64_t k) const {
    for (const Block& block : blocks) {
      if (q >= block.band.q.begin && k >= block.band.k.begin && k < block.band.k.end && block.band.contains(q, k)) {
        return true;
      }
    }
    return false;
  }
};

TEST_F(Products, IntoScores) {
  Tensor q = Tensor::normal(5, kHeads, 2, random), k = Tensor::normal(6, 2, 2, random), scores(6, kHeads, kColumns);
  const Tensor before = scores;
  multiply_into_scores({q, k, scores, kHeads, kv_head, 2, 0.5, blocks});
  Tensor expected = before;
  int64_t pairs = 0;
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t j : {1, 2, 4, 5}) {
      if (!allowed(i, j)) continue;
      ++pairs;
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t g = kv_head[static_cast<size_t>(h)];
        expected.at(i + 1, h, column_of(j)) = 0.5 * (q.at(i, h, 0) * k.at(j, g, 0) + q.at(i, h, 1) * k.at(j, g, 1));
      }
    }
  }
  EXPECT_EQ(pairs, 9);
  for (size_t n = 0; n < expected.data.size(); ++n) EXPECT_DOUBLE_EQ(scores.data[n], expected.data[n]) << n;
}

TEST_F(Products, IntoQueries) {
  Tensor scores = Tensor::normal(5, kHeads, kColumns, random), v = Tensor::normal(6, 2, 3, random);
  Tensor out = Tensor::normal(6, kHeads, 3, random), expected = out;
  multiply_into_queries({out, v, scores, kHeads, kv_head, 3, 2, blocks});
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t j : {1, 2, 4, 5}) {
      for (int64_t h = 0; h < kHeads && allowed(i, j); ++h) {
        for (int64_t c = 0; c < 3; ++c) {
          expected.at(i + 1, h, c) += 2 * scores.at(i, h, column_of(j)) * v.at(j, kv_head[static_cast<size_t>(h)], c);
        }
      }
    }
  }
  for (size_t n = 0; n < expected.data.size(); ++n) EXPECT_NEAR(out.data[n], expected.data[n], 1e-14) << n;
}

TEST_F(Products, IntoKeys) {
  Tensor scores = Tensor::normal(6, kHeads, kColumns, random), q = Tensor::normal(5, kHeads, 2, random);
  Tensor dk = Tensor::normal(6, 2, 2, random), expected = dk;
  multiply_into_keys({q, dk, scores, kHeads, kv_head, 2, 0.25, blocks});
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t j : {1, 2, 4, 5}) {
      for (int64_t h = 0; h < kHeads && allowed(i, j); ++h) {
        for (int64_t c = 0; c < 2; ++c) {
          expected.at(j, kv_head[static_cast<size_t>(h)], c) +=
              0.25 * scores.at(i + 1, h, column_of(j)) * q.at(i, h, c);
        }
      }
    }
  }
  for (size_t n = 0; n < expected.data.size(); ++n) EXPECT_NEAR(dk.data[n], expected.data[n], 1e-14) << n;
}

TEST(Softmax, IsItsDefinition) {
  Random random(3, 0);
  Tensor scores = Tensor::normal(4, 2, 5, random), probs(4, 2, 5), lse(4, 2, 1);
  for (int64_t c = 0; c < 5; ++c) scores.at(1, 0, c) = kMinusInfinity;  // a row without a key
  scores.at(2, 1, 3) = kMinusInfinity;
  scores.at(3, 0, 2) = 800;  // exp of it is infinite
  softmax(probs, lse, scores, {4, 2, 5});
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t h = 0; h < 2; ++h) {
      double sum = 0;
      for (int64_t c = 0; c < 5; ++c) {
        sum += probs.at(r, h, c);
        const double expected = r == 1 && h == 0 ? 0 : std::exp(scores.at(r, h, c) - lse.at(r, h, 0));
        EXPECT_NEAR(probs.at(r, h, c), expected, 1e-15);
      }
      EXPECT_NEAR(sum, r == 1 && h == 0 ? 0 : 1, 1e-15);
    }
  }
  EXPECT_EQ(lse.at(1, 0, 0), kMinusInfinity);
  EXPECT_EQ(lse.at(3, 0, 0), 800);
}

TEST(Softmax, BackwardIsTheDerivative) {
  Random random(4, 0);
  Tensor scores = Tensor::normal(3, 2, 6, random), weights = Tensor::normal(3, 2, 6, random);
  Tensor probs(3, 2, 6), lse(3, 2, 1), dscores(3, 2, 6);
  scores.at(0, 1, 4) = kMinusInfinity;
  softmax(probs, lse, scores, {3, 2, 6});
  softmax_backward(dscores, probs, weights, {3, 2, 6});
  const auto loss = [&](Tensor changed) {
    Tensor p(3, 2, 6), l(3, 2, 1);
    softmax(p, l, changed, {3, 2, 6});
    double sum = 0;
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t c = 0; c < 6; ++c) sum += p.at(r, h, c) * weights.at(r, h, c);
      }
    }
    return sum;
  };
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t c = 0; c < 6; ++c) {
        Tensor more = scores, less = scores;
        more.at(r, h, c) += 1e-5, less.at(r, h, c) -= 1e-5;
        EXPECT_NEAR(dscores.at(r, h, c), (loss(more) - loss(less)) / 2e-5, 1e-9);
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
