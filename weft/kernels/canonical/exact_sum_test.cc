// Exact sums: no order, no grouping and no code path changes a bit; and the value is the sum.
#include "weft/kernels/canonical/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "weft/base/random.h"
#include "weft/base/test_level.h"
#include "weft/kernels/canonical/canonical.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

void shuffle(Random& random, std::vector<double>& numbers) {
  for (size_t i = numbers.size(); i > 1; --i) {
    std::swap(numbers[i - 1], numbers[static_cast<size_t>(random.uniform(static_cast<int64_t>(i)))]);
  }
}

// A sum of the numbers as some tree of merges: each leaf has a few of them.
template <int kBins>
ExactSum<kBins> some_tree(Random& random, const std::vector<double>& numbers) {
  std::vector<ExactSum<kBins>> parts(1);
  for (double x : numbers) {
    parts.back().add(x);
    if (random.uniform(3) == 0) parts.emplace_back();
  }
  while (parts.size() > 1) {
    const auto into = static_cast<size_t>(random.uniform(static_cast<int64_t>(parts.size())));
    const auto from = static_cast<size_t>(random.uniform(static_cast<int64_t>(parts.size())));
    if (into == from) continue;
    parts[into].merge(parts[from]);
    std::swap(parts[from], parts.back());
    parts.pop_back();
  }
  return parts[0];
}

// Numbers of the kinds that break ordinary sums.
std::vector<double> hostile_numbers(Random& random, int kind) {
  std::vector<double> numbers;
  const auto count = 1 + random.uniform(60);
  for (int64_t i = 0; i < count; ++i) {
    const double x = random.normal();
    const auto wide = static_cast<int>(random.uniform(-1070, 1020));
    switch (kind) {
      case 0: numbers.push_back(x); break;
      case 1: numbers.push_back(std::ldexp(x, wide)); break;
      case 2: numbers.push_back(std::ldexp(x, static_cast<int>(random.uniform(-80, 80)))); break;
      case 3: numbers.insert(numbers.end(), {x * 1e30, -x * 1e30, x}); break;  // cancels
      case 4: numbers.push_back(random.uniform(2) ? 0.0 : -0.0); break;
      case 5: numbers.push_back(std::ldexp(x, -1060)); break;  // subnormal
      case 6:
        numbers.push_back(std::ldexp(random.uniform(2) ? 1 : -1, static_cast<int>(random.uniform(-70, 70))));
        break;
      case 7: numbers.push_back(std::ldexp(std::nextafter(random.uniform(2) ? 1.0 : -1.0, 0), wide)); break;
      case 8: {  // between a bin's halves: ties in the rounding of digits
        const auto edge = static_cast<int>(32 * random.uniform(-3, 3) - 16);
        numbers.push_back(std::ldexp(static_cast<double>(random.uniform(-9, 10)) + 0.5, edge));
        break;
      }
      default: numbers.push_back(random.uniform(9) ? x : random.uniform(2) ? kInfinity : -kInfinity); break;
    }
  }
  return numbers;
}

template <int kBins>
void expect_order_free() {
  Random random(kBins);
  const int rounds = test_level() == 0 ? 400 : 4000;
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> numbers = hostile_numbers(random, round % 10);
    ExactSum<kBins> first;
    for (double x : numbers) first.add(x);
    for (int order = 0; order < 6; ++order) {
      shuffle(random, numbers);
      EXPECT_EQ(some_tree<kBins>(random, numbers), first) << "kind " << round % 10 << ", round " << round;
    }
  }
}

TEST(ExactSum, NoOrderAndNoTreeChangesABit) {
  expect_order_free<2>();
  expect_order_free<3>();
}

// The test above can fail: doubles added in another order differ.
TEST(ExactSum, OrdinarySumsDoDependOnTheOrder) {
  Random random(3);
  std::vector<double> numbers = hostile_numbers(random, 2);
  bool differs = false;
  double first = 0;
  for (double x : numbers) first += x;
  for (int order = 0; order < 6; ++order) {
    shuffle(random, numbers);
    double sum = 0;
    for (double x : numbers) sum += x;
    differs |= sum != first;
  }
  EXPECT_TRUE(differs);
}

// Exponents taken out beforehand, at once or in steps, before or after merging.
TEST(ExactSum, ShiftsCommuteWithMerges) {
  Random random(17);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> numbers = hostile_numbers(random, static_cast<int>(random.uniform(10)));
    const int64_t bins = -random.uniform(70), part = random.uniform(-bins + 1);
    ExactSum<2> before, steps;
    for (double x : numbers) before.add(x, bins);
    shuffle(random, numbers);
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (i == numbers.size() / 2) steps.shift(-part);
      steps.add(numbers[i], i < numbers.size() / 2 ? 0 : -part);
    }
    if (numbers.size() < 2) steps.shift(-part);
    steps.shift(bins + part);
    ExactSum<2> at_once;
    for (double x : numbers) at_once.add(x);
    at_once.shift(bins);
    if (numbers.size() >= 2) {
      EXPECT_EQ(before, steps);
    }
    EXPECT_EQ(before, at_once) << "bins " << bins;
  }
}

// Against sums in 128-bit integers: small multiples of 2^-20, exactly; and wide ones within the bound.
TEST(ExactSum, ValueIsTheSum) {
  Random random(5);
  for (int round = 0; round < 2000; ++round) {
    ExactSum<2> two;
    ExactSum<3> three;
    int64_t exact = 0;
    const auto count = random.uniform(200);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t n = random.uniform(-(1 << 20), 1 << 20);
      exact += n;
      two.add(static_cast<double>(n) * 0x1p-20);
      three.add(static_cast<double>(n) * 0x1p-20);
    }
    EXPECT_EQ(two.value(), static_cast<double>(exact) * 0x1p-20);
    EXPECT_EQ(three.value(), static_cast<double>(exact) * 0x1p-20);
  }
}

