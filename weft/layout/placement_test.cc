#include "weft/layout/placement.h"

#include <gtest/gtest.h>

#include "weft/layout/allowed_pairs.h"
#include "weft/layout/testing.h"

namespace weft {
namespace {

constexpr MaskRule kPlacedRules[] = {{}, {.causal = true}, {.window = 40}, {.causal = true, .window = 100}};

std::vector<Range> cuts(int64_t tokens, int64_t size) {
  std::vector<Range> cuts;
  for (int64_t at = 0; at < tokens; at += size) cuts.push_back({at, std::min(tokens, at + size)});
  return cuts;
}

// Most documents short, a few long, none with more than a quarter of the tokens.
std::vector<int64_t> capped_long_tail(Random& random, int64_t tokens) {
  std::vector<int64_t> lengths;
  for (int64_t left = tokens; left > 0; left -= lengths.back()) {
    const int64_t length = random.uniform(1, 2 + (int64_t{1} << random.uniform(0, random.uniform(1, 13))));
    lengths.push_back(std::min({length, left, std::max<int64_t>(1, tokens / 4)}));
  }
  return lengths;
}

// The same from sets.
TEST(Placement, CostIsWhatRanksNeedOfEachOther) {
  Random random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 150));
    const Mask mask = Mask::documents(lengths, kPlacedRules[trial % 4]);
    const int ranks = static_cast<int>(random.uniform(1, 7));
    const Layout layout = Layout::from_runs(mask.keys(), random_runs(random, mask.keys(), ranks));
    const AllowedPairs pairs(mask, layout.axis(), layout.axis());
    const IntervalSet all(Range{0, mask.keys()});
    PlacementCost cost;
    for (int rank = 0; rank < ranks; ++rank) {
      cost.rows += pairs.keys_needed(layout.shard(rank), all).size() - layout.tokens_of(rank);
      cost.busiest = std::max(cost.busiest, pairs.area(layout.shard(rank), all));
    }
    ASSERT_EQ(cost_of(mask, layout).rows, cost.rows);
    ASSERT_EQ(cost_of(mask, layout).busiest, cost.busiest);
  }
}

// As many chunks, or one fewer; zigzag and its like differ by a token.
void expect_equal_counts(const Layout& layout, int64_t chunks, int64_t size) {
  int64_t least = layout.tokens(), most = 0;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    least = std::min(least, layout.tokens_of(rank));
    most = std::max(most, layout.tokens_of(rank));
  }
  const bool of_chunks = layout.name() == "runs";  // of which the last may be short
  ASSERT_LE(most - least, of_chunks ? 2 * size - 1 : 1);
  if (!of_chunks) return;
  ASSERT_LE(most, (chunks + layout.ranks() - 1) / layout.ranks() * size);
  ASSERT_GE(least, (chunks / layout.ranks() - 1) * size + 1);
}

bool is_better(const PlacementCost& a, const PlacementCost& b) {
  return a.rows <= b.rows && a.busiest <= b.busiest && (a.rows < b.rows || a.busiest < b.busiest);
}

// Within the limit, and no known layout within it is better in one and as good in the other.
TEST(Placement, NothingKnownIsBetter) {
  Random random(4);
  for (int trial = 0; trial < 60; ++trial) {
    const int ranks = static_cast<int>(random.uniform(1, 13));
    const std::vector<int64_t> lengths = capped_long_tail(random, random.uniform(1, 9000));
    const MaskRule rule = kPlacedRules[trial % 4];
    const Mask mask = Mask::documents(lengths, rule);
    const int64_t size = std::max<int64_t>(1, mask.keys() / ranks / random.uniform(1, 20));
    const std::vector<Range> chunks = cuts(mask.keys(), size);
    const int64_t imbalance = trial % 3 * 5;
    const Layout even = place_by_work(mask, chunks, ranks);
    const Layout near = place_by_traffic(mask, lengths, chunks, ranks, imbalance);
    ASSERT_EQ(near, place_by_traffic(mask, lengths, chunks, ranks, imbalance));
    expect_equal_counts(even, static_cast<int64_t>(chunks.size()), size);
    expect_equal_counts(near, static_cast<int64_t>(chunks.size()), size);
    const PlacementCost of_even = cost_of(mask, even), of_near = cost_of(mask, near);
    const int64_t limit = std::max(of_even.busiest, mask.area() * (100 + imbalance) / (100 * ranks));
    ASSERT_LE(of_near.busiest, limit) << trial;
    ASSERT_FALSE(is_better(of_even, of_near)) << trial;
    for (const char* name : {"contiguous", "zigzag", "document-zigzag"}) {
      const PlacementCost known = cost_of(mask, make_layout(name, lengths, ranks));
      ASSERT_FALSE(known.busiest <= limit && is_better(known, of_near)) << trial << " " << name;
    }
  }
}

// Packed documents of long-tailed lengths: a third of what dealing by work sends at most.
TEST(Placement, TrafficFallsFarForLongTails) {
  Random random(5);
  for (int trial = 0; trial < 8; ++trial) {
    const int ranks = trial % 2 == 0 ? 8 : 16;
    const std::vector<int64_t> lengths = capped_long_tail(random, ranks * 4096);
    const Mask mask = Mask::documents(lengths, kPlacedRules[trial / 2]);
    const std::vector<Range> chunks = cuts(mask.keys(), 256);
    const int64_t near = cost_of(mask, place_by_traffic(mask, lengths, chunks, ranks, 5)).rows;
    EXPECT_LE(3 * near, cost_of(mask, place_by_work(mask, chunks, ranks)).rows) << trial;
  }
}

// Documents that fill ranks exactly need nothing of each other, and a search should see it.
TEST(Placement, EqualDocumentsStayWhole) {
  const std::vector<int64_t> lengths(24, 512);
  const Mask mask = Mask::documents(lengths, {.causal = true});
  for (int ranks : {2, 3, 8, 24}) {
    EXPECT_EQ(cost_of(mask, place_by_traffic(mask, lengths, cuts(mask.keys(), 64), ranks, 0)).rows, 0) << ranks;
  }
}

// One document of 8, 7, 6, ... pairs a chunk, as in the published tests of the dealing: 19 and 17 for 2 ranks.
TEST(Placement, ByWorkIsTheHeaviestFirst) {
  // Chunks of one document of this length each, with a window of one: as many pairs as tokens.
  const std::vector<int64_t> works = {8, 7, 6, 5, 4, 2, 2, 2};
  std::vector<Range> chunks;
  int64_t at = 0;
  for (int64_t work : works) chunks.push_back({at, at + work}), at += work;
  const Mask mask = Mask::documents(works, {.window = 1});
  const Layout layout = place_by_work(mask, chunks, 2);
  EXPECT_EQ(cost_of(mask, layout).busiest, 19);
  EXPECT_EQ(cost_of(mask, layout).rows, 0);
}

TEST(Placement, FewerTokensThanRanks) {
  const Mask mask = Mask::documents({2, 1}, {.causal = true});
  const Layout layout = place_by_traffic(mask, {2, 1}, cuts(3, 1), 7, 5);
  EXPECT_EQ(layout.ranks(), 7);
  EXPECT_EQ(layout.tokens(), 3);
}

}  // namespace
}  // namespace weft
