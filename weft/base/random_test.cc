#include "weft/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>
#include <vector>

namespace weft {
namespace {

// The golden values come from an independent program in Python's integers and unfused doubles.
TEST(Random, BitsAreTheSameEverywhere) {
  Random random(42, 7);
  for (const uint64_t expected : {0x835785b9bce816e0u, 0xc87874903fc5ec36u, 0x4d908bfe7db26c34u, 0x2e5a446bf4e84eafu}) {
    EXPECT_EQ(random.bits(), expected);
  }
}

TEST(Random, UniformIntegersAreTheSameEverywhere) {
  Random random(0);
  for (const int expected : {9, 4, 0, 7, 3, 8, 8, 4, 6, 6, 2, 0, 5, 0, 5, 3}) {
    EXPECT_EQ(random.uniform(10), expected);
  }
  Random large(5);  // three of four products are kept: exercises the redraw
  for (const int64_t expected :
       {2304006353673486433, 3164237331466495940, 6785051079071801044, 3563815702498563795, 4279036090695279489}) {
    EXPECT_EQ(large.uniform((int64_t{1} << 62) + (int64_t{1} << 61)), expected);
  }
}

TEST(Random, NormalsAreTheSameEverywhere) {
  Random random(1, 2);
  for (const double expected : {-0x1.9e16b346faee4p-1, 0x1.7618ce8a7c67dp-7, 0x1.6b118e06f18cdp+0, 0x1.29ac0da289bd2p+0,
                                -0x1.d83bc06e940aep+0, 0x1.2def8691481a0p-4}) {
    EXPECT_EQ(random.normal(), expected);
  }
}

TEST(Random, StreamsAndSeedsDiffer) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint64_t stream = 0; stream < 100; ++stream) seen.insert(Random(seed, stream).bits());
  }
  EXPECT_EQ(seen.size(), 10000u);
}

TEST(Random, UniformIntegersAreUniform) {
  Random random(3);
  constexpr int kDraws = 60000;
  std::vector<int> counts(6);
  for (int i = 0; i < kDraws; ++i) ++counts.at(static_cast<size_t>(random.uniform(6)));
  double chi_square = 0;
  for (const int count : counts) chi_square += std::pow(count - kDraws / 6.0, 2) / (kDraws / 6.0);
  EXPECT_LT(chi_square, 25.7);  // 5 degrees of freedom: exceeded with probability 1e-4
  for (int i = 0; i < 1000; ++i) {
    const int64_t x = random.uniform(-3, 2);
    EXPECT_GE(x, -3);
    EXPECT_LT(x, 2);
    EXPECT_EQ(random.uniform(1), 0);
  }
}

TEST(Random, NormalsHaveTheRightMomentsAndTail) {
  Random random(4);
  constexpr int kDraws = 400000;
  double sum = 0, squares = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  // Bounds of five standard errors: sqrt(1/n), sqrt(2/n), sqrt(96/n), sqrt(p(1-p)/n).
  EXPECT_NEAR(sum / kDraws, 0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
  EXPECT_NEAR(beyond_two / static_cast<double>(kDraws), 0.0455003, 5 * std::sqrt(0.0434 / kDraws));
}

TEST(Random, ShuffleKeepsAllItems) {
  std::vector<int> items(100);
  std::iota(items.begin(), items.end(), 0);
  Random(9).shuffle(std::span(items));
  EXPECT_FALSE(std::is_sorted(items.begin(), items.end()));
  EXPECT_EQ(std::set<int>(items.begin(), items.end()).size(), 100u);
}

}  // namespace
}  // namespace weft
