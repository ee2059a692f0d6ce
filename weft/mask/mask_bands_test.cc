// Masks from rectangles: overlap, order, and what is found again.
#include "weft/mask/mask.h"
#include "weft/mask/testing.h"

namespace weft {
namespace {

BandRectangle random_band(Random& random, int64_t queries, int64_t keys) {
  const int64_t q = random.uniform(queries), k = random.uniform(keys);
  BandRectangle band{.q = {q, random.uniform(q, queries + 1)}, .k = {k, random.uniform(k, keys + 1)}};
  if (random.uniform(2) == 0) band.lo = random.uniform(-keys, keys + 1);
  if (random.uniform(2) == 0) band.hi = random.uniform(-keys, keys + 1);
  return band;
}

struct Bands {
  std::vector<BandRectangle> bands;  // disjoint, in random order, some of them empty
  PairTable table;
};

Bands random_bands(Random& random, int64_t queries, int64_t keys, int tries) {
  Bands result{{}, PairTable(queries, keys)};
  for (int i = 0; i < tries; ++i) {
    const BandRectangle band = random_band(random, queries, keys);
    bool free = true;
    for (int64_t q = band.q.begin; q < band.q.end; ++q) {
      for (int64_t k = band.k.begin; k < band.k.end; ++k) {
        free &= !(band.contains(q, k) && result.table.at(q, k));
      }
    }
    if (!free) continue;
    for (int64_t q = band.q.begin; q < band.q.end; ++q) {
      for (int64_t k = band.k.begin; k < band.k.end; ++k) {
        if (band.contains(q, k)) result.table.at(q, k) = 1;
      }
    }
    result.bands.push_back(band);
  }
  random.shuffle(std::span(result.bands));
  return result;
}

TEST(Mask, BandsMustLieInside) {
  const auto one = [](BandRectangle band) { Mask::from_bands(10, 20, {band}); };
  one({.q = {0, 10}, .k = {0, 20}});
  one({.q = {99, 99}, .k = {0, 20}});  // empty, wherever it is
  refusal([&] { one({.q = {-1, 10}, .k = {0, 20}}); });
  refusal([&] { one({.q = {0, 11}, .k = {0, 20}}); });
  refusal([&] { one({.q = {0, 10}, .k = {-1, 20}}); });
  refusal([&] { one({.q = {0, 10}, .k = {0, 21}}); });
  refusal([&] { one({.q = {0, kHuge}, .k = {0, 20}}); });
  refusal([&] { one({.q = {-kHuge - 1, 1}, .k = {0, 20}}); });
}

TEST(Mask, DiagonalsMayHaveAnyValue) {
  const auto area = [](int64_t lo, int64_t hi) {
    const Mask mask = Mask::from_bands(10, 20, {{.q = {0, 10}, .k = {0, 20}, .lo = lo, .hi = hi}});
    EXPECT_EQ(mask.transposed().area(), mask.area());
    EXPECT_EQ(mask.transposed().transposed(), mask);
    return mask.area();
  };
  EXPECT_EQ(area(-kHuge - 1, kHuge), 200);
  EXPECT_EQ(area(-kHuge - 1, 0), 55);
  EXPECT_EQ(area(1, kHuge), 145);
  EXPECT_EQ(area(kHuge, kHuge), 0);
  EXPECT_EQ(area(-kHuge - 1, -kHuge - 1), 0);
  EXPECT_EQ(area(kHuge, -kHuge - 1), 0);
  EXPECT_EQ(area(3, 2), 0);
}

TEST(Mask, DisjointBandsAreTakenInAnyOrder) {
  Random random(2);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t queries = random.uniform(1, 16), keys = random.uniform(1, 16);
    Bands sample = random_bands(random, queries, keys, 40);
    const Mask mask = Mask::from_bands(queries, keys, sample.bands);
    ASSERT_NO_FATAL_FAILURE(expect_is(mask, sample.table));
    random.shuffle(std::span(sample.bands));
    ASSERT_EQ(Mask::from_bands(queries, keys, sample.bands), mask);
  }
}

TEST(Mask, OverlapIsRefusedExactlyWhenThereIsOne) {
  Random random(3);
  int refused = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const int64_t queries = random.uniform(1, 12), keys = random.uniform(1, 12);
    std::vector<BandRectangle> bands = random_bands(random, queries, keys, 12).bands;
    PairTable table(queries, keys);
    if (random.uniform(2) == 0) bands.push_back(random_band(random, queries, keys));
    random.shuffle(std::span(bands));
    bool overlap = false;
    for (const BandRectangle& band : bands) {
      for (int64_t q = 0; q < queries; ++q) {
        for (int64_t k = 0; k < keys; ++k) {
          if (!band.contains(q, k)) continue;
          overlap |= table.at(q, k);
          table.at(q, k) = 1;
        }
      }
    }
    bool thrown = false;
    try {
      Mask::from_bands(queries, keys, bands);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::usage);
      thrown = true;
    }
    ASSERT_EQ(thrown, overlap) << "trial " << trial;
    refused += thrown;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 19000);
}

