#include "weft/mask/band.h"

#include <gtest/gtest.h>

#include <ostream>
#include <set>
#include <utility>

#include "weft/base/random.h"

namespace weft {

static std::ostream& operator<<(std::ostream& out, const BandRectangle& band) {
  return out << "q " << band.q.begin << ".." << band.q.end << ", k " << band.k.begin << ".." << band.k.end << ", lo "
             << band.lo << ", hi " << band.hi;
}

namespace {

__extension__ using Wide = __int128;

// Row by row, and exact whatever the size.
Wide area_by_rows(const BandRectangle& band) {
  Wide sum = 0;
  for (int64_t q = band.q.begin; q < band.q.end; ++q) {
    const int64_t first = std::max(band.k.begin, q + band.lo);
    const int64_t last = std::min(band.k.end - 1, q + band.hi);
    if (first <= last) sum += last - first + 1;
  }
  return sum;
}

// Sum over x = 0 .. n - 1 of max(0, x + a).
Wide ramp(Wide n, Wide a) {
  if (a < 0) return -a >= n ? Wide{0} : ramp(n + a, 0);
  return n * a + n * (n - 1) / 2;
}

// Pairs with k - q <= hi: sum over rows of clamp(q + hi + 1 - k.begin, 0, size), in wide integers.
Wide area_below(const BandRectangle& band, Wide hi) {
  const Wide rows = band.q.size();
  const Wide first = Wide{band.q.begin} + hi + 1 - band.k.begin;
  return ramp(rows, first) - ramp(rows, first - band.k.size());
}

// Another formula than the one of the library.
Wide area_in_wide(const BandRectangle& band) {
  if (band.lo > band.hi || band.q.empty() || band.k.empty()) return 0;
  return area_below(band, band.hi) - area_below(band, Wide{band.lo} - 1);
}

int64_t random_diagonal(Random& random, int64_t unbounded, int64_t reach) {
  const int64_t choice = random.uniform(8);
  if (choice == 0) return unbounded;
  if (choice == 1) return -unbounded;
  return random.uniform(-reach, reach + 1);
}

BandRectangle random_band(Random& random) {
  const int64_t q = random.uniform(12), k = random.uniform(12);
  return {.q = {q, q + random.uniform(-1, 10)},
          .k = {k, k + random.uniform(-1, 10)},
          .lo = random_diagonal(random, kUnboundedBelow, 14),
          .hi = random_diagonal(random, kUnboundedAbove, 14)};
}

TEST(Band, AreaAndShrinkAgreeWithCounting) {
  Random random(1);
  for (int trial = 0; trial < 20000; ++trial) {
    const BandRectangle band = random_band(random);
    int64_t area = 0;
    Range q{1000, -1000}, k{1000, -1000};
    for (int64_t i = -2; i < 24; ++i) {
      for (int64_t j = -2; j < 24; ++j) {
        if (!band.contains(i, j)) continue;
        ++area;
        q = {std::min(q.begin, i), std::max(q.end, i + 1)};
        k = {std::min(k.begin, j), std::max(k.end, j + 1)};
      }
    }
    ASSERT_EQ(band.area(), area) << band;
    ASSERT_EQ(band.empty(), area == 0) << band;
    ASSERT_TRUE(area_in_wide(band) == area && area_by_rows(band) == area) << band;
    const BandRectangle small = shrink(band);
    if (area == 0) {
      ASSERT_EQ(small, BandRectangle{}) << band;
      continue;
    }
    ASSERT_EQ(small.q, q) << band;
    ASSERT_EQ(small.k, k) << band;
    ASSERT_EQ(small.lo, band.lo);
    ASSERT_EQ(small.hi, band.hi);
    ASSERT_EQ(shrink(small), small) << band;
    ASSERT_EQ(small.area(), area) << band;
    for (int64_t i = q.begin; i < q.end; ++i) {
      for (int64_t j = k.begin; j < k.end; ++j) {
        ASSERT_EQ(small.contains(i, j), band.contains(i, j)) << band;
      }
    }
  }
}

TEST(Band, CutKeepsExactlyThePairsInside) {
  Random random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    const BandRectangle band = random_band(random);
    const int64_t q = random.uniform(20), k = random.uniform(20);
    const Range queries{q, q + random.uniform(8)}, keys{k, k + random.uniform(8)};
    const BandRectangle part = cut(band, queries, keys);
    for (int64_t i = 0; i < 24; ++i) {
      for (int64_t j = 0; j < 24; ++j) {
        ASSERT_EQ(part.contains(i, j), band.contains(i, j) && queries.contains(i) && keys.contains(j));
      }
    }
  }
}

TEST(Band, AreaIsExactUpToTwoToThe31) {
  const int64_t most = (int64_t{1} << 31) - 1;
  const BandRectangle full{.q = {0, most}, .k = {0, most}};
  EXPECT_EQ(full.area(), most * most);
  BandRectangle causal = full;
  causal.hi = 0;
  EXPECT_EQ(causal.area(), most * (most + 1) / 2);
  BandRectangle strict = full;
  strict.lo = 1;
  EXPECT_EQ(causal.area() + strict.area(), full.area());

  Random random(3);
  const auto near_the_end = [&] {
    return random.uniform(3) == 0 ? most - random.uniform(4) : random.uniform(most + 1);
  };
  for (int trial = 0; trial < 50000; ++trial) {
    BandRectangle band{.q = {near_the_end(), near_the_end()}, .k = {near_the_end(), near_the_end()}};
    if (random.uniform(2) == 0) band.q.begin = random.uniform(3);
    if (random.uniform(2) == 0) band.k.begin = random.uniform(3);
    if (random.uniform(4) != 0) {
      band.lo = random_diagonal(random, kUnboundedBelow, random.uniform(2) ? most : 5);
    }
    if (random.uniform(4) != 0) {
      band.hi = random_diagonal(random, kUnboundedAbove, random.uniform(2) ? most : 5);
    }
    ASSERT_TRUE(area_in_wide(band) == band.area()) << band << ": " << band.area();
    ASSERT_EQ(shrink(band).area(), band.area()) << band;
  }
}

TEST(Band, TheExampleOfTheHeader) {
  const BandRectangle causal{.q = {0, 4}, .k = {0, 4}, .hi = 0};
  EXPECT_EQ(causal.area(), 10);
  EXPECT_EQ(cut(causal, {2, 4}, {0, 4}).area(), 7);
}

}  // namespace
}  // namespace weft
