// Tiles at every size, those that attend and attend_backward leave to the kernels of short blocks too, against the reference
// kernels in fp64.
#include <gtest/gtest.h>

#include "weft/kernels/testing.h"
#include "weft/kernels/testing_tiles.h"

namespace weft::kernels {
namespace {

using AttentionTiles = testing::TestWithParam<std::string_view>;
INSTANTIATE_TEST_SUITE_P(All, AttentionTiles, testing::ValuesIn(available_cpu_paths()),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(AttentionTiles, ForwardOfRandomCases) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    AttentionCase actual = random_case(seed, {.max_rows = seed % 4 == 0 ? 300 : 90});
    AttentionCase expected = actual.in_fp64();
    const AttendArgs args = actual.forward();
    attend_in_tiles(GetParam(), args);
    reference_kernels().attend(expected.forward());
    EXPECT_LT(relative_error(actual.o, expected.o), kBound) << "seed " << seed << ": " << actual.describe();
    EXPECT_LT(relative_error(actual.lse, expected.lse), kBound) << "seed " << seed;
    EXPECT_TRUE(actual.o.gaps_intact() && actual.lse.gaps_intact()) << "seed " << seed;
  }
}

TEST_P(AttentionTiles, BackwardOfRandomCases) {
  for (uint64_t seed = 100; seed < 125; ++seed) {
    AttentionCase actual = random_case(seed, {.max_rows = seed % 4 == 0 ? 250 : 80});
    make_bundle_consistent(actual, seed);
    AttentionCase expected = actual.in_fp64();
    const AttendBackwardArgs args = actual.backward();
    attend_backward_in_tiles(GetParam(), args);
    reference_kernels().attend_backward(expected.backward());
    for (const auto& [a, e] :
         {std::pair(&actual.dq, &expected.dq), {&actual.dk, &expected.dk}, {&actual.dv, &expected.dv}}) {
      EXPECT_LT(relative_error(*a, *e), kBound) << "seed " << seed << ": " << actual.describe();
      EXPECT_TRUE(a->gaps_intact()) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace weft::kernels
