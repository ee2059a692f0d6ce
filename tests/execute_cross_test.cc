// Cross-attention: queries and keys are different tokens, more of the one or of the other, by every method.
#include <gtest/gtest.h>

#include "weft/execute/check.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

using Lengths = std::vector<int64_t>;

Problem cross_attention(std::string_view method, const Lengths& queries, const Lengths& keys, int ranks) {
  Problem problem(Mask::cross_documents(queries, keys), layout_of(method, queries, ranks),
                  layout_of(method, keys, ranks));
  problem.heads = 4;
  problem.kv_heads = 2;
  problem.dim = 3;
  problem.dim_v = 5;
  problem.backward = true;
  problem.return_lse = true;
  problem.element = problem.wire = DType::fp64;
  return problem;
}

// Proved and executed, or refused by the method in words.
bool expect_right(std::string_view method, const Problem& problem) {
  try {
    const Schedule schedule = make_schedule(method, problem);
    for (const Finding& finding : verify(schedule).problems) ADD_FAILURE() << finding.text;
    for (const TensorError& error : check_schedule(schedule).errors) {
      EXPECT_TRUE(error.ok()) << error.name << " " << error.max_abs << " of " << error.bound;
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) ADD_FAILURE() << error.what();
    return false;
  }
  return true;
}

TEST(ExecuteCross, EveryMethod) {
  const std::vector<std::pair<Lengths, Lengths>> shapes = {
      {{37}, {11}}, {{5}, {41}}, {{3}, {2}}, {{1, 13, 4}, {20, 2, 9}}, {{30, 2}, {1, 5}}};
  for (const Method* method : all_methods()) {
    for (const int ranks : {1, 3, 4}) {
      for (const auto& [queries, keys] : shapes) {
        SCOPED_TRACE(std::string(method->name) + " ranks=" + std::to_string(ranks) +
                     " queries=" + std::to_string(queries[0]) + ".. keys=" + std::to_string(keys[0]) + "..");
        EXPECT_TRUE(expect_right(method->name, cross_attention(method->name, queries, keys, ranks)));
      }
    }
  }
}

}  // namespace
}  // namespace weft
