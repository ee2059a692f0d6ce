#include "weft/layout/chunks.h"

#include <gtest/gtest.h>

#include "weft/base/interval_set.h"
#include "weft/layout/testing.h"

namespace weft {
namespace {

constexpr MaskRule kRules[] = {{}, {.causal = true}, {.window = 1}, {.window = 7}, {.causal = true, .window = 5}};

// Ascending ranges that hold every token, of random sizes.
std::vector<Range> random_cuts(Random& random, int64_t tokens) {
  std::vector<Range> cuts;
  for (int64_t at = 0; at < tokens; at = cuts.back().end) {
    cuts.push_back({at, std::min(tokens, at + random.uniform(1, 12))});
  }
  return cuts;
}

TEST(Chunks, WorkAndKeysAreThoseOfTheMask) {
  Random random(1);
  for (int trial = 0; trial < 100; ++trial) {
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 70));
    for (const MaskRule& rule : kRules) {
      const Mask mask = Mask::documents(lengths, rule);
      for (const Chunk& chunk : chunks_of(mask, random_cuts(random, mask.keys()))) {
        int64_t work = 0;
        IntervalSet keys;
        for (int64_t q = chunk.tokens.begin; q < chunk.tokens.end; ++q) {
          for (int64_t k = 0; k < mask.keys(); ++k) {
            if (mask.covers(q, k)) ++work, keys.unite(Range{k, k + 1});
          }
        }
        ASSERT_EQ(chunk.work, work);
        ASSERT_EQ(IntervalSet(chunk.keys), keys);
      }
    }
  }
}

// The rows that all ranks need, from sets.
int64_t rows_of(const std::vector<Chunk>& chunks, const std::vector<int>& holders, int ranks) {
  int64_t rows = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    IntervalSet keys;
    for (size_t i = 0; i < chunks.size(); ++i) {
      if (holders[i] == rank) keys.unite(chunks[i].keys);
    }
    rows += keys.size();
  }
  return rows;
}

// What a chunk adds, and what a swap changes, for random chunks in random hands.
TEST(Chunks, RowsFollowEveryGiftAndSwap) {
  Random random(2);
  for (int trial = 0; trial < 100; ++trial) {
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 200));
    const Mask mask = Mask::documents(lengths, kRules[trial % 5]);
    std::vector<Chunk> chunks = chunks_of(mask, random_cuts(random, mask.keys()));
    const int ranks = static_cast<int>(random.uniform(2, 6));
    while (chunks.size() % static_cast<size_t>(ranks) != 0) {
      chunks.push_back({{mask.keys(), mask.keys()}, {mask.keys(), mask.keys()}, 0});
    }
    ChunkHolders held(chunks, ranks);
    std::vector<int64_t> order(chunks.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    random.shuffle(std::span(order));
    for (int64_t chunk : order) {
      int rank = 0;
      do rank = static_cast<int>(random.uniform(ranks));
      while (held.count(rank) == held.places());
      const int64_t expected = held.rows() + held.rows_added(rank, chunk);
      held.give(rank, chunk);
      ASSERT_EQ(held.rows(), expected);
      ASSERT_EQ(held.rows(), rows_of(chunks, held.holders(), ranks));
    }
    for (int i = 0; i < 50; ++i) {
      const int64_t a = random.uniform(static_cast<int64_t>(chunks.size()));
      const int64_t b = random.uniform(static_cast<int64_t>(chunks.size()));
      if (held.holder(a) == held.holder(b)) continue;
      const int64_t expected = held.rows() + held.rows_of_swap(a, b);
      held.swap(a, b);
      ASSERT_EQ(held.rows(), expected);
      ASSERT_EQ(held.rows(), rows_of(chunks, held.holders(), ranks)) << a << " " << b;
    }
    for (int rank = 0; rank < ranks; ++rank) {
      int64_t work = 0, found = 0;
      for (size_t i = 0; i < chunks.size(); ++i) {
        if (held.holder(static_cast<int64_t>(i)) != rank) continue;
        work += chunks[i].work;
        ASSERT_EQ(held.held(rank, found++), static_cast<int64_t>(i));
      }
      ASSERT_EQ(held.work(rank), work);
    }
  }
}

}  // namespace
}  // namespace weft
