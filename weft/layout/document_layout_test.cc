// Packed documents: how document-zigzag balances them, and how little it cuts them.
#include "weft/layout/testing.h"

namespace weft {
namespace {

int64_t sum_of(const std::vector<int64_t>& lengths) {
  int64_t sum = 0;
  for (int64_t length : lengths) sum += length;
  return sum;
}

// Causal pairs of a rank's queries, each inside its document.
int64_t causal_work(const Layout& layout, const std::vector<int64_t>& lengths, int rank) {
  int64_t work = 0, begin = 0;
  size_t document = 0;
  for (const Range& range : layout.shard(rank).ranges()) {
    for (int64_t from = range.begin; from < range.end;) {
      while (begin + lengths[document] <= from) begin += lengths[document++];
      const int64_t to = std::min(range.end, begin + lengths[document]);
      work += ((to - begin) * (to - begin + 1) - (from - begin) * (from - begin + 1)) / 2;
      from = to;
    }
  }
  return work;
}

// How many ranks hold a part of each document.
std::vector<int> ranks_of_documents(const Layout& layout, const std::vector<int64_t>& lengths) {
  std::vector<int> result;
  int64_t begin = 0;
  for (int64_t length : lengths) {
    const IntervalSet document(Range{begin, begin + length});
    int count = 0;
    for (int rank = 0; rank < layout.ranks(); ++rank) count += layout.shard(rank).intersects(document);
    result.push_back(count);
    begin += length;
  }
  return result;
}

void expect_a_partition_into_equal_parts(const Layout& layout) {
  int64_t least = layout.tokens(), most = 0;
  IntervalSet all;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    ASSERT_FALSE(all.intersects(layout.shard(rank))) << rank;
    all.unite(layout.shard(rank));
    least = std::min(least, layout.tokens_of(rank));
    most = std::max(most, layout.tokens_of(rank));
  }
  ASSERT_EQ(all, IntervalSet(Range{0, layout.tokens()}));
  ASSERT_LE(most - least, 1);
}

// Lengths over several powers of two, most of them short.
std::vector<int64_t> long_tail(Random& random, int64_t documents) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < documents; ++i) {
    lengths.push_back(random.uniform(1, 2 + (int64_t{1} << random.uniform(0, random.uniform(2, 17)))));
  }
  return lengths;
}

TEST(DocumentLayout, TokensAndWorkAreBalanced) {
  Random random(11);
  for (int trial = 0; trial < 400; ++trial) {
    const int ranks = static_cast<int>(random.uniform(1, 40));
    const std::vector<int64_t> lengths = long_tail(random, random.uniform(1, 400));
    const Layout layout = Layout::document_zigzag(lengths, ranks);
    expect_a_partition_into_equal_parts(layout);
    if (sum_of(lengths) < 1000 * ranks) continue;  // rounding outweighs the bound
    int64_t most = 0, sum = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t work = causal_work(layout, lengths, rank);
      most = std::max(most, work);
      sum += work;
    }
    ASSERT_LE(16.0 * ranks * static_cast<double>(most), 17.0 * static_cast<double>(sum)) << "trial " << trial;
  }
}

TEST(DocumentLayout, FewTokensAreBalancedToo) {
  Random random(12);
  for (int trial = 0; trial < 3000; ++trial) {
    const std::vector<int64_t> lengths = random_lengths(random, random.uniform(1, 300));
    expect_a_partition_into_equal_parts(Layout::document_zigzag(lengths, static_cast<int>(random.uniform(1, 90))));
  }
}

TEST(DocumentLayout, EqualDocumentsStayWhole) {
  const std::vector<int64_t> lengths(16, 4000);
  const Layout layout = Layout::document_zigzag(lengths, 8);
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(layout.shard(rank), IntervalSet(Range{(7 - rank) * 8000, (8 - rank) * 8000}));
  }
}

TEST(DocumentLayout, ShortDocumentsAreOnFewRanks) {
  Random random(13);
  std::vector<int64_t> lengths;
  for (int i = 0; i < 1000; ++i) lengths.push_back(random.uniform(1, 8001));
  for (int ranks : {8, 32, 256}) {
    const Layout layout = Layout::document_zigzag(lengths, ranks);
    size_t intervals = 0;
    for (int rank = 0; rank < ranks; ++rank) intervals += layout.shard(rank).ranges().size();
    EXPECT_LT(intervals, lengths.size() + 64 * static_cast<size_t>(ranks)) << ranks;
    const std::vector<int> held_by = ranks_of_documents(layout, lengths);
    // With 8 or 32 ranks, only documents at the end of a rank's tokens are cut.
    if (ranks < 256) {
      EXPECT_LT(std::count_if(held_by.begin(), held_by.end(), [](int n) { return n > 1; }), ranks);
    }
  }
}

TEST(DocumentLayout, ALongDocumentIsOnAllRanks) {
  std::vector<int64_t> lengths(300, 100);
  lengths[150] = 30'000;
  const Layout layout = Layout::document_zigzag(lengths, 16);
  const std::vector<int> held_by = ranks_of_documents(layout, lengths);
  EXPECT_EQ(held_by[150], 16);
  // Shares of 2 x 16 chunks, as by itself.
  const Layout alone = Layout::zigzag(30'000, 16);
  const IntervalSet document(Range{15'000, 45'000});
  for (int rank = 0; rank < 16; ++rank) {
    IntervalSet moved;
    for (const Range& range : alone.shard(rank).ranges()) moved.append({range.begin + 15'000, range.end + 15'000});
    EXPECT_EQ(intersect(layout.shard(rank), document), moved) << rank;
  }
}

TEST(DocumentLayout, OneDocumentIsZigzag) {
  for (int64_t tokens : {1, 2, 7, 64, 1000, 5003}) {
    for (int ranks : {1, 2, 3, 7, 64}) {
      EXPECT_EQ(Layout::document_zigzag({tokens}, ranks), Layout::zigzag(tokens, ranks)) << tokens << " on " << ranks;
    }
  }
}

TEST(DocumentLayout, RunsGiveTheSameLayout) {
  Random random(14);
  for (int trial = 0; trial < 50; ++trial) {
    const Layout layout = Layout::document_zigzag(long_tail(random, 50), static_cast<int>(random.uniform(1, 20)));
    std::vector<std::vector<weft::Run>> runs;
    for (int rank = 0; rank < layout.ranks(); ++rank) runs.push_back(layout.runs(rank));
    ASSERT_EQ(Layout::from_runs(layout.tokens(), runs), layout);
  }
}

}  // namespace
}  // namespace weft
