// Layouts of whole tiles.
#include <gtest/gtest.h>

#include "weft/base/random.h"
#include "weft/layout/layout.h"

namespace weft {
namespace {

TEST(Tiles, BordersMoveToTheNearestMultiple) {
  const Layout layout = Layout::contiguous(100, 3).rounded_to_tiles(16);  // borders at 33 and 66
  EXPECT_EQ(layout.shard(0), IntervalSet(Range{0, 32}));
  EXPECT_EQ(layout.shard(1), IntervalSet(Range{32, 64}));
  EXPECT_EQ(layout.shard(2), IntervalSet(Range{64, 100}));
  EXPECT_EQ(layout.name(), "contiguous");
}

TEST(Tiles, ALayoutOfTilesDealsTilesAsTokens) {
  const Layout layout = Layout::of_tiles(Layout::striped(4, 2), 30, 8);
  EXPECT_EQ(layout.shard(0), IntervalSet({{0, 8}, {16, 24}}));
  EXPECT_EQ(layout.shard(1), IntervalSet({{8, 16}, {24, 30}}));
}

TEST(Tiles, TheFirstCutIsFound) {
  EXPECT_FALSE(Layout::contiguous(64, 4).first_cut_tile(16).has_value());
  EXPECT_FALSE(Layout::contiguous(10, 1).first_cut_tile(16).has_value());
  const auto cut = Layout::contiguous(100, 3).first_cut_tile(16);
  ASSERT_TRUE(cut.has_value());
  EXPECT_EQ(cut->rank, 0);
  EXPECT_EQ(cut->position, 33);
  EXPECT_FALSE(cut->begins);
  EXPECT_TRUE(Layout::striped(100, 3).first_cut_tile(16).has_value());
  EXPECT_FALSE(Layout::striped(100, 1).first_cut_tile(16).has_value());
}

// Every layout by name, any lengths: each token once, no tile cut; pieces of contiguous change by a tile at most.
TEST(Tiles, EveryLayoutBecomesOneOfWholeTiles) {
  Random random(2);
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> lengths;
    for (int64_t n = 1 + random.uniform(5); n > 0; --n) lengths.push_back(1 + random.uniform(200));
    const int ranks = 1 + static_cast<int>(random.uniform(9));
    const int64_t tile = 1 + random.uniform(40);
    for (const std::string_view name : layout_names()) {
      const auto make = [&](const std::vector<int64_t>& of) { return make_layout(name, of, ranks); };
      const Layout layout = make_tiled_layout(lengths, tile, make);
      EXPECT_FALSE(layout.first_cut_tile(tile).has_value());
      EXPECT_EQ(layout.tokens(), make(lengths).tokens());
      EXPECT_EQ(layout.ranks(), ranks);
      int64_t tokens = 0;
      for (int rank = 0; rank < ranks; ++rank) tokens += layout.tokens_of(rank);
      EXPECT_EQ(tokens, layout.tokens());
      if (name != "contiguous") continue;
      for (int rank = 0; rank < ranks; ++rank) {
        EXPECT_LE(std::abs(layout.tokens_of(rank) - make(lengths).tokens_of(rank)), tile);
      }
    }
  }
}

}  // namespace
}  // namespace weft
