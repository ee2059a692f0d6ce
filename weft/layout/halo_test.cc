#include "weft/layout/halo.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "weft/base/error.h"
#include "weft/layout/testing.h"

namespace weft {
namespace {

// The rows that other ranks have and a rank's tokens read, token by token.
int64_t rows_counted(const Halo& halo) {
  std::vector<int64_t> document_begin;
  for (const int64_t length : halo.documents) {
    document_begin.insert(document_begin.end(), static_cast<size_t>(length),
                          static_cast<int64_t>(document_begin.size()));
  }
  int64_t rows = 0;
  for (int rank = 0; rank < halo.layout.ranks(); ++rank) {
    const std::vector<int64_t> own = halo.layout.positions(rank);
    std::set<int64_t> read;
    for (const int64_t position : own) {
      const int64_t first = std::max(document_begin[static_cast<size_t>(position)], position - halo.width + 1);
      for (int64_t p = first; p < position; ++p) read.insert(p);
    }
    for (const int64_t position : own) read.erase(position);
    rows += static_cast<int64_t>(read.size());
  }
  return rows;
}

TEST(HaloTest, EveryLayoutDocumentsAndWidth) {
  const std::vector<std::vector<int64_t>> packings = {{97},         {1},         {3, 1, 1, 40, 2}, {1, 1, 1, 1, 1},
                                                      {30, 30, 30}, {64, 1, 65}, {5, 90}};
  for (const std::vector<int64_t>& documents : packings) {
    for (const std::string_view name : layout_names()) {
      for (const int ranks : {1, 2, 3, 5, 8, 17, 64}) {
        for (const int64_t width : {1, 2, 4, 7, 40}) {
          SCOPED_TRACE(std::string(name) + " ranks " + std::to_string(ranks) + " width " + std::to_string(width));
          const Halo halo = make_halo(documents, make_layout(name, documents, ranks), width);
          verify_halo(halo);
          EXPECT_EQ(halo.rows(), rows_counted(halo));
        }
      }
    }
  }
}

TEST(HaloTest, AnyRunsInAnyOrder) {
  Random random(5);
  for (int round = 0; round < 300; ++round) {
    const int64_t tokens = random.uniform(1, 80);
    const int ranks = static_cast<int>(random.uniform(1, 9));
    const Halo halo = make_halo(random_lengths(random, tokens),
                                Layout::from_runs(tokens, random_runs(random, tokens, ranks)), random.uniform(1, 8));
    verify_halo(halo);
    EXPECT_EQ(halo.rows(), rows_counted(halo));
  }
}

TEST(HaloTest, RowsAndMessagesOfTheFormula) {
  for (const int ranks : {1, 2, 3, 4, 8, 31, 64}) {
    for (const int64_t width : {2, 4}) {
      const int64_t tokens = 16 * ranks;
      const Halo contiguous = make_halo({tokens}, Layout::contiguous(tokens, ranks), width);
      EXPECT_EQ(contiguous.rows(), (ranks - 1) * (width - 1));
      EXPECT_EQ(contiguous.messages(), ranks - 1);
      const Halo zigzag = make_halo({tokens}, Layout::zigzag(tokens, ranks), width);
      EXPECT_EQ(zigzag.rows(), (2 * ranks - 2) * (width - 1));
      EXPECT_EQ(zigzag.messages(), 2 * ranks - 2);
      // Documents that are whole on their ranks: nothing is sent.
      const Halo apart =
          make_halo(std::vector<int64_t>(static_cast<size_t>(ranks), 16), Layout::contiguous(tokens, ranks), width);
      EXPECT_EQ(apart.messages(), 0);
    }
  }
  // Shards shorter than the halo: the last rank reads one row of each of the five before it.
  const Halo thin = make_halo({8}, Layout::contiguous(8, 8), 6);
  EXPECT_EQ(thin.ranks[7].receive.size(), 5u);
  EXPECT_EQ(thin.rows(), 1 + 2 + 3 + 4 + 5 + 5 + 5);
}

TEST(HaloTest, ManyRanks) {
  const int64_t tokens = 1 << 20;
  const Halo halo = make_halo({tokens}, Layout::zigzag(tokens, 4096), 4);
  verify_halo(halo);
  EXPECT_EQ(halo.rows(), 2 * 4095 * 3);
}

std::string refusal_of_changed(const std::function<void(Halo&)>& change) {
  Halo halo = make_halo({20, 4}, Layout::contiguous(24, 3), 4);  // 0..8, 8..16, 16..24; a document begins at 20
  change(halo);
  return found_wrong([&] { verify_halo(halo); });
}

TEST(HaloTest, WrongOnesAreRefused) {
  EXPECT_EQ(refusal_of_changed([](Halo&) {}), "");
  const auto both = [](IntervalSet tokens) {
    return [tokens](Halo& h) { h.ranks[0].send[0].tokens = h.ranks[1].receive[0].tokens = tokens; };
  };
  EXPECT_EQ(refusal_of_changed(both(Range{6, 8})), "halo: rank 1 lacks positions 5..6, which its tokens read");
  EXPECT_EQ(refusal_of_changed(both(Range{4, 8})), "halo: rank 1 receives positions 4..5, which no token of it reads");
  EXPECT_EQ(refusal_of_changed(both(Range{5, 9})), "halo: rank 1 receives tokens 5..9 that rank 0 does not have");
  EXPECT_EQ(refusal_of_changed([](Halo& h) {
              h.ranks[0].send[0].tokens = Range{4, 7};
            }),
            "halo: rank 1 receives tokens 5..8 that rank 0 does not send");
  EXPECT_EQ(refusal_of_changed([](Halo& h) { h.ranks[1].receive.clear(); }),
            "halo: a message is sent and not received");
  EXPECT_EQ(refusal_of_changed([](Halo& h) {
              h.ranks[1].receive.clear();
              h.ranks[0].send.clear();
            }),
            "halo: rank 1 lacks positions 5..8, which its tokens read");
  EXPECT_EQ(refusal_of_changed([](Halo& h) {
              h.ranks[0].send.push_back({2, Range{0, 1}});
            }),
            "halo: a message is sent and not received");
  EXPECT_NE(refusal_of_changed([](Halo& h) {
              h.ranks[0].send.push_back({1, Range{0, 1}});
            }).find("out of order"),
            std::string::npos);
  EXPECT_NE(refusal_of_changed([](Halo& h) { h.ranks[1].receive[0].peer = 3; }).find("out of order"),
            std::string::npos);
  EXPECT_NE(refusal_of_changed([](Halo& h) { h.ranks[1].receive[0].tokens.clear(); }).find("an empty message"),
            std::string::npos);
  // A longer document, so that a row more crosses.
  EXPECT_NE(refusal_of_changed([](Halo& h) {
              h.documents = {24};
              h.width = 5;
            }),
            "");
  EXPECT_EQ(refusal_of_changed([](Halo& h) { h.documents = {23}; }), "halo: not of these ranks and documents");
}

// One message of a right halo changed at random on one or both ends.
TEST(HaloTest, RandomChangesAreRefused) {
  Random random(3);
  const auto below = [&](size_t n) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(n))); };
  int changed = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::vector<int64_t> documents = {1 + static_cast<int64_t>(below(30)), 1 + static_cast<int64_t>(below(9)),
                                            40};
    const int ranks = 2 + static_cast<int>(below(6));
    const auto name = layout_names()[below(layout_names().size())];
    Halo halo = make_halo(documents, make_layout(name, documents, ranks), 2 + static_cast<int64_t>(below(5)));
    if (!change_a_message(random, halo.ranks, halo.layout.tokens())) continue;
    ++changed;
    EXPECT_NE(found_wrong([&] { verify_halo(halo); }), "") << name << " round " << round;
  }
  EXPECT_GT(changed, 1000);
}

TEST(HaloTest, WidthsThatCannotBe) {
  for (const int64_t width : {int64_t{0}, int64_t{-1}, kWidestConvolution + 1}) {
    EXPECT_THROW(make_halo({8}, Layout::contiguous(8, 2), width), Error);
  }
  EXPECT_THROW(make_halo({7}, Layout::contiguous(8, 2), 4), Error);
}

}  // namespace
}  // namespace weft
