// Every method, mask, rank count and head set: the verifier must accept, and its counts must add up.
#include <gtest/gtest.h>

#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

struct MaskCase {
  std::vector<int64_t> lengths;
  MaskRule rule;
};

const std::vector<MaskCase> kMasks = {
    {{97}, {}},
    {{97}, {.causal = true}},
    {{97}, {.window = 9}},
    {{97}, {.causal = true, .window = 13}},
    {{1, 40, 7, 30, 1, 18}, {.causal = true}},
    {{1, 40, 7, 30, 1, 18}, {}},
    {{1, 40, 7, 30, 1, 18}, {.causal = true, .window = 5}},
    {{3}, {.causal = true}},
    {{1}, {}},
};

struct HeadCase {
  int64_t heads, kv_heads;
};
const std::vector<HeadCase> kHeads = {{8, 8}, {8, 2}, {6, 1}, {5, 5}, {3, 1}, {12, 6}};

std::string first_problem(const Report& report) {
  if (report.ok()) return "";
  const Finding& f = report.problems[0];
  return "rank " + std::to_string(f.rank) + ", instruction " + std::to_string(f.instruction) + ", " + f.kind + ": " +
         f.text;
}

class EveryMethod : public testing::TestWithParam<std::string_view> {};

TEST_P(EveryMethod, IsAcceptedOnEveryMaskAndShape) {
  for (const MaskCase& mask : kMasks) {
    for (int ranks : {1, 2, 3, 4, 5, 8}) {
      for (const HeadCase& heads : kHeads) {
        for (std::string_view layout : {"", "contiguous", "zigzag", "striped", "document-zigzag"}) {
          const Layout where = choose_layout(layout, GetParam(), Documents(mask.lengths, mask.rule), ranks);
          Problem problem =
              self_attention(Mask::documents(mask.lengths, mask.rule), where, heads.heads, heads.kv_heads, 16);
          problem.backward = true;
          problem.return_lse = ranks % 2 == 0;
          const int64_t area = problem.mask.area();
          const Report report = verify(make_schedule(GetParam(), problem));
          ASSERT_TRUE(report.ok()) << GetParam() << ", " << ranks << " ranks, layout " << layout << ", mask "
                                   << to_string(mask.rule) << " of " << mask.lengths.size() << " documents, heads "
                                   << heads.heads << "/" << heads.kv_heads << ": " << first_problem(report);
          int64_t work = 0, work_backward = 0;
          for (const RankReport& rank : report.ranks) work += rank.work, work_backward += rank.work_backward;
          EXPECT_EQ(work, area * heads.heads);
          EXPECT_EQ(work_backward, area * heads.heads);
        }
      }
    }
  }
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> result;
  for (const Method* method : all_methods()) result.push_back(method->name);
  return result;
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(names()), [](const auto& test) {
  std::string name(test.param);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace weft
