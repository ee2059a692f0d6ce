#include "weft/layout/layout.h"

#include <numeric>

#include "weft/layout/testing.h"

namespace weft {
namespace {

// Calls f(layout) for every kind of layout, 1..70 tokens and many numbers of ranks.
template <typename F>
void for_each_layout(F&& f) {
  Random random(1);
  for (int64_t tokens = 1; tokens <= 70; ++tokens) {
    for (int ranks : {1, 2, 3, 4, 5, 7, 8, 13}) {
      const std::vector<int64_t> lengths = random_lengths(random, tokens);
      for (std::string_view name : layout_names()) {
        SCOPED_TRACE(std::string(name) + ", " + std::to_string(tokens) + " tokens, " + std::to_string(ranks) +
                     " ranks");
        ASSERT_NO_FATAL_FAILURE(f(make_layout(name, lengths, ranks)));
      }
      for (int64_t block : {2, 3, 8}) {
        SCOPED_TRACE("blocks of " + std::to_string(block) + ", " + std::to_string(tokens) + " tokens, " +
                     std::to_string(ranks) + " ranks");
        ASSERT_NO_FATAL_FAILURE(f(Layout::striped(tokens, ranks, block)));
      }
      SCOPED_TRACE("runs, " + std::to_string(tokens) + " tokens, " + std::to_string(ranks) + " ranks");
      ASSERT_NO_FATAL_FAILURE(f(Layout::from_runs(tokens, random_runs(random, tokens, ranks))));
    }
  }
}

TEST(Layout, ShardsPartitionThePositions) {
  for_each_layout([](const Layout& layout) {
    std::vector<int> position_seen(static_cast<size_t>(layout.tokens()), 0);
    std::vector<int> slot_seen = position_seen;
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      const Positions positions = layout.positions(rank);
      ASSERT_EQ(static_cast<int64_t>(positions.size()), layout.tokens_of(rank));
      size_t row = 0;
      for (const Range& slots : layout.shard(rank).ranges()) {
        for (int64_t slot = slots.begin; slot < slots.end; ++slot, ++row) {
          ++slot_seen.at(static_cast<size_t>(slot));
          ASSERT_EQ(layout.axis().position(slot), positions[row]);
          ASSERT_EQ(layout.shard(rank).rank_of(slot), static_cast<int64_t>(row));
        }
      }
      for (int64_t position : positions) ++position_seen.at(static_cast<size_t>(position));
    }
    for (int count : position_seen) ASSERT_EQ(count, 1);
    for (int count : slot_seen) ASSERT_EQ(count, 1);
  });
}

TEST(Layout, RunsGiveAnEqualLayout) {
  for_each_layout([](const Layout& layout) {
    std::vector<std::vector<weft::Run>> runs;
    for (int rank = 0; rank < layout.ranks(); ++rank) runs.push_back(layout.runs(rank));
    const Layout again = Layout::from_runs(layout.tokens(), runs);
    ASSERT_EQ(all_positions(again), all_positions(layout));
    ASSERT_EQ(again.axis(), layout.axis());
    ASSERT_EQ(again, layout);
  });
}

TEST(Layout, ConsecutiveShardsAreTheUnionOfEach) {
  for_each_layout([](const Layout& layout) {
    for (int first = 0; first < layout.ranks(); ++first) {
      IntervalSet expected;
      ASSERT_TRUE(layout.shards().of(first, 0).empty());
      for (int count = 1; count <= layout.ranks(); ++count) {
        expected.unite(layout.shard((first + count - 1) % layout.ranks()));
        ASSERT_EQ(layout.shards().of(first, count), expected) << first << ", " << count;
      }
      ASSERT_EQ(expected, IntervalSet(Range{0, layout.tokens()}));
    }
  });
}

TEST(Layout, ShardAndUnshardAreInverse) {
  for_each_layout([](const Layout& layout) {
    for (int64_t width : {1, 3}) {
      std::vector<int> global(static_cast<size_t>(layout.tokens() * width));
      std::iota(global.begin(), global.end(), 0);
      std::vector<int> back(global.size(), -1);
      for (int rank = 0; rank < layout.ranks(); ++rank) {
        const std::vector<int> local = shard<int>(layout, rank, global, width);
        ASSERT_EQ(static_cast<int64_t>(local.size()), layout.tokens_of(rank) * width);
        for (size_t i = 0; i < local.size(); ++i) {
          const int64_t row = layout.positions(rank)[i / static_cast<size_t>(width)];
          ASSERT_EQ(local[i], row * width + static_cast<int64_t>(i) % width);
        }
        unshard<int>(layout, rank, local, back, width);
      }
      ASSERT_EQ(back, global);
    }
  });
}

TEST(Layout, GoldenShards) {
  EXPECT_EQ(all_positions(Layout::contiguous(8, 2)), (std::vector<Positions>{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(all_positions(Layout::zigzag(8, 2)), (std::vector<Positions>{{0, 1, 6, 7}, {2, 3, 4, 5}}));
  EXPECT_EQ(all_positions(Layout::striped(8, 2)), (std::vector<Positions>{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(all_positions(Layout::striped(7, 3)), (std::vector<Positions>{{0, 3, 6}, {1, 4}, {2, 5}}));
  EXPECT_EQ(all_positions(Layout::striped(11, 2, 3)), (std::vector<Positions>{{0, 1, 2, 6, 7, 8}, {3, 4, 5, 9, 10}}));
  EXPECT_EQ(all_positions(Layout::striped(7, 3, 4)), (std::vector<Positions>{{0, 1, 2, 3}, {4, 5, 6}, {}}));
  EXPECT_EQ(all_positions(Layout::document_zigzag({4, 8}, 2)),
            (std::vector<Positions>{{0, 3, 4, 5, 10, 11}, {1, 2, 6, 7, 8, 9}}));
  // The first document is for both ranks, its odd token in chunk 0. The others fill up the ranks, the shortest and the
  // last rank first.
  EXPECT_EQ(all_positions(Layout::document_zigzag({5, 2, 1}, 2)), (std::vector<Positions>{{0, 1, 4, 6}, {2, 3, 5, 7}}));
  EXPECT_EQ(all_positions(Layout::contiguous(2, 4)), (std::vector<Positions>{{}, {0}, {}, {1}}));
}

TEST(Layout, NamesAreKnownAndKept) {
  EXPECT_EQ(layout_names().size(), 5u);
  for (std::string_view name : layout_names()) EXPECT_EQ(make_layout(name, {8}, 2).name(), name);
  EXPECT_EQ(make_layout("zigzag", {5, 3}, 2), Layout::zigzag(8, 2));
  EXPECT_EQ(make_layout("document-zigzag", {5, 3}, 2), Layout::document_zigzag({5, 3}, 2));
  EXPECT_NE(Layout::zigzag(8, 2), Layout::striped(8, 2));
  const std::string message = refusal([] { make_layout("zig", {8}, 2); });
  EXPECT_NE(message.find("document-zigzag"), std::string::npos) << message;
}

TEST(Layout, HostileSizesAreRefused) {
  for (std::string_view name : layout_names()) {
    for (int64_t bad : {int64_t{0}, int64_t{-1}, kMost + 1, kHuge, -kHuge - 1}) {
      refusal([&] { make_layout(name, {bad}, 2); });
      refusal([&] { make_layout(name, {5, bad}, 2); });
    }
    for (int bad : {0, -1, 65537, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
      refusal([&] { make_layout(name, {8}, bad); });
    }
    refusal([&] { make_layout(name, {}, 2); });
    refusal([&] { make_layout(name, {kMost, 1}, 2); });
    refusal([&] { make_layout(name, {kHuge, kHuge, 3}, 2); });
    const Layout largest = make_layout(name, {kMost}, 8);
    int64_t sum = 0;
    for (int rank = 0; rank < 8; ++rank) sum += largest.tokens_of(rank);
    EXPECT_EQ(sum, kMost);
    EXPECT_EQ(make_layout(name, {3, 4}, 65536).ranks(), 65536);
  }
}

// Token t on rank t / block mod ranks; single tokens are the layout without blocks.
TEST(Layout, StripedBlocksAreDealtRoundRobin) {
  for (int64_t tokens : {1, 7, 60, 97}) {
    for (int ranks : {1, 2, 3, 8}) {
      EXPECT_EQ(Layout::striped(tokens, ranks, 1), Layout::striped(tokens, ranks));
      for (int64_t block : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{60}, kMost}) {
        const Layout layout = Layout::striped(tokens, ranks, block);
        for (int rank = 0; rank < ranks; ++rank) {
          for (int64_t position : layout.positions(rank)) EXPECT_EQ(position / block % ranks, rank);
        }
      }
    }
  }
  for (int64_t bad : {int64_t{0}, int64_t{-1}, -kHuge - 1}) refusal([&] { Layout::striped(8, 2, bad); });
  const std::string message = refusal([] { Layout::striped(kMost, 2, 2); });
  EXPECT_NE(message.find("at least 128"), std::string::npos) << message;
  EXPECT_EQ(Layout::striped(kMost, 2, 128).tokens_of(0), int64_t{1} << 30);
}

TEST(Layout, BadRunsAreRefused) {
  const auto with = [](weft::Run run) { return [=] { Layout::from_runs(10, {{run}, {{0, 1, 5}}}); }; };
  EXPECT_EQ(Layout::from_runs(10, {{{5, 1, 5}}, {{0, 1, 5}}}).tokens_of(0), 5);
  refusal(with({4, 1, 5}));  // overlap
  refusal(with({5, 1, 4}));  // 9 is missing
  refusal(with({4, 1, 6}));  // one too many
  refusal(with({6, 1, 5}));  // ends outside
  refusal(with({5, 2, 5}));  // strides outside
  refusal(with({-1, 1, 5}));
  refusal(with({5, 0, 5}));
  refusal(with({9, -1, 5}));
  refusal(with({5, 1, -5}));
  refusal(with({5, 1, 0}));
  refusal(with({10, 1, 1}));
  for (int64_t huge : {kMost, kMost + 1, int64_t{1} << 32, int64_t{1} << 62, kHuge, -kHuge - 1}) {
    refusal(with({huge, 1, 5}));
    refusal(with({5, huge, 5}));
    refusal(with({5, 1, huge}));
    refusal(with({huge, huge, huge}));
    refusal(with({5, huge, huge}));
    refusal(with({0, huge, 2}));
  }
  refusal([] { Layout::from_runs(10, {}); });
  refusal([] { Layout::from_runs(10, {{}, {}}); });
  refusal([] { Layout::from_runs(4, {{{0, 1, 2}, {1, 1, 2}}}); });    // 1 twice, 3 missing
  refusal([] { Layout::from_runs(4, {{{0, 2, 2}}, {{1, 1, 2}}}); });  // 2 twice, 3 missing
  refusal([] { Layout::from_runs(4, {std::vector<weft::Run>(1000, {0, 1, 4})}); });
  for (int64_t bad : {int64_t{0}, int64_t{-1}, kMost + 1, kHuge, -kHuge - 1}) {
    refusal([&] { Layout::from_runs(bad, {{{0, 1, bad}}}); });
  }
  // The whole range claimed by a few runs, with a position missing: no table of its size.
  refusal([] { Layout::from_runs(kMost, {{{0, 1, kMost - 1}}}); });
  refusal([] { Layout::from_runs(kMost, {{{0, 1, kMost}}, {{5, 1, 1}}}); });
  refusal([] { Layout::from_runs(10, std::vector<std::vector<weft::Run>>(65537)); });
}

TEST(Layout, EmptyRunsAndRanksAreFine) {
  const Layout layout = Layout::from_runs(4, {{}, {{2, 1, 2}, {0, 7, 0}, {1, 3, 1}}, {{0, 9, 1}}});
  EXPECT_EQ(all_positions(layout), (std::vector<Positions>{{}, {2, 3, 1}, {0}}));
  EXPECT_FALSE(layout.axis().is_identity());
  EXPECT_TRUE(layout.shard(0).empty());
}

TEST(NextTokenLabels, StayInsideTheirDocument) {
  const auto labels = [](std::vector<int64_t> ids, std::vector<int64_t> lengths) {
    return next_token_labels(ids, lengths);
  };
  EXPECT_EQ(labels({5, 6, 7, 8, 9, 4}, {3, 1, 2}), (std::vector<int64_t>{6, 7, -100, -100, 4, -100}));
  EXPECT_EQ(labels({1}, {1}), (std::vector<int64_t>{-100}));
  EXPECT_EQ(labels({}, {}), (std::vector<int64_t>{}));
  const std::vector<int64_t> ids = {1, 2, 3}, one = {3};
  EXPECT_EQ(next_token_labels(ids, one, -1), (std::vector<int64_t>{2, 3, -1}));
  for (const std::vector<int64_t>& bad : {std::vector<int64_t>{},
                                          {2},
                                          {4},
                                          {2, 2},
                                          {3, 0},
                                          {0, 3},
                                          {4, -1},
                                          {-1, 4},
                                          {kHuge},
                                          {-kHuge - 1},
                                          {kHuge, kHuge, 5},
                                          {3, kHuge, -kHuge}}) {
    refusal([&] { labels({1, 2, 3}, bad); });
  }
}

// A label goes with its token to whichever rank has it.
TEST(NextTokenLabels, FollowTheirTokens) {
  const std::vector<int64_t> lengths = {7, 1, 12, 3};
  std::vector<int64_t> ids(23);
  std::iota(ids.begin(), ids.end(), 1000);
  const std::vector<int64_t> labels = next_token_labels(ids, lengths);
  const std::vector<int64_t> last = {1006, 1007, 1019, 1022};
  for (std::string_view name : layout_names()) {
    const Layout layout = make_layout(name, lengths, 3);
    for (int rank = 0; rank < 3; ++rank) {
      const auto tokens = shard<int64_t>(layout, rank, ids);
      const auto wanted = shard<int64_t>(layout, rank, labels);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const bool end = std::count(last.begin(), last.end(), tokens[i]) > 0;
        EXPECT_EQ(wanted[i], end ? -100 : tokens[i] + 1);
      }
    }
  }
}

}  // namespace
}  // namespace weft
