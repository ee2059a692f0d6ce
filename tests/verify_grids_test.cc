// Methods that arrange the ranks in a grid: every grid of up to 24 ranks is proved right.
#include <gtest/gtest.h>

#include "weft/base/test_level.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

using Options = std::map<std::string, std::string>;
using Chunks = std::vector<std::vector<int64_t>>;

struct Case {
  std::vector<int64_t> lengths;
  MaskRule rule;
  bool own_layout = true;
};
const std::vector<Case> kCases = {
    {{101}, {}},
    {{101}, {.causal = true}},
    {{101}, {.causal = true, .window = 13}},
    {{1, 40, 7, 30, 1, 18}, {.causal = true}},
    {{1, 40, 7, 30, 1, 18}, {.window = 9}, false},
    {{5}, {.causal = true}, false},
};

// Proves one grid over masks, documents and layouts.
void expect_right(std::string_view method, int ranks, const Options& options, std::string_view other_layout) {
  for (const Case& c : kCases) {
    const Layout layout = choose_layout(c.own_layout ? "" : other_layout, method, c.lengths, ranks, options);
    Problem problem = self_attention(Mask::documents(c.lengths, c.rule), layout, 6, 3, 4);
    problem.backward = true;
    const Report report = verify(make_schedule(method, problem, options));
    std::string text = std::string(method) + " on " + std::to_string(ranks);
    for (const auto& [key, value] : options) text.append(" ").append(key).append("=").append(value);
    ASSERT_TRUE(report.ok()) << text << ": " << report.problems[0].text;
    int64_t work = 0;
    for (const RankReport& rank : report.ranks) work += rank.work;
    ASSERT_EQ(work, problem.mask.area() * problem.heads) << text;
  }
}

// Calls f(ranks, degree) for each factorization of up to 24 ranks; of up to 8 with sanitizers.
template <typename F>
void for_each_grid(F&& f) {
  for (int ranks = 1; ranks <= (test_level() == 0 ? 8 : 24); ++ranks) {
    for (int degree = 1; degree <= ranks; ++degree) {
      if (ranks % degree != 0) continue;
      ASSERT_NO_FATAL_FAILURE(f(ranks, degree));
    }
  }
}

TEST(Grids, UspInEveryFactorization) {
  for_each_grid([](int ranks, int degree) {
    for (const char* placement : {"inner", "outer"}) {
      for (const char* order : {"zigzag", "contiguous", "striped"}) {
        ASSERT_NO_FATAL_FAILURE(expect_right(
            "usp", ranks, {{"ulysses", std::to_string(degree)}, {"placement", placement}, {"order", order}},
            "dual-chunk"));
      }
    }
  });
}

TEST(Grids, DoubleRingInEveryFactorizationAndWindow) {
  for_each_grid([](int ranks, int degree) {
    for (int window = 1; window <= ranks / degree; ++window) {
      if (ranks / degree % window != 0) continue;
      for (const char* placement : {"head-first", "context-first"}) {
        ASSERT_NO_FATAL_FAILURE(expect_right(
            "double-ring", ranks,
            {{"ulysses", std::to_string(degree)}, {"window", std::to_string(window)}, {"placement", placement}},
            "striped"));
      }
    }
  });
}

// ---- layouts that these methods are published with, by their index formulas

// The chunks, of `count` equal ones, that each rank holds, in its order.
Chunks chunks_of(std::string_view method, int ranks, const Options& options, int64_t count) {
  constexpr int64_t kSize = 3;
  const Layout layout = layout_of(method, {count * kSize}, ranks, options);
  Chunks result;
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<int64_t>& chunks = result.emplace_back();
    const std::vector<int64_t> positions = layout.positions(rank);
    for (size_t i = 0; i < positions.size(); i += kSize) {
      EXPECT_EQ(positions[i] % kSize, 0);
      EXPECT_EQ(positions[i + kSize - 1], positions[i] + kSize - 1);
      chunks.push_back(positions[i] / kSize);
    }
  }
  return result;
}

