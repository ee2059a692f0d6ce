// Tiles at every size, those that attend and attend_backward leave to the kernels of short blocks too, against the reference
// kernels in fp64.
#include <gtest/gtest.h>

#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

const TileOps& tile_ops_of(std::string_view path) {
#if defined(__x86_64__)
  if (path == "emulated") return wide_tile_ops();
  if (path == "avx2") return avx2_tile_ops();
  if (path != "portable") return avx512_tile_ops();
#endif
  return portable_tile_ops();
}

class AttentionTiles : public testing::TestWithParam<std::string_view> {
 protected:
  const TileOps& ops() const { return tile_ops_of(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, AttentionTiles, testing::ValuesIn(available_cpu_paths()),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(AttentionTiles, ForwardOfRandomCases) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    AttentionCase actual = random_case(seed, {.max_rows = seed % 4 == 0 ? 300 : 90});
    AttentionCase expected = actual.in_fp64();
    const AttendArgs args = actual.forward();
    for (const HeadGroup& group : group_heads(args.kv_head)) {
      for (const Block& block : args.blocks) cpu_attend_in_tiles(ops(), args, group, block, block.band.q);
    }
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
    for (const HeadGroup& group : group_heads(args.kv_head)) {
      for (const Block& block : args.blocks) cpu_attend_backward_in_tiles(ops(), args, group, block);
    }
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
