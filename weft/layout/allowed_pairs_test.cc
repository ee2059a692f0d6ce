#include "weft/layout/allowed_pairs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "weft/layout/layout.h"
#include "weft/layout/testing.h"

namespace weft {
namespace {

struct Case {
  std::string name;
  Mask mask;
  std::vector<char> allowed;  // queries x keys, by position
  Layout queries;
  Layout keys;

  // By slot, the only brute force of this file.
  bool sees(int64_t query, int64_t key) const {
    const int64_t q = queries.axis().position(query), k = keys.axis().position(key);
    return allowed[static_cast<size_t>(q * mask.keys() + k)] != 0;
  }
};

Layout random_layout(Random& random, int64_t tokens) {
  const int ranks = static_cast<int>(random.uniform(1, 8));
  switch (random.uniform(6)) {
    case 0: return Layout::contiguous(tokens, ranks);
    case 1: return Layout::zigzag(tokens, ranks);
    case 2: return Layout::striped(tokens, ranks);
    case 3: return Layout::document_zigzag(random_lengths(random, tokens), ranks);
    default: break;
  }
  return Layout::from_runs(tokens, random_runs(random, tokens, ranks));
}

// Random disjoint bands, and the pairs they hold.
Mask random_bands(Random& random, int64_t queries, int64_t keys, std::vector<char>& allowed) {
  std::vector<BandRectangle> bands;
  for (int i = 0; i < 20; ++i) {
    const int64_t q = random.uniform(queries), k = random.uniform(keys);
    BandRectangle band{.q = {q, random.uniform(q, queries + 1)}, .k = {k, random.uniform(k, keys + 1)}};
    if (random.uniform(2) == 0) band.lo = random.uniform(-keys, keys + 1);
    if (random.uniform(2) == 0) band.hi = random.uniform(-keys, keys + 1);
    std::vector<char> next = allowed;
    bool free = true;
    for (int64_t x = 0; x < queries; ++x) {
      for (int64_t y = 0; y < keys; ++y) {
        if (!band.contains(x, y)) continue;
        char& pair = next[static_cast<size_t>(x * keys + y)];
        free &= pair == 0;
        pair = 1;
      }
    }
    if (!free) continue;
    allowed = next;
    bands.push_back(band);
  }
  return Mask::from_bands(queries, keys, std::move(bands));
}

Case random_case(Random& random) {
  const int64_t tokens = random.uniform(1, 40);
  const int64_t other = random.uniform(1, 40);
  const int kind = static_cast<int>(random.uniform(6));
  const bool square = kind < 4;
  const int64_t keys = square ? tokens : other;
  std::vector<char> allowed(static_cast<size_t>(tokens * keys), 0);
  Mask mask = Mask::cross(tokens, keys);
  if (square) {
    MaskRule rule;
    if (kind > 0) rule.causal = random.uniform(2) == 0;
    if (kind > 1) rule.window = random.uniform(3) == 0 ? 0 : random.uniform(1, 10);
    std::vector<int64_t> lengths = {tokens};
    if (kind == 3) lengths = random_lengths(random, tokens);
    int64_t begin = 0;
    for (int64_t length : lengths) {
      for (int64_t q = begin; q < begin + length; ++q) {
        for (int64_t k = begin; k < begin + length; ++k) {
          const bool sees = (!rule.causal || k <= q) && (rule.window == 0 || std::abs(k - q) < rule.window);
          allowed[static_cast<size_t>(q * keys + k)] = sees;
        }
      }
      begin += length;
    }
    mask = Mask::documents(lengths, rule);
  } else if (kind == 4) {
    std::fill(allowed.begin(), allowed.end(), 1);
  } else {
    mask = random_bands(random, tokens, keys, allowed);
  }
  Layout queries = random_layout(random, tokens);
  Layout key_layout = square && random.uniform(2) == 0 ? queries : random_layout(random, keys);
  return {"kind " + std::to_string(kind) + ", " + queries.name() + " x " + key_layout.name(), std::move(mask),
          std::move(allowed), std::move(queries), std::move(key_layout)};
}

// A shard, everything, a few ranks, or any intervals.
IntervalSet random_slots(Random& random, const Layout& layout) {
  const int64_t choice = random.uniform(5);
  const int first = static_cast<int>(random.uniform(layout.ranks()));
  if (choice == 0) return layout.shard(first);
  if (choice == 1) return layout.shards().of(first, static_cast<int>(random.uniform(layout.ranks())) + 1);
  if (choice == 2) return Range{0, layout.tokens()};
  IntervalSet set;
  for (int64_t n = random.uniform(8); n > 0; --n) {
    const int64_t begin = random.uniform(layout.tokens());
    set.unite(Range{begin, std::min(layout.tokens(), begin + random.uniform(1, 9))});
  }
  return set;
}

std::vector<int64_t> members(const IntervalSet& set) {
  std::vector<int64_t> result;
  for (const Range& range : set.ranges()) {
    for (int64_t x = range.begin; x < range.end; ++x) result.push_back(x);
  }
  return result;
}

TEST(AllowedPairs, AgreeWithThePairsOneByOne) {
  Random random(1);
  for (int trial = 0; trial < 3000; ++trial) {
    const Case c = random_case(random);
    const AllowedPairs pairs(c.mask, c.queries.axis(), c.keys.axis());
    for (int again = 0; again < 4; ++again) {
      const IntervalSet queries = random_slots(random, c.queries);
      const IntervalSet keys = random_slots(random, c.keys);
      int64_t area = 0;
      IntervalSet keys_needed, queries_needed;
      for (int64_t q : members(queries)) {
        bool needed = false;
        for (int64_t k : members(keys)) {
          if (!c.sees(q, k)) continue;
          ++area;
          needed = true;
          keys_needed.unite(Range{k, k + 1});
        }
        if (needed) queries_needed.append({q, q + 1});
      }
      const std::string what = "trial " + std::to_string(trial) + ", " + c.name + ", queries " + to_string(queries) +
                               ", keys " + to_string(keys);
      ASSERT_EQ(pairs.area(queries, keys), area) << what;
      ASSERT_EQ(pairs.any(queries, keys), area > 0) << what;
      ASSERT_EQ(pairs.keys_needed(queries, keys), keys_needed) << what;
      ASSERT_EQ(pairs.queries_needed(queries, keys), queries_needed) << what;
    }
  }
}

TEST(AllowedPairs, BandsInSlotsAreDisjointAndExact) {
  Random random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    const Case c = random_case(random);
    const AllowedPairs pairs(c.mask, c.queries.axis(), c.keys.axis());
    const int64_t q0 = random.uniform(c.queries.tokens()), k0 = random.uniform(c.keys.tokens());
    const Range q{q0, random.uniform(q0, c.queries.tokens() + 1)};
    const Range k{k0, random.uniform(k0, c.keys.tokens() + 1)};
    std::vector<int> times(static_cast<size_t>(c.queries.tokens() * c.keys.tokens()), 0);
    int bands = 0;
    pairs.for_each_band(q, k, [&](const BandRectangle& band) {
      ++bands;
      EXPECT_FALSE(band.empty());
      EXPECT_EQ(intersect(band.q, q), band.q);
      EXPECT_EQ(intersect(band.k, k), band.k);
      for (int64_t i = band.q.begin; i < band.q.end; ++i) {
        for (int64_t j = band.k.begin; j < band.k.end; ++j) {
          times[static_cast<size_t>(i * c.keys.tokens() + j)] += band.contains(i, j);
        }
      }
      return true;
    });
    for (int64_t i = 0; i < c.queries.tokens(); ++i) {
      for (int64_t j = 0; j < c.keys.tokens(); ++j) {
        const bool expected = q.contains(i) && k.contains(j) && c.sees(i, j);
        ASSERT_EQ(times[static_cast<size_t>(i * c.keys.tokens() + j)], expected)
            << "trial " << trial << ", " << c.name << ", slots " << i << ", " << j;
      }
    }
    const int stop = static_cast<int>(random.uniform(1, 4));
    int calls = 0;
    pairs.for_each_band(q, k, [&](const BandRectangle&) { return ++calls < stop; });
    ASSERT_EQ(calls, std::min(bands, stop));
  }
}

// Slots of one stride on both sides keep the form of a band: one per pair of runs, not one per row.
TEST(AllowedPairs, EqualStridesGiveOneBand) {
  const Layout layout = Layout::striped(4000, 8);
  const AllowedPairs pairs(Mask::of(4000, {.causal = true}), layout.axis(), layout.axis());
  for (int a = 0; a < 8; ++a) {
    for (int b = 0; b < 8; ++b) {
      int bands = 0;
      pairs.for_each_band(layout.shard(a).hull(), layout.shard(b).hull(), [&](const BandRectangle& band) {
        EXPECT_EQ(band.area(), b <= a ? 500 * 501 / 2 : 500 * 499 / 2);
        return ++bands > 0;
      });
      EXPECT_EQ(bands, 1);
    }
  }
}

TEST(AllowedPairs, EmptySetsHaveNoPairs) {
  const Layout layout = Layout::striped(12, 3);
  const AllowedPairs pairs(Mask::of(12, {}), layout.axis(), layout.axis());
  const IntervalSet none, all(Range{0, 12});
  EXPECT_EQ(pairs.area(none, all) + pairs.area(all, none), 0);
  EXPECT_FALSE(pairs.any(none, all) || pairs.any(all, none) || pairs.any(none, none));
  EXPECT_TRUE(pairs.keys_needed(none, all).empty() && pairs.keys_needed(all, none).empty());
  EXPECT_TRUE(pairs.queries_needed(none, all).empty() && pairs.queries_needed(all, none).empty());
}

TEST(AllowedPairs, AxesMustFitTheMask) {
  const Axis ten = Axis::identity(10), eleven = Axis::identity(11);
  EXPECT_NO_THROW(AllowedPairs(Mask::cross(10, 11), ten, eleven));
  EXPECT_THROW(AllowedPairs(Mask::cross(10, 11), eleven, ten), Error);
  EXPECT_THROW(AllowedPairs(Mask::of(10, {}), ten, eleven), Error);
  EXPECT_THROW(AllowedPairs(Mask::of(10, {}), eleven, ten), Error);
}

// Every pair of shards of a long packed sequence: the areas add up to that of the mask.
TEST(AllowedPairs, ShardsOfALongSequenceAddUp) {
  Random random(3);
  std::vector<int64_t> lengths;
  int64_t tokens = 0;
  for (int i = 0; i < 300; ++i) {
    lengths.push_back(random.uniform(1, i % 10 == 0 ? 40'000 : 2'000));
    tokens += lengths.back();
  }
  const int ranks = 32;
  const Mask mask = Mask::documents(lengths, {.causal = true, .window = 4096});
  for (std::string_view name : layout_names()) {
    const Layout layout = make_layout(name, lengths, ranks);
    const AllowedPairs pairs(mask, layout.axis(), layout.axis());
    int64_t sum = 0;
    for (int q = 0; q < ranks; ++q) {
      IntervalSet needed;
      for (int k = 0; k < ranks; ++k) {
        sum += pairs.area(layout.shard(q), layout.shard(k));
        needed.unite(pairs.keys_needed(layout.shard(q), layout.shard(k)));
      }
      EXPECT_EQ(needed, pairs.keys_needed(layout.shard(q), layout.shards().of(0, ranks))) << name;
      EXPECT_TRUE(needed.includes(layout.shard(q))) << name;  // causal: each token sees itself
    }
    EXPECT_EQ(sum, mask.area()) << name;
  }
}

TEST(Division, RoundsDownAndUpForAnySign) {
  for (int64_t b : {1, 2, 3, 7}) {
    for (int64_t a = -50; a <= 50; ++a) {
      EXPECT_LE(floor_div(a, b) * b, a);
      EXPECT_GT(floor_div(a, b) * b, a - b);
      EXPECT_GE(ceil_div(a, b) * b, a);
      EXPECT_LT(ceil_div(a, b) * b, a + b);
    }
  }
}

}  // namespace
}  // namespace weft