// LoongTrain: two neighbouring chunks of 2P for every rank; examples from the comments of its code.
TEST(PublishedLayouts, LoongTrainExamples) {
  const auto eight = [](const char* ulysses, const char* placement) {
    return chunks_of("double-ring", 8, {{"ulysses", ulysses}, {"placement", placement}}, 16);
  };
  EXPECT_EQ(eight("2", "head-first"), (Chunks{{0, 1}, {14, 15}, {2, 3}, {12, 13}, {4, 5}, {10, 11}, {6, 7}, {8, 9}}));
  EXPECT_EQ(eight("4", "head-first"), (Chunks{{0, 1}, {2, 3}, {12, 13}, {14, 15}, {4, 5}, {6, 7}, {8, 9}, {10, 11}}));
  EXPECT_EQ(eight("2", "context-first"),
            (Chunks{{0, 1}, {2, 3}, {4, 5}, {6, 7}, {14, 15}, {12, 13}, {10, 11}, {8, 9}}));
  EXPECT_EQ(eight("4", "context-first"),
            (Chunks{{0, 1}, {4, 5}, {2, 3}, {6, 7}, {12, 13}, {8, 9}, {14, 15}, {10, 11}}));
}

// With u even: rank (hp, cp) begins at chunk 2 hp + cp u in the low half, and at its mirror in the high half.
TEST(PublishedLayouts, LoongTrainFormula) {
  for_each_grid([](int ranks, int degree) {
    if (degree % 2 != 0) return;
    const Chunks chunks = chunks_of("double-ring", ranks, {{"ulysses", std::to_string(degree)}}, 2 * ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t hp = rank % degree, cp = rank / degree;
      const int64_t start =
          hp < degree / 2 ? 2 * hp + cp * degree : 2 * ranks - 2 - 2 * (degree - hp - 1) - cp * degree;
      EXPECT_EQ(chunks[static_cast<size_t>(rank)], (std::vector<int64_t>{start, start + 1})) << ranks << " " << degree;
    }
  });
}

// USP: the pair of chunks j and 2r-1-j of ring rank j, token t on ring rank t mod r, or plain pieces; cut in u consecutive
// parts.
TEST(PublishedLayouts, UspFormulas) {
  for_each_grid([](int ranks, int degree) {
    const int r = ranks / degree;
    const int64_t part = 4, tokens = part * ranks;
    for (const bool inner : {true, false}) {
      for (const std::string order : {"zigzag", "contiguous", "striped"}) {
        const Layout layout = layout_of(
            "usp", {tokens}, ranks,
            {{"ulysses", std::to_string(degree)}, {"placement", inner ? "inner" : "outer"}, {"order", order}});
        for (int rank = 0; rank < ranks; ++rank) {
          const int64_t j = inner ? rank / degree : rank % r, index = inner ? rank % degree : rank / r;
          std::vector<int64_t> expected;
          for (int64_t i = index * part; i < (index + 1) * part; ++i) {  // local token of the place
            const int64_t half = tokens / r / 2;
            if (order == "striped") {
              expected.push_back(i * r + j);
            } else if (order == "contiguous") {
              expected.push_back(j * 2 * half + i);
            } else {
              expected.push_back(i < half ? j * half + i : (2 * r - 1 - j) * half + i - half);
            }
          }
          ASSERT_EQ(layout.positions(rank), expected) << order << " " << ranks << " " << degree << " rank " << rank;
        }
      }
    }
  });
}

std::string refusal(std::string_view method, int ranks, const Options& options) {
  try {
    layout_of(method, {64}, ranks, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    return error.what();
  }
  return "";
}

TEST(Grids, DegreesThatDoNotDivideAreRefused) {
  EXPECT_EQ(refusal("usp", 8, {{"ulysses", "3"}}), "usp: ulysses 3 does not divide 8 ranks; use one of 1, 2, 4, 8");
  EXPECT_EQ(refusal("double-ring", 8, {{"ulysses", "2"}, {"window", "3"}}),
            "double-ring: window 3 does not divide 4 ranks of a context ring; use one of 1, 2, 4");
}

}  // namespace
}  // namespace weft