TEST(Mask, ComplementaryTrianglesShareABox) {
  const BandRectangle lower{.q = {0, 8}, .k = {0, 8}, .hi = 0};
  const BandRectangle upper{.q = {0, 8}, .k = {0, 8}, .lo = 1};
  const Mask mask = Mask::from_bands(8, 8, {upper, lower});
  EXPECT_EQ(mask.area(), 64);
  EXPECT_EQ(mask, Mask::from_bands(8, 8, {lower, upper}));
  BandRectangle touching = upper;
  touching.lo = 0;
  const std::string message = refusal([&] { Mask::from_bands(8, 8, {lower, touching}); });
  EXPECT_NE(message.find("rectangles 0 and 1 overlap"), std::string::npos) << message;
}

// A diagonal runs into a column that another rectangle keeps it apart from at first.
TEST(Mask, OverlapIsFoundAfterWhatLiesBetweenEnds) {
  const BandRectangle between{.q = {0, 4}, .k = {5, 6}};
  const BandRectangle column{.q = {1, 9}, .k = {7, 8}};
  BandRectangle diagonal{.q = {2, 9}, .k = {0, 9}, .lo = 0, .hi = 0};
  const BandRectangle later{.q = {6, 9}, .k = {0, 1}};
  refusal([&] { Mask::from_bands(9, 9, {between, column, diagonal}); });
  refusal([&] { Mask::from_bands(9, 9, {later, diagonal, column, between}); });
  diagonal.q.end = 7;  // the row before they meet
  EXPECT_EQ(Mask::from_bands(9, 9, {later, diagonal, column, between}).area(), 4 + 8 + 5 + 3);
}

TEST(Mask, OverlapNamesTheRectanglesAsTheyWereGiven) {
  const std::string message = refusal([&] {
    Mask::from_bands(9, 9,
                     {{.q = {6, 9}, .k = {6, 9}},
                      {.q = {0, 2}, .k = {0, 2}},
                      {.q = {3, 5}, .k = {3, 5}},
                      {.q = {1, 2}, .k = {1, 3}}});
  });
  EXPECT_NE(message.find("rectangles 1 and 3 overlap"), std::string::npos) << message;
}

// Areas beyond 2^63 in total must be refused before they are summed.
TEST(Mask, ManyHugeOverlappingBandsAreRefused) {
  const BandRectangle all{.q = {0, kMost}, .k = {0, kMost}};
  refusal([&] { Mask::from_bands(kMost, kMost, std::vector<BandRectangle>(5, all)); });
}

// Comparing all pairs would take minutes.
TEST(Mask, AHundredThousandBandsOverTheSameQueriesAreChecked) {
  constexpr int64_t kBands = 100'000;
  std::vector<BandRectangle> columns, diagonals;
  for (int64_t i = 0; i < kBands; ++i) {
    columns.push_back({.q = {0, 1000}, .k = {3 * i, 3 * i + 2}});
    diagonals.push_back({.q = {0, 1000}, .k = {0, 3 * kBands}, .lo = 2 * i, .hi = 2 * i});
  }
  Random random(4);
  random.shuffle(std::span(columns));
  random.shuffle(std::span(diagonals));
  EXPECT_EQ(Mask::from_bands(1000, 3 * kBands, columns).area(), 2000 * kBands);
  EXPECT_EQ(Mask::from_bands(1000, 3 * kBands, diagonals).area(), 1000 * kBands);
  columns.push_back({.q = {999, 1000}, .k = {3001, 3003}});
  diagonals.push_back({.q = {999, 1000}, .k = {3001, 3002}});
  refusal([&] { Mask::from_bands(1000, 3 * kBands, columns); });
  refusal([&] { Mask::from_bands(1000, 3 * kBands, diagonals); });
}

