#include "weft/layout/relayout.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "weft/layout/testing.h"

namespace weft {
namespace {

// Tokens that change their rank, one after the other.
int64_t rows_counted(const Relayout& change) {
  std::vector<int> owner(static_cast<size_t>(change.from.tokens()));
  for (int rank = 0; rank < change.from.ranks(); ++rank) {
    for (const int64_t position : change.from.positions(rank)) owner[static_cast<size_t>(position)] = rank;
  }
  int64_t rows = 0;
  for (int rank = 0; rank < change.to.ranks(); ++rank) {
    for (const int64_t position : change.to.positions(rank)) rows += owner[static_cast<size_t>(position)] != rank;
  }
  return rows;
}

TEST(Relayout, BetweenAnyTwoLayouts) {
  const std::vector<std::vector<int64_t>> packings = {{97}, {1}, {3, 1, 1, 40, 2}, {64, 1, 65}};
  for (const std::vector<int64_t>& documents : packings) {
    for (const std::string_view from : layout_names()) {
      for (const std::string_view to : layout_names()) {
        for (const int ranks : {1, 2, 3, 5, 17, 64}) {
          SCOPED_TRACE(std::string(from) + " to " + std::string(to) + " ranks " + std::to_string(ranks));
          const Relayout change = make_relayout(make_layout(from, documents, ranks), make_layout(to, documents, ranks));
          verify_relayout(change);
          EXPECT_EQ(change.rows(), rows_counted(change));
          if (from == to) {
            EXPECT_EQ(change.messages(), 0);
          }
        }
      }
    }
  }
}

TEST(Relayout, AnyRunsInAnyOrder) {
  Random random(9);
  for (int round = 0; round < 300; ++round) {
    const int64_t tokens = random.uniform(1, 80);
    const int ranks = static_cast<int>(random.uniform(1, 9));
    const auto any = [&] { return Layout::from_runs(tokens, random_runs(random, tokens, ranks)); };
    const Layout from = any();
    const Relayout change = make_relayout(from, any());
    verify_relayout(change);
    EXPECT_EQ(change.rows(), rows_counted(change));
  }
}

TEST(Relayout, RowsOfTheFormula) {
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8, 9, 64}) {
    const int64_t tokens = 2 * ranks * 10, stays = ranks % 3 == 0 ? 10 : 20;
    const Layout contiguous = Layout::contiguous(tokens, ranks), zigzag = Layout::zigzag(tokens, ranks);
    EXPECT_EQ(make_relayout(contiguous, zigzag).rows(), tokens - stays) << ranks;
    EXPECT_EQ(make_relayout(zigzag, contiguous).rows(), tokens - stays) << ranks;
  }
}

TEST(Relayout, ManyRanks) {
  const int64_t tokens = 1 << 20;
  const Relayout change = make_relayout(Layout::zigzag(tokens, 4096), Layout::contiguous(tokens, 4096));
  verify_relayout(change);
  EXPECT_EQ(change.rows(), tokens - 256);
}

TEST(Relayout, WrongOnesAreRefused) {
  // 0..4 | 4..8 | 8..12 becomes 0..2 10..12 | 2..4 8..10 | 4..8.
  const Relayout right = make_relayout(Layout::contiguous(12, 3), Layout::zigzag(12, 3));
  const auto changed = [&](const std::function<void(Relayout&)>& change) {
    Relayout wrong = right;
    change(wrong);
    return found_wrong([&] { verify_relayout(wrong); });
  };
  EXPECT_EQ(changed([](Relayout&) {}), "");
  const auto both = [&](IntervalSet tokens) {
    return changed([&](Relayout& r) { r.ranks[0].send[0].tokens = r.ranks[1].receive[0].tokens = tokens; });
  };
  EXPECT_EQ(both(Range{3, 4}), "change of layout: rank 1 lacks positions 2..3");
  EXPECT_EQ(both(Range{1, 4}), "change of layout: rank 1 receives positions 1..2, which are not its own");
  EXPECT_EQ(both(Range{2, 5}), "change of layout: rank 1 receives positions 2..5 that rank 0 does not have");
  EXPECT_EQ(changed([](Relayout& r) {
              r.ranks[0].send[0].tokens = Range{2, 3};
            }),
            "change of layout: rank 1 receives tokens 2..4 that rank 0 does not send");
  EXPECT_EQ(changed([](Relayout& r) { r.ranks[1].receive.pop_back(); }),
            "change of layout: a message is sent and not received");
  EXPECT_EQ(changed([](Relayout& r) { r.to = Layout::contiguous(12, 4); }),
            "change of layout: not of these ranks and tokens");
  EXPECT_NE(changed([](Relayout& r) { r.to = Layout::contiguous(12, 3); }), "");
  EXPECT_EQ(refusal([] { make_relayout(Layout::contiguous(12, 3), Layout::contiguous(13, 4)); }),
            "a change of layout from 12 tokens on 3 ranks to 13 tokens on 4 ranks; both layouts are of the same tokens "
            "and ranks");
}

// One token more or less in one message of a right change, at one end or both.
TEST(Relayout, RandomChangesAreRefused) {
  Random random(4);
  const auto below = [&](size_t n) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(n))); };
  int changed = 0;
  for (int round = 0; round < 1500; ++round) {
    const std::vector<int64_t> documents = random_lengths(random, random.uniform(2, 60));
    const int ranks = 2 + static_cast<int>(below(6));
    const auto any = [&] { return make_layout(layout_names()[below(layout_names().size())], documents, ranks); };
    const Layout from = any();
    Relayout change = make_relayout(from, any());
    if (!change_a_message(random, change.ranks, change.from.tokens())) continue;
    ++changed;
    EXPECT_NE(found_wrong([&] { verify_relayout(change); }), "") << round;
  }
  EXPECT_GT(changed, 800);
}

}  // namespace
}  // namespace weft
