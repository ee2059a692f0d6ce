// How evenly the layouts by name deal tokens and causal work.
#include "weft/layout/testing.h"

namespace weft {
namespace {

// Tokens per rank differ by one at most, for every layout by name but dual-chunk, which cuts as if documents were padded.
TEST(Layout, ShardsAreNearlyEqual) {
  Random random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    const int ranks = static_cast<int>(random.uniform(1, 14));
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 300));
    for (std::string_view name : layout_names()) {
      if (name == "dual-chunk") continue;
      const Layout layout = make_layout(name, lengths, ranks);
      int64_t least = layout.tokens(), most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        least = std::min(least, layout.tokens_of(rank));
        most = std::max(most, layout.tokens_of(rank));
      }
      ASSERT_LE(most - least, 1) << name << ", trial " << trial;
    }
  }
}

int64_t causal_work(const Layout& layout, int rank) {
  int64_t work = 0;
  for (int64_t position : layout.positions(rank)) work += position + 1;
  return work;
}

// Ranks hold the same number of tokens give or take one, and the two chunks of a rank lie
// symmetrically give or take one token per chunk before them. So the causal work, S^2 / 2P on
// average, differs between ranks by less than two rows of the full length S; not at all where 2P
// divides S.
TEST(Layout, ZigzagBalancesCausalWork) {
  for (int64_t tokens = 1; tokens <= 300; ++tokens) {
    for (int ranks : {1, 2, 3, 4, 5, 7, 8, 13}) {
      const Layout layout = Layout::zigzag(tokens, ranks);
      int64_t least = kHuge, most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        least = std::min(least, causal_work(layout, rank));
        most = std::max(most, causal_work(layout, rank));
      }
      ASSERT_LT(most - least, 2 * tokens) << tokens << " tokens, " << ranks << " ranks";
      if (tokens % (2 * ranks) == 0) {
        ASSERT_EQ(most, least);
      }
    }
  }
}

TEST(Layout, ShortDocumentsSpreadEvenly) {
  for (int ranks : {1, 2, 3, 4, 5, 7, 8, 13, 64}) {
    const Layout layout = Layout::document_zigzag(std::vector<int64_t>(1000, 1), ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_GE(layout.tokens_of(rank), 1000 / ranks);
      EXPECT_LE(layout.tokens_of(rank), 1000 / ranks + 1);
    }
    // Lengths whose remainders repeat with the period of the deal.
    std::vector<int64_t> lengths;
    for (int i = 0; i < 500; ++i) {
      lengths.push_back(1);
      if (ranks > 1) lengths.push_back(2 * ranks - 1);
    }
    const Layout periodic = Layout::document_zigzag(lengths, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_GE(periodic.tokens_of(rank), periodic.tokens() / ranks);
      EXPECT_LE(periodic.tokens_of(rank), periodic.tokens() / ranks + 1);
    }
  }
}

TEST(Layout, ManyShortDocumentsOnManyRanksAreQuick) {
  const Layout layout = Layout::document_zigzag(std::vector<int64_t>(100'000, 3), 4096);
  EXPECT_EQ(layout.shards().of(7, 4096), IntervalSet(Range{0, 300'000}));
  EXPECT_EQ(layout.shards().of(4000, 300).size() / 300, 73);
}

}  // namespace
}  // namespace weft
