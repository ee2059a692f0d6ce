#include "weft/methods/passes/pieces.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "weft/base/random.h"

namespace weft::methods {
namespace {

TEST(Pieces, EveryIntervalIsCut) {
  const std::vector<IntervalSet> pieces = cut_in_pieces({{0, 6}, {20, 26}}, 3);
  EXPECT_EQ(pieces, (std::vector<IntervalSet>{{{0, 2}, {20, 22}}, {{2, 4}, {22, 24}}, {{4, 6}, {24, 26}}}));
}

TEST(Pieces, TokensLeftOverAreDealtRound) {
  const std::vector<IntervalSet> pieces = cut_in_pieces({{0, 1}, {10, 11}, {20, 21}, {30, 34}}, 3);
  EXPECT_EQ(pieces, (std::vector<IntervalSet>{{{0, 1}, {30, 32}}, {{10, 11}, {32, 33}}, {{20, 21}, {33, 34}}}));
}

TEST(Pieces, UnitsStayWhole) {
  const std::vector<IntervalSet> pieces = cut_in_pieces({{0, 32}, {64, 91}}, 2, 8);
  EXPECT_EQ(pieces, (std::vector<IntervalSet>{{{0, 16}, {64, 80}}, {{16, 32}, {80, 91}}}));
}

TEST(Pieces, ArePartsOfTheShardAndDifferByOneToken) {
  Random random(3);
  for (int trial = 0; trial < 2000; ++trial) {
    IntervalSet shard;
    for (int64_t begin = 0, n = random.uniform(5); n > 0; --n) {
      begin += random.uniform(1, 10);
      shard.append({begin, begin + random.uniform(1, 20)});
      begin = shard.hull().end;
    }
    const int count = static_cast<int>(random.uniform(1, 17));
    const std::vector<IntervalSet> pieces = cut_in_pieces(shard, count);
    ASSERT_EQ(pieces.size(), static_cast<size_t>(count));
    IntervalSet sum;
    int64_t least = shard.size(), most = 0;
    for (const IntervalSet& piece : pieces) {
      ASSERT_FALSE(sum.intersects(piece));
      sum.unite(piece);
      least = std::min(least, piece.size()), most = std::max(most, piece.size());
    }
    ASSERT_EQ(sum, shard);
    ASSERT_LE(most - least, 1);
  }
}

}  // namespace
}  // namespace weft::methods
