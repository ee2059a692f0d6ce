// Every method, executed on threads with reference kernels in fp64, against dense attention.
#include <gtest/gtest.h>

#include <cstring>

#include "weft/base/test_level.h"
#include "weft/execute/check.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

struct Case {
  std::string method = "ring";
  std::map<std::string, std::string> options = {};
  std::vector<int64_t> lengths = {37};
  std::string mask = "causal";
  int ranks = 2;
  int64_t heads = 2, kv_heads = 2;
  int64_t dim = 3, dim_v = 3;
  std::string layout = "";  // empty: the method's own
  DType element = DType::fp64;
  DType wire = DType::fp64;

  std::string describe() const {
    std::string text = method;
    for (const auto& [key, value] : options) text += " " + key + "=" + value;
    text += " ranks=" + std::to_string(ranks) + " docs=";
    for (int64_t length : lengths) text += std::to_string(length) + ",";
    return text + " mask=" + mask + " heads=" + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " layout=" + layout;
  }
};

Schedule make(const Case& c) {
  const Layout layout = c.layout.empty() ? layout_of(c.method, c.lengths, c.ranks, c.options)
                                         : make_layout(c.layout, c.lengths, c.ranks);
  Problem problem = self_attention(Mask::documents(c.lengths, parse_mask_rule(c.mask)), layout,
                                   c.heads, c.kv_heads, c.dim);
  problem.dim_v = c.dim_v;
  problem.backward = true;
  problem.return_lse = true;
  problem.element = c.element;
  problem.wire = c.wire;
  return make_schedule(c.method, std::move(problem), c.options);
}

// Where a tensor is wrong, by rank and head.
std::string explain(const TensorError& error, int64_t heads) {
  std::string text = error.name + " is off by " + std::to_string(error.max_rel) + " relative:";
  for (size_t i = 0; i < error.by_rank_and_head.size(); ++i) {
    if (error.by_rank_and_head[i] <= error.bound) continue;
    text += " rank " + std::to_string(i / static_cast<size_t>(heads)) + " head " +
            std::to_string(i % static_cast<size_t>(heads)) + ";";
  }
  return text;
}

void expect_right(const Case& c, const CheckOptions& options = {}) {
  SCOPED_TRACE(c.describe());
  try {
    const CheckReport report = check_schedule(make(c), options);
    for (const TensorError& error : report.errors) {
      const bool keys = error.name == "dk" || error.name == "dv";
      EXPECT_TRUE(error.ok()) << explain(error, keys ? c.kv_heads : c.heads);
    }
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
}

const std::vector<std::pair<std::string, std::map<std::string, std::string>>> kMethods = {
    {"ring", {}},
    {"ring", {{"direction", "-1"}}},
    {"zigzag", {}},
    {"zigzag", {{"direction", "1"}}},
    {"striped", {}},
    {"all-gather", {}},
    {"ulysses", {}},
    {"usp", {}},
    {"usp", {{"placement", "outer"}}},
    {"token-ring", {}},
};
const std::vector<std::string> kMasks = {"full", "causal", "window:5", "causal+window:7"};
const std::vector<std::vector<int64_t>> kLengths = {{37}, {1, 13, 4, 19}};
const std::vector<int> kRanks = {1, 2, 3, 4, 5, 8};

TEST(ExecuteMethods, EveryMaskRanksAndHeads) {
  const std::vector<std::pair<int64_t, int64_t>> head_sets = {
      {8, 8}, {8, 2}, {6, 1}, {5, 5}, {3, 1}};
  size_t n = 0;
  for (const auto& [method, options] : kMethods) {
    for (const std::string& mask : kMasks) {
      for (const auto& lengths : kLengths) {
        for (int ranks : kRanks) {
          for (const auto& [heads, kv_heads] : head_sets) {
            // Sanitizers are slow: every seventh case there.
            if (test_level() == 0 && n++ % 7 != 0) continue;
            expect_right({.method = method,
                          .options = options,
                          .lengths = lengths,
                          .mask = mask,
                          .ranks = ranks,
                          .heads = heads,
                          .kv_heads = kv_heads});
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft
