#include "weft/schedule/pieces.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

// Zigzag over two ranks: 0..3, 9..12 and 3..9.
Problem snake(Layer layer) {
  Problem problem = self_attention(Mask::of(12, {.causal = true}), Layout::zigzag(12, 2), 1, 1, 2);
  problem.layer = layer;
  return problem;
}

TEST(Pieces, AreWhatShardsCut) {
  const Pieces pieces(snake(Layer::gla));
  EXPECT_EQ(pieces.count({0, 12}), 3);
  EXPECT_EQ(pieces.count({1, 9}), 2);
  EXPECT_EQ(pieces.count({1, 10}), 3);
  EXPECT_EQ(pieces.count({4, 5}), 1);
  EXPECT_EQ(pieces.number({1, 10}, 1), 0);
  EXPECT_EQ(pieces.number({1, 10}, 3), 1);
  EXPECT_EQ(pieces.number({1, 10}, 9), 2);
  EXPECT_EQ(pieces.holding({1, 10}, 2), (Range{1, 3}));
  EXPECT_EQ(pieces.holding({1, 10}, 8), (Range{3, 9}));
  EXPECT_EQ(pieces.holding({1, 10}, 9), (Range{9, 10}));
}

// Of shards of one size and of many: every token is in the piece that contains it.
TEST(Pieces, HoldingIsThePieceWithTheToken) {
  for (const int64_t tokens : {1, 5, 40, 41, 47, 64}) {
    for (const int ranks : {1, 2, 3, 8}) {
      for (const Layout& layout : {Layout::contiguous(tokens, ranks), Layout::zigzag(tokens, ranks)}) {
        Problem problem = self_attention(Mask::of(tokens, {.causal = true}), layout, 1, 1, 2);
        problem.layer = Layer::gla;
        const Pieces pieces(problem);
        std::vector<bool> cut(static_cast<size_t>(tokens));
        for (int rank = 0; rank < ranks; ++rank) {
          for (const Range run : layout.shard(rank).ranges()) cut[static_cast<size_t>(run.begin)] = true;
        }
        Range want{0, 0};
        for (int64_t token = 0; token < tokens; ++token) {
          if (token == 0 || cut[static_cast<size_t>(token)]) {
            want = {token, token + 1};
            while (want.end < tokens && !cut[static_cast<size_t>(want.end)]) ++want.end;
          }
          EXPECT_EQ(pieces.holding({0, tokens}, token), want) << tokens << " over " << ranks << ", token " << token;
        }
      }
    }
  }
}

TEST(Pieces, WholeOnesBeginAndEndAtCuts) {
  const Pieces pieces(snake(Layer::gla));
  EXPECT_TRUE(pieces.are_whole({1, 3}, {1, 10}));
  EXPECT_TRUE(pieces.are_whole({3, 10}, {1, 10}));
  EXPECT_FALSE(pieces.are_whole({2, 3}, {1, 10}));
  EXPECT_FALSE(pieces.are_whole({3, 8}, {1, 10}));
  EXPECT_FALSE(pieces.are_whole({0, 3}, {1, 10}));
  EXPECT_FALSE(pieces.are_whole({9, 12}, {1, 10}));
  EXPECT_FALSE(pieces.are_whole({}, {1, 10}));
}

TEST(Pieces, AttentionHasNone) { EXPECT_EQ(Pieces(snake(Layer::softmax)).count({0, 12}), 1); }

}  // namespace
}  // namespace weft
