// The choice among methods of linear layers: what wins where, and that times are made of what they say.
#include "weft/methods/linear/choice.h"

#include <gtest/gtest.h>

#include "weft/methods/registry.h"

namespace weft {
namespace {

Configuration layer_of_ranks(int ranks, int64_t tokens_of_each, Layer layer = Layer::gla) {
  Configuration c;
  c.layer = layer, c.ranks = ranks, c.tokens = tokens_of_each * ranks, c.mask.causal = true;
  c.heads = c.kv_heads = 32, c.dim = c.dim_v = 128, c.backward = true, c.element = c.wire = DType::bf16;
  return c;
}

constexpr Machine kFast{.operations = 1e14, .network = {.latency = 8e-6, .bandwidth = 25e9}};

double seconds_of(const LinearChoice& choice, std::string_view method) {
  for (const LinearTime& time : choice.times) {
    if (time.method == method) return time.seconds();
  }
  ADD_FAILURE() << method << " is not among the times";
  return 0;
}

TEST(LinearChoice, FewRanksWithMuchToDoPassBlocks) {
  Machine machine{.operations = 1e11, .network = {.latency = 2e-5, .bandwidth = 1e8}};
  EXPECT_EQ(choose_linear_method(layer_of_ranks(3, 16384), machine).method, "all-scan");
  // One block makes all states ahead.
  const LinearChoice choice = choose_linear_method(layer_of_ranks(3, 16384), machine);
  EXPECT_LT(seconds_of(choice, "all-scan"), seconds_of(choice, "chain"));
}

TEST(LinearChoice, ManyRanksAndSlowMessagesTakeLogSteps) {
  Machine machine = kFast;
  machine.network.latency = 1e-3;
  EXPECT_EQ(choose_linear_method(layer_of_ranks(1024, 4096), machine).method, "log-step");
}

TEST(LinearChoice, FastNetworksTradeHeads) {
  Machine machine = kFast;
  machine.network = {.latency = 1e-7, .bandwidth = 1e15};
  EXPECT_EQ(choose_linear_method(layer_of_ranks(32, 4096, Layer::gdn), machine).method, "head-exchange");
  // Not where heads do not divide.
  EXPECT_NE(choose_linear_method(layer_of_ranks(33, 4096, Layer::gdn), machine).method, "head-exchange");
}

TEST(LinearChoice, NodesHelpWhereTheNetworkBetweenThemIsSlow) {
  Machine machine{.operations = 1e14, .network = {1e-3, 25e9}, .node = 8, .inside = {2e-6, 300e9}};
  const LinearChoice choice = choose_linear_method(layer_of_ranks(1024, 4096), machine);
  EXPECT_EQ(choice.method, "hierarchical");
  EXPECT_LT(seconds_of(choice, "hierarchical"), seconds_of(choice, "log-step"));
}

// Ranks of one node are on its network.
TEST(LinearChoice, ANodeIsItsNetwork) {
  const Network inside{2e-6, 300e9};
  const Configuration c = layer_of_ranks(8, 4096);
  const auto in_node = choose_linear_method(c, {.operations = 1e14, .network = {1, 1}, .node = 8, .inside = inside}),
             alone = choose_linear_method(c, {.operations = 1e14, .network = inside});
  for (const LinearTime& time : alone.times) EXPECT_EQ(seconds_of(in_node, time.method), time.seconds()) << time.method;
}

TEST(LinearChoice, OneRankWaitsForNothing) {
  for (const LinearTime& time : choose_linear_method(layer_of_ranks(1, 4096), kFast).times) {
    EXPECT_EQ(time.waiting, 0) << time.method;
  }
}

TEST(LinearChoice, SaysWhy) {
  const LinearChoice choice = choose_linear_method(layer_of_ranks(8, 4096), kFast);
  EXPECT_EQ(choice.method, choice.times[0].method);
  EXPECT_NE(choice.why.find(std::string(choice.method) + ": "), std::string::npos) << choice.why;
  EXPECT_NE(choice.why.find(" of waiting; next "), std::string::npos) << choice.why;
  for (size_t i = 1; i < choice.times.size(); ++i) EXPECT_LE(choice.times[i - 1].seconds(), choice.times[i].seconds());
  EXPECT_THROW(choose_linear_method(layer_of_ranks(8, 4096, Layer::softmax), kFast), Error);
}

// Every method that is named exists, and can be made.
TEST(LinearChoice, NamesMethods) {
  for (const int ranks : {1, 2, 16, 64}) {
    for (const LinearTime& time : choose_linear_method(layer_of_ranks(ranks, 64), kFast).times)
      EXPECT_EQ(find_method(time.method).family, Family::linear);
  }
}

}  // namespace
}  // namespace weft