void expect_bands_meeting(const Mask& mask, Random& random, bool exact) {
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t q0 = random.uniform(mask.queries()), k0 = random.uniform(mask.keys());
    const Range q{q0, random.uniform(q0, mask.queries()) + 1};
    const Range k{k0, random.uniform(k0, mask.keys()) + 1};
    const auto found = mask.bands_meeting(q, k);
    for (size_t i = 0; i < mask.bands().size(); ++i) {
      const BandRectangle* band = &mask.bands()[i];
      const bool given = band >= found.data() && band < found.data() + found.size();
      const bool boxes_meet = !intersect(band->q, q).empty() && !intersect(band->k, k).empty();
      if (boxes_meet) {
        ASSERT_TRUE(given) << "band " << i << " is missing";
      } else if (exact) {
        ASSERT_FALSE(given) << "band " << i << " does not meet the ranges";
      }
    }
  }
}

TEST(Mask, BandsMeetingMissesNone) {
  Random random(5);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t queries = random.uniform(1, 20), keys = random.uniform(1, 20);
    const Bands sample = random_bands(random, queries, keys, 30);
    const Mask mask = Mask::from_bands(queries, keys, sample.bands);
    ASSERT_NO_FATAL_FAILURE(expect_bands_meeting(mask, random, false));
    ASSERT_NO_FATAL_FAILURE(expect_bands_meeting(mask.transposed(), random, false));
    const Mask documents = Mask::documents(random_lengths(random, 12, 6), random_rule(random));
    ASSERT_NO_FATAL_FAILURE(expect_bands_meeting(documents, random, true));
    ASSERT_NO_FATAL_FAILURE(expect_bands_meeting(documents.transposed(), random, true));
  }
}

TEST(Mask, TransposedExchangesTheRoles) {
  Random random(6);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t queries = random.uniform(1, 16), keys = random.uniform(1, 16);
    const Bands sample = random_bands(random, queries, keys, 30);
    PairTable flipped(keys, queries);
    for (int64_t q = 0; q < queries; ++q) {
      for (int64_t k = 0; k < keys; ++k) flipped.at(k, q) = sample.table.at(q, k);
    }
    const Mask mask = Mask::from_bands(queries, keys, sample.bands);
    ASSERT_NO_FATAL_FAILURE(expect_is(mask.transposed(), flipped));
    ASSERT_EQ(mask.transposed().transposed(), mask);
  }
}

TEST(Mask, IncludesAgreesWithThePairs) {
  Random random(7);
  int included = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const int64_t queries = random.uniform(1, 10), keys = random.uniform(1, 10);
    const Bands a = random_bands(random, queries, keys, 20);
    Bands b = random_bands(random, queries, keys, static_cast<int>(random.uniform(4)));
    if (random.uniform(2) == 0) {  // a part of a, cut in other pieces
      b = {{}, PairTable(queries, keys)};
      const Range q{random.uniform(queries), queries}, k{random.uniform(keys), keys};
      for (const BandRectangle& band : a.bands) {
        b.bands.push_back(cut(band, q, {0, keys}));
        b.bands.push_back(cut(band, {0, q.begin}, k));
      }
      for (int64_t i = 0; i < queries; ++i) {
        for (int64_t j = 0; j < keys; ++j) {
          b.table.at(i, j) = a.table.at(i, j) && (i >= q.begin || j >= k.begin);
        }
      }
    }
    bool expected = true;
    for (size_t i = 0; i < a.table.allowed.size(); ++i) {
      expected &= a.table.allowed[i] || !b.table.allowed[i];
    }
    const Mask x = Mask::from_bands(queries, keys, a.bands);
    ASSERT_EQ(x.includes(Mask::from_bands(queries, keys, b.bands)), expected);
    ASSERT_TRUE(x.includes(x));
    included += expected;
  }
  EXPECT_GT(included, 500);
  EXPECT_LT(included, 1900);
  const Mask full = Mask::of(9, {}), causal = Mask::of(9, {.causal = true});
  EXPECT_TRUE(full.includes(causal));
  EXPECT_FALSE(causal.includes(full));
  EXPECT_TRUE(causal.includes(Mask::documents({4, 1, 4}, {.causal = true})));
  EXPECT_FALSE(full.includes(Mask::of(10, {.causal = true, .window = 1})));
}

}  // namespace
}  // namespace weft
