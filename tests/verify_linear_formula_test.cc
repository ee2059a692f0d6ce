// Closed forms of linear methods against what the verifier counts: every number, exactly.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/base/test_level.h"

namespace weft {
namespace {

Formula formula_for(const LinearCase& c, const Problem& problem) {
  const Method& method = find_method(c.method);
  return formula_of(method, problem, MethodOptions(method.name, method.options, c.options));
}

void expect_exact(const LinearCase& c, bool backward) {
  SCOPED_TRACE(c.describe() + (backward ? ", backward" : ""));
  Problem problem = c.problem();
  problem.backward = backward;
  const Formula formula = formula_for(c, problem);
  ASSERT_TRUE(formula.known()) << formula.reason;
  EXPECT_TRUE(formula.exact);
  const Report report = verify(make_schedule(c.method, problem, c.options));
  ASSERT_TRUE(report.ok()) << findings(report);
  const auto claimed = numbers_of(formula), real = numbers_of(cost_of(report));
  for (size_t i = 0; i < real.size(); ++i) EXPECT_EQ(claimed[i].second, real[i].second) << real[i].first;
}

std::vector<LinearCase> ways(int64_t heads) {
  std::vector<LinearCase> list;
  for (const char* method : {"chain", "all-gather-state", "log-step", "head-exchange"})
    list.push_back({.method = method, .heads = heads});
  for (const char* node : {"1", "2", "3", "8"})
    list.push_back({.method = "hierarchical", .heads = heads, .options = {{"node", node}}});
  for (int64_t blocks = 1; blocks <= heads; blocks = blocks * 2 + 1)
    list.push_back({.method = "all-scan", .heads = heads, .options = {{"blocks", std::to_string(blocks)}}});
  return list;
}

TEST(LinearFormulas, AreWhatTheVerifierCounts) {
  for (const int ranks : {1, 2, 3, 4, 5, 8, 13}) {
    for (const int64_t heads : {1, 2, 3, 8}) {
      for (LinearCase c : ways(heads)) {
        c.ranks = ranks, c.dim = 5, c.dim_v = 3;
        for (const Layer layer :
             {Layer::retnet, Layer::mamba2, Layer::gla, Layer::gdn, Layer::rwkv7, Layer::pairwise}) {
          for (const DType element : {DType::fp64, DType::bf16}) {
            c.layer = layer, c.element = element, c.lengths = {7 * ranks};
            c.householders = layer == Layer::gdn && ranks % 2 == 0 ? 2 : 1;
            expect_exact(c, true);
            expect_exact(c, false);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

// Heads that share rows of q and k, in groups that ranks cut and that they do not; sums on the wire as they are and lowered.
TEST(LinearFormulas, SharedHeads) {
  for (const int ranks : {1, 2, 3, 4, 5, 8}) {
    for (const auto& [heads, key_heads] : {std::pair{4, 2}, {6, 1}, {6, 3}, {8, 4}}) {
      for (LinearCase c : ways(heads)) {
        c.ranks = ranks, c.dim = 5, c.dim_v = 3, c.key_heads = key_heads, c.lengths = {7 * ranks};
        for (const Layer layer : {Layer::mamba2, Layer::gdn}) {
          for (const DType wire : {DType::fp32, DType::bf16}) {
            c.layer = layer, c.element = DType::bf16, c.householders = layer == Layer::gdn ? 2 : 1, c.wire = wire;
            expect_exact(c, true);
            expect_exact(c, false);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST(LinearFormulas, AreExactForManyRanks) {
  for (LinearCase c : ways(40)) {
    for (const int ranks : {32, 100}) {
      c.ranks = ranks, c.lengths = {16 * ranks}, c.dim = 16, c.layer = Layer::gdn;
      expect_exact(c, true);
    }
  }
}

// Of a count that does not divide, the numbers are those of the next one that does.
TEST(LinearFormulas, RoundTokensUp) {
  for (LinearCase c : ways(4)) {
    c.ranks = 5, c.lengths = {33};
    const Formula formula = formula_for(c, c.problem());
    ASSERT_TRUE(formula.known()) << formula.reason;
    EXPECT_FALSE(formula.exact);
    c.lengths = {35};
    EXPECT_EQ(numbers_of(formula), numbers_of(formula_for(c, c.problem()))) << c.describe();
  }
}

TEST(LinearFormulas, SayWhatTheyDoNotKnow) {
  const auto reason = [](const LinearCase& c) { return formula_for(c, c.problem()).reason; };
  EXPECT_NE(reason({.layout = "zigzag"}).find("on this layout; known: contiguous"), std::string::npos);
  EXPECT_NE(reason({.lengths = {20, 17}}).find("one document"), std::string::npos);
  EXPECT_NE(reason({.lengths = {2}}).find("fewer tokens than ranks"), std::string::npos);
  LinearCase c;
  c.initial_states = true;
  EXPECT_NE(reason(c).find("states that are given or asked for"), std::string::npos);
}

}  // namespace
}  // namespace weft
