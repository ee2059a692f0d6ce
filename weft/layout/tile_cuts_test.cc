// Cuts inside tiles, against every pair of positions.
#include "weft/layout/tile_cuts.h"

#include <gtest/gtest.h>

#include "weft/base/random.h"

namespace weft {
namespace {

TEST(TileCuts, AgainstSinglePositions) {
  Random random(8);
  int cut = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int64_t> lengths;
    int64_t tokens = 0;
    for (int64_t n = 1 + random.uniform(3); n > 0; --n) tokens += lengths.emplace_back(1 + random.uniform(20));
    const MaskRule rule{.causal = random.uniform(2) == 0, .window = random.uniform(2) ? 1 + random.uniform(6) : 0};
    const Mask mask = Mask::documents(lengths, rule);
    const AllowedPairs pairs(mask, Axis::identity(tokens), Axis::identity(tokens));
    const int64_t tile = 1 + random.uniform(9);
    const auto some = [&] {
      IntervalSet set;
      for (int64_t n = 1 + random.uniform(2); n > 0; --n) {
        const int64_t begin = random.uniform(tokens);
        set.unite(Range{begin, random.uniform(begin + 1, tokens + 1)});
      }
      return set;
    };
    const IntervalSet queries = some(), keys = some();
    const auto same_rectangle = [&](int64_t q, int64_t k, int64_t other_q, int64_t other_k) {
      for (const BandRectangle& band : mask.bands()) {
        if (band.contains(q, k) && band.contains(other_q, other_k)) return true;
      }
      return false;
    };
    bool keys_cut = false, queries_cut = false;
    for (int64_t at = 1; at < tokens; ++at) {
      if (at % tile == 0) continue;
      for (int64_t other = 0; other < tokens; ++other) {
        keys_cut |= keys.contains(at) != keys.contains(at - 1) && queries.contains(other) &&
                    same_rectangle(other, at, other, at - 1);
        queries_cut |= queries.contains(at) != queries.contains(at - 1) && keys.contains(other) &&
                       same_rectangle(at, other, at - 1, other);
      }
    }
    EXPECT_EQ(keys_cut_inside_tile(pairs, queries, keys, tile).has_value(), keys_cut);
    EXPECT_EQ(queries_cut_inside_tile(pairs, queries, keys, tile).has_value(), queries_cut);
    cut += keys_cut;
  }
  EXPECT_GT(cut, 300);
  EXPECT_LT(cut, 2700);
}

}  // namespace
}  // namespace weft
