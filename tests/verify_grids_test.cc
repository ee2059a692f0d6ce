// Methods that arrange the ranks in a grid: every grid of up to 24 ranks is proved right.
#include <gtest/gtest.h>

#include "weft/base/test_level.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

using Options = std::map<std::string, std::string>;

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
            "usp", ranks, {{"ulysses", std::to_string(degree)}, {"placement", placement}, {"order", order}}, "zigzag"));
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
