// DualChunkSwap: shards are those of TransformerEngine and Megatron-LM, by their published examples and index formulas.
#include "weft/layout/testing.h"

namespace weft {
namespace {

// The rows of a rank as those codes compute them: documents padded to a multiple of 2 x ranks, seen as 2 x ranks equal
// chunks, of which chunk `rank` and chunk 2 x ranks - 1 - rank are taken. Padding rows are then left out.
Positions of_padded_documents(const std::vector<int64_t>& lengths, int ranks, int rank) {
  Positions result;
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    int64_t padded = length;
    while (padded % (2 * ranks) != 0) ++padded;
    const int64_t half = padded / ranks / 2;
    for (int64_t i = 0; i < 2 * half; ++i) {
      // Where a local row stands in its document, as rotary embeddings see it.
      const int64_t position = i < half ? rank * half + i : padded - (rank + 1) * half + (i - half);
      if (position < length) result.push_back(begin + position);
    }
    begin += length;
  }
  return result;
}

TEST(DualChunk, PublishedExamples) {
  const Layout two = Layout::dual_chunk({8, 8}, 2);
  EXPECT_EQ(all_positions(two), (std::vector<Positions>{{0, 1, 6, 7, 8, 9, 14, 15}, {2, 3, 4, 5, 10, 11, 12, 13}}));
  // Documents of 8, 8, 8 and 16 on four ranks: rank 0 has positions 0, 7 | 0, 7 | 0, 7 | 0, 1, 14, 15 of them.
  const Layout four = Layout::dual_chunk({8, 8, 8, 16}, 4);
  EXPECT_EQ(four.positions(0), (Positions{0, 7, 8, 15, 16, 23, 24, 25, 38, 39}));
  EXPECT_EQ(four.positions(3), (Positions{3, 4, 11, 12, 19, 20, 30, 31, 32, 33}));
}

TEST(DualChunk, ShardsAreThoseOfPaddedDocuments) {
  Random random(21);
  for (int trial = 0; trial < 2000; ++trial) {
    const int ranks = static_cast<int>(random.uniform(1, 14));
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 300));
    const Layout layout = Layout::dual_chunk(lengths, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      ASSERT_EQ(layout.positions(rank), of_padded_documents(lengths, ranks, rank)) << trial << ", rank " << rank;
    }
  }
}

// How many rows of a document each half of a rank has: its real length clamped to the chunk.
TEST(DualChunk, RealRowsOfEachHalf) {
  for (int64_t length = 1; length <= 70; ++length) {
    for (int ranks : {1, 2, 3, 4, 8}) {
      const int64_t chunk = (length + 2 * ranks - 1) / (2 * ranks);
      const Layout layout = Layout::dual_chunk({length}, ranks);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const int64_t low = std::clamp<int64_t>(length - rank * chunk, 0, chunk);
        const int64_t high = std::clamp<int64_t>(length - (2 * ranks - 1 - rank) * chunk, 0, chunk);
        ASSERT_EQ(layout.tokens_of(static_cast<int>(rank)), low + high) << length << " on " << ranks;
      }
    }
  }
}

TEST(DualChunk, OneDocumentThatDividesIsZigzag) {
  for (int ranks : {1, 2, 3, 7, 64}) {
    for (int64_t size : {1, 2, 9}) {
      const int64_t tokens = 2 * ranks * size;
      EXPECT_EQ(Layout::dual_chunk({tokens}, ranks), Layout::zigzag(tokens, ranks)) << tokens << " on " << ranks;
    }
  }
}

// Hierarchical a2a+p2p: after the all-to-all among u consecutive ranks their chunks lie in the order of the ranks, and the
// code puts them in order by the list 0, 2, .., 2u-2, 2u-1, 2u-3, .., 1. That is the pair of chunks that a ring over r
// places wants, and it is the order in which any set of slots is kept here.
TEST(DualChunk, OrderAfterAnAllToAllOfHeads) {
  for (int u : {1, 2, 3, 4, 8}) {
    for (int r : {1, 2, 3, 4}) {
      const int ranks = u * r;
      const int64_t chunk = 3, tokens = chunk * 2 * ranks;
      const Layout layout = Layout::dual_chunk({tokens}, ranks);
      std::vector<int> order;
      for (int i = 0; i < u; ++i) order.push_back(2 * i);
      for (int i = u - 1; i >= 0; --i) order.push_back(2 * i + 1);
      for (int place = 0; place < r; ++place) {
        Positions gathered, ordered;
        IntervalSet slots;
        for (int index = 0; index < u; ++index) {
          const Positions some = layout.positions(place * u + index);
          gathered.insert(gathered.end(), some.begin(), some.end());
          slots.unite(layout.shard(place * u + index));
        }
        for (int i : order)
          ordered.insert(ordered.end(), gathered.begin() + i * chunk, gathered.begin() + (i + 1) * chunk);
        EXPECT_EQ(ordered, Layout::zigzag(tokens, r).positions(place)) << u << " x " << r;
        EXPECT_EQ(slots, Layout::zigzag(tokens, r).shard(place)) << u << " x " << r;
      }
    }
  }
}

}  // namespace
}  // namespace weft
