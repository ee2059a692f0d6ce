// Buffers, values in memory, and kernel blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <thread>

#include "weft/base/random.h"
#include "weft/execute/blocks.h"
#include "weft/execute/buffer_pool.h"
#include "weft/execute/value.h"
#include "weft/layout/layout.h"

namespace weft::execute_internal {
namespace {

TEST(BufferPool, TakesTheSameMemoryAgain) {
  BufferPool pool;
  const std::byte* first = nullptr;
  {
    const auto buffer = pool.take(10'000);
    first = buffer.get();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    EXPECT_EQ(pool.bytes_in_use(), 10'000);
  }
  EXPECT_EQ(pool.bytes_in_use(), 0);
  EXPECT_GE(pool.bytes_held(), 10'000);
  EXPECT_EQ(pool.take(9'000).get(), first);  // little is wasted
  EXPECT_NE(pool.take(100).get(), first);    // much would be
  EXPECT_EQ(pool.peak_bytes(), 10'000);
  pool.trim();
  EXPECT_EQ(pool.bytes_held(), 0);
}

TEST(BufferPool, ChangingSizesDoNotPileUp) {
  BufferPool pool;
  Random random(1);
  for (int n = 0; n < 1000; ++n) {
    std::vector<std::shared_ptr<std::byte>> buffers;
    for (int i = 0; i < 5; ++i) buffers.push_back(pool.take(random.uniform(100'000, 1'000'000)));
  }
  EXPECT_LE(pool.bytes_held(), pool.peak_bytes() * 5 / 4 + 50'000);
}

TEST(BufferPool, BuffersMayOutliveIt) {
  auto pool = std::make_unique<BufferPool>(true);
  auto buffer = pool->take(8);
  pool.reset();
  *buffer = std::byte{1};
  std::thread([moved = std::move(buffer)]() mutable { moved.reset(); }).join();
}

TEST(BufferPool, PoisonIsNaN) {
  double nan = 0;
  fill_with_nan(host_memory(), reinterpret_cast<std::byte*>(&nan), sizeof(nan));
  EXPECT_TRUE(std::isnan(nan));
}

TEST(Rows, RunsOfAPartInAWhole) {
  const IntervalSet all({{0, 4}, {10, 20}, {30, 31}}), part({{2, 4}, {10, 12}, {15, 20}, {30, 31}});
  std::vector<std::pair<int64_t, int64_t>> runs;  // row, size
  for (const RowRun& run : runs_of(part, all)) runs.emplace_back(run.row, run.size());
  EXPECT_EQ(runs, (std::vector<std::pair<int64_t, int64_t>>{{2, 2}, {4, 2}, {9, 5}, {14, 1}}));
  EXPECT_THROW(runs_of(IntervalSet({{3, 5}}), all), Error);  // 4 is not there
  EXPECT_TRUE(runs_of({}, all).empty());
}

// Pieces in common, against row numbers one by one.
TEST(Rows, CommonRunsAreLongestAndComplete) {
  Random random(3);
  for (int round = 0; round < 500; ++round) {
    const auto some = [&](const IntervalSet& of, int64_t one_in) {
      IntervalSet set;
      for (const Range& r : of.ranges()) {
        for (int64_t x = r.begin; x < r.end; ++x) {
          if (random.uniform(one_in) != 0) set.append({x, x + 1});
        }
      }
      return set;
    };
    const IntervalSet a = some(Range{0, 40}, 5), b = some(Range{0, 40}, 5);
    const IntervalSet part = some(intersect(a, b), 4);
    std::vector<std::array<int64_t, 2>> expected, actual;
    for (const Range& r : part.ranges()) {
      for (int64_t x = r.begin; x < r.end; ++x) expected.push_back({a.rank_of(x), b.rank_of(x)});
    }
    for_each_common_run<2>(part, {&a, &b}, [&](std::array<int64_t, 2> first, int64_t rows) {
      EXPECT_GT(rows, 0);
      if (!actual.empty()) {
        EXPECT_FALSE(first[0] == actual.back()[0] + 1 && first[1] == actual.back()[1] + 1);
      }
      for (int64_t i = 0; i < rows; ++i) actual.push_back({first[0] + i, first[1] + i});
    });
    EXPECT_EQ(actual, expected);
  }
}

TEST(Written, AgainstSingleElements) {
  constexpr int64_t kTokens = 6, kHeads = 4;
  Random random(5);
  for (int round = 0; round < 300; ++round) {
    SetPool pool;
    Written written;
    std::set<std::array<int64_t, 3>> elements;
    const auto slice = [&] {
      const auto range = [&](int64_t end) {
        const int64_t begin = random.uniform(end);
        return pool.intern(Range{begin, random.uniform(begin + 1, end + 1)});
      };
      const Fields fields = random.uniform(2) ? Field::k | Field::v : Fields(random.uniform(2) ? Field::k : Field::v);
      return Slice{ValueId{}, range(kTokens), range(kHeads), fields};
    };
    const auto each = [&](const Slice& s) {
      std::vector<std::array<int64_t, 3>> list;
      s.fields.for_each([&](Field f) {
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t h = 0; h < kHeads; ++h) {
            if (pool[s.tokens].contains(t) && pool[s.heads].contains(h))
              list.push_back({static_cast<int64_t>(f), t, h});
          }
        }
      });
      return list;
    };
    for (int n = 0; n < 20; ++n) {
      const Slice added = slice(), asked = slice();
      bool fresh = true, covered = true;
      for (const auto& e : each(added)) fresh &= !elements.contains(e);
      EXPECT_EQ(written.add(pool, added), fresh);
      for (const auto& e : each(added)) {
        if (fresh) elements.insert(e);
      }
      for (const auto& e : each(asked)) covered &= elements.contains(e);
      EXPECT_EQ(written.covers(pool, asked), covered);
    }
  }
}

// Every pair of rows, against the mask on positions.
TEST(Blocks, AreTheMaskInRows) {
  Random random(7);
  for (const std::string name : {"contiguous", "zigzag", "striped", "document-zigzag"}) {
    for (const MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 4}}) {
      const std::vector<int64_t> lengths = {9, 1, 14, 3, 3};
      const Layout layout = make_layout(name, lengths, 3);
      const Mask mask = Mask::documents(lengths, rule);
      const AllowedPairs pairs(mask, layout.axis(), layout.axis());
      SetPool pool;
      BlockCache cache(pairs, pool);
      const auto superset = [&](const IntervalSet& set) {  // a value that holds the set, and more
        IntervalSet more = set;
        for (int n = 0; n < 3; ++n) {
          const int64_t x = random.uniform(layout.tokens());
          more.unite(Range{x, x + 1});
        }
        return pool.intern(more);
      };
      const IntervalSet q = layout.shard(1), k = unite(layout.shard(0), layout.shard(2));
      const BlockKey key{.q = pool.intern(q),
                         .k = pool.intern(k),
                         .q_all = superset(q),
                         .k_all = superset(k),
                         .out_all = superset(q),
                         .bundle_all = superset(q),
                         .grad_all = superset(k)};
      const auto slot_of = [&](SetId all, int64_t row) {
        for (const Range& r : pool[all].ranges()) {
          if (row < r.size()) return r.begin + row;
          row -= r.size();
        }
        return int64_t{-1};
      };
      std::set<std::pair<int64_t, int64_t>> seen;
      const auto blocks = cache.of(key);
      for (size_t n = 0; n < blocks.size(); ++n) {
        const kernels::Block& block = blocks[n];
        if (n > 0) {
          const BandRectangle& last = blocks[n - 1].band;
          EXPECT_LE(std::pair(last.q.begin, last.k.begin), std::pair(block.band.q.begin, block.band.k.begin));
        }
        for (int64_t i = block.band.q.begin; i < block.band.q.end; ++i) {
          const int64_t slot = slot_of(key.q_all, i), skipped = i - block.band.q.begin;
          EXPECT_EQ(slot_of(key.out_all, block.out_row + skipped), slot);
          EXPECT_EQ(slot_of(key.bundle_all, block.bundle_row + skipped), slot);
          for (int64_t j = block.band.k.begin; j < block.band.k.end; ++j) {
            const int64_t key_slot = slot_of(key.k_all, j);
            EXPECT_EQ(slot_of(key.grad_all, block.kv_grad_row + j - block.band.k.begin), key_slot);
            if (!block.band.contains(i, j)) continue;
            EXPECT_TRUE(seen.emplace(slot, key_slot).second) << "twice";
          }
        }
      }
      for (int64_t i = 0; i < layout.tokens(); ++i) {
        for (int64_t j = 0; j < layout.tokens(); ++j) {
          const bool allowed =
              q.contains(i) && k.contains(j) && mask.covers(layout.axis().position(i), layout.axis().position(j));
          EXPECT_EQ(seen.contains({i, j}), allowed) << name << " " << i << " " << j;
        }
      }
      EXPECT_EQ(cache.of(key).data(), blocks.data());  // remembered
    }
  }
}

}  // namespace
}  // namespace weft::execute_internal
