// Rings that share no link, executed against dense attention: every division of the ranks in nodes.
#include <gtest/gtest.h>

#include "tests/execute_case.h"
#include "weft/methods/passes/hamilton.h"

namespace weft {
namespace {

TEST(ExecuteRings, EveryDivisionInNodes) {
  for (int ranks : {2, 3, 4, 6, 8, 9, 12}) {
    for (int nodes = 1; nodes <= ranks; ++nodes) {
      if (ranks % nodes != 0) continue;
      for (const std::string mask : {"full", "causal", "causal+window:7"}) {
        for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{61}, {1, 13, 4, 39}, {5}}) {
          const int most = methods::most_rings(nodes, ranks / nodes);
          for (int rings : std::vector<int>{most, (most + 1) / 2}) {
            const ExecuteCase c{.method = "tasp",
                                .options = {{"nodes", std::to_string(nodes)}, {"rings", std::to_string(rings)}},
                                .lengths = lengths,
                                .mask = mask,
                                .ranks = ranks,
                                .heads = 4,
                                .kv_heads = 2};
            SCOPED_TRACE(c.describe());
            for (const TensorError& error : check_schedule(c.schedule()).errors) {
              EXPECT_TRUE(error.ok()) << error.name << " is off by " << error.max_rel;
            }
          }
        }
      }
    }
  }
}

// Above 64 ranks pieces lie in values of their own.
TEST(ExecuteRings, ManyRanks) {
  const ExecuteCase c{.method = "tasp", .options = {{"nodes", "9"}}, .lengths = {200, 1, 70}, .ranks = 72};
  SCOPED_TRACE(c.describe());
  for (const TensorError& error : check_schedule(c.schedule()).errors) {
    EXPECT_TRUE(error.ok()) << error.name << " is off by " << error.max_rel;
  }
}

}  // namespace
}  // namespace weft