TEST(ExactSum, ErrorIsWithinTheBound) {
  Random random(6);
  double worst = 0;  // of two bins, as a part of its bound
  for (int round = 0; round < 2000; ++round) {
    ExactSum<2> two;
    ExactSum<3> three;
    long double exact = 0;  // 64 bits: enough for what three bins keep of a few numbers
    double largest = 0;
    const auto count = 1 + random.uniform(20);
    const auto spread = static_cast<int>(1 + random.uniform(40));
    const auto place = static_cast<int>(random.uniform(-200, 200));
    for (int64_t i = 0; i < count; ++i) {
      const double x = std::ldexp(static_cast<double>(static_cast<float>(random.normal())),
                                  place - static_cast<int>(random.uniform(spread)));
      exact += static_cast<long double>(x);
      two.add(x);
      three.add(x);
      largest = std::max(largest, std::abs(static_cast<double>(x)));
    }
    if (largest == 0) continue;
    const double bound = static_cast<double>(count) * 0x1p-33 * largest;
    const double error = std::abs(static_cast<double>(two.value() - exact));
    EXPECT_LE(error, bound + std::abs(static_cast<double>(exact)) * 0x1p-53);
    EXPECT_LE(std::abs(static_cast<double>(three.value() - exact)),
              static_cast<double>(count) * 0x1p-60 * largest + std::abs(static_cast<double>(exact)) * 0x1p-53);
    worst = std::max(worst, error / bound);
  }
  EXPECT_GT(worst, 0.01) << "the bound is far from what happens";
}

TEST(ExactSum, SpecialValues) {
  const auto sum = [](std::initializer_list<double> numbers) {
    ExactSum<2> s;
    for (double x : numbers) s.add(x);
    return s.value();
  };
  EXPECT_EQ(sum({}), 0);
  EXPECT_EQ(sum({-0.0, 0.0}), 0);
  EXPECT_FALSE(std::signbit(sum({-0.0})));
  EXPECT_EQ(sum({1, -1}), 0);
  EXPECT_EQ(sum({1, kInfinity, -5}), kInfinity);
  EXPECT_EQ(sum({-kInfinity, 3}), -kInfinity);
  EXPECT_TRUE(std::isnan(sum({-kInfinity, kInfinity})));
  EXPECT_TRUE(std::isnan(sum({std::nan(""), 1})));
  EXPECT_TRUE(std::isnan(sum({std::nan(""), kInfinity})));
  EXPECT_EQ(sum({0x1p-1074, 0x1p-1074}), 0x1p-1073);
  EXPECT_EQ(ExactSum<3>::of(std::numeric_limits<double>::max()).value(), std::numeric_limits<double>::max());
}

// kMostTerms numbers of the largest digits, all of one sign, in both bins.
TEST(ExactSum, HoldsAsManyNumbersAsItSays) {
  const double most = std::nextafter(0x1p16, 0);  // digit 2^32 in its bin
  auto sum = ExactSum<2>::of(most);
  for (int64_t n = 1; n < kMostTerms; n *= 2) sum.merge(sum);
  EXPECT_EQ(sum.value(), static_cast<double>(kMostTerms) * most);
  auto negative = ExactSum<3>::of(-most);
  for (int64_t n = 1; n < kMostTerms; n *= 2) negative.merge(negative);
  EXPECT_EQ(negative.value(), -static_cast<double>(kMostTerms) * most);
  negative.add(0x1p20);  // a bin above: what was the top becomes a lower bin
  EXPECT_EQ(negative.value(), -static_cast<double>(kMostTerms) * most + 0x1p20);
}

// ---- the vector code of every path: the same words as the plain code, whatever comes

const TileOps& ops_of(std::string_view path) {
#if defined(__x86_64__)
  if (path == "avx2") return avx2_tile_ops();
  if (path == "avx512") return avx512_tile_ops();
#endif
  return portable_tile_ops();
}

TEST(AddExactly, EveryPathIsThePlainCode) {
  for (const std::string_view path : available_cpu_paths()) {
    SCOPED_TRACE(std::string(path));
    const TileOps& ops = ops_of(path);
    Random random(11);
    for (int round = 0; round < 3000; ++round) {
      const int64_t n = 1 + random.uniform(40);
      std::vector<int64_t> words(static_cast<size_t>(2 * n), 0), expected = words;
      const auto kind = static_cast<int>(random.uniform(10));
      for (int turn = 0; turn < 6; ++turn) {
        std::vector<float> from;
        for (int64_t i = 0; i < n; ++i) {
          const double spread = kind == 0 ? 0 : static_cast<double>(random.uniform(-30 * kind, 14 * kind));
          const double x = std::ldexp(random.normal(), static_cast<int>(spread));
          from.push_back(random.uniform(20) == 0 ? 0 : static_cast<float>(x));
        }
        const double factor = random.uniform(2) ? 1 : random.normal() + 0x1p-30;
        const int64_t bins = random.uniform(2) ? 0 : -random.uniform(40);
        if (kind == 9 && turn == 3) {  // some sums are not finite any more
          for (std::vector<int64_t>* sums : {&words, &expected}) add_one_exactly(kInfinity, 0, sums->data(), n);
        }
        ops.add_exactly(from.data(), factor, bins, words.data(), n);
        for (int64_t i = 0; i < n; ++i) {
          auto sum = ExactSum<2>::load(expected.data(), n, i);
          sum.add(from[static_cast<size_t>(i)] * factor, bins);
          sum.store(expected.data(), n, i);
        }
        ASSERT_EQ(words, expected) << "round " << round << ", turn " << turn << ", kind " << kind;
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
