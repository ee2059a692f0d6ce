// Live memory of methods, forward and backward together: what must not grow with the number of ranks.
#include "tests/volumes.h"

namespace weft::volumes {
namespace {

constexpr int64_t kHeads = 16;

// Of the rank with most, kT tokens a rank.
int64_t live(std::string_view method, std::string_view layout, MaskRule rule, int ranks, const Options& options = {}) {
  Problem problem = Shape{ranks, kHeads, kHeads, DType::fp32, DType::fp32}.problem(layout, rule);
  problem.backward = true;
  int64_t most = 0;
  for (const RankReport& rank : proved(method, problem, options).ranks) most = std::max(most, rank.live_bytes);
  return most;
}

// Also where a rank sends and receives nothing in return, as the last one of a causal ring does.
TEST(LiveMemory, OfRingsIsTheSameForAnyNumberOfRanks) {
  for (const std::string_view layout : {"contiguous", "zigzag", "striped"}) {
    for (const MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 2 * kT}}) {
      for (const char* direction : {"forward", "reverse"}) {
        const Options options = {{"direction", direction}};
        const int64_t few = live("ring", layout, rule, 8, options);
        for (const int ranks : {16, 32}) {
          EXPECT_LE(live("ring", layout, rule, ranks, options), few)
              << ranks << " ranks, " << layout << " " << to_string(rule) << " " << direction;
        }
      }
    }
  }
}

// Windows of up to 8 ranks hold what three blocks and their sums need, however many windows there are.
TEST(LiveMemory, OfDoubleRingsIsTheSameForAnyNumberOfWindows) {
  for (const std::string_view layout : {"contiguous", "zigzag", "striped"}) {
    for (const MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 2 * kT}}) {
      const Options options = {{"ulysses", "1"}, {"window", "8"}};
      const int64_t few = live("double-ring", layout, rule, 32, options);
      EXPECT_LE(live("double-ring", layout, rule, 64, options), few) << layout << " " << to_string(rule);
    }
  }
}

// Groups of heads: far less than all keys and values and their gradients, which all-gather holds.
TEST(LiveMemory, OfGroupedGathersIsThatOfFewGroups) {
  for (const int ranks : {8, 32}) {
    for (const MaskRule rule : {MaskRule{}, MaskRule{.causal = true}}) {
      const int64_t everything = ranks * kT * kHeads * kD * 4;  // one tensor of all tokens and heads
      const int64_t own = live("all-gather", "contiguous", rule, 1), group = everything / kHeads;
      // Keys, values and two gradients of the group at hand; k, v of the next; gradients of the last, sent and received.
      EXPECT_LE(live("llama3", "contiguous", rule, ranks), own + (4 + 2 + 4) * group) << ranks << to_string(rule);
      EXPECT_GT(live("all-gather", "contiguous", rule, ranks), own / 2 + 3 * everything) << ranks << to_string(rule);
    }
  }
}

}  // namespace
}  // namespace weft::volumes
