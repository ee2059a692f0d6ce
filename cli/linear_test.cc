// Linear layers from the command line.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/testing.h"
#include "weft/files/atomic_file.h"

namespace weft::cli {
namespace {

using json = nlohmann::json;

const std::string kFewTokens = " --ranks 3 --tokens 50 --heads 2 --key-dim 4 --value-dim 6";

TEST(Linear, MethodsListsTheFamily) {
  std::vector<std::string> linear;
  for (const json& method : json::parse(run_line("methods --json").out)) {
    if (method["family"] == "linear") linear.push_back(method["name"]);
  }
  EXPECT_EQ(linear, (std::vector<std::string>{"chain", "all-scan", "all-gather-state", "log-step", "hierarchical",
                                              "head-exchange", "two-dimensional"}));
  EXPECT_TRUE(has(run_line("methods").out,
                  "Of linear layers, named with --layer linear, retnet, mamba2, gla, deltanet, gdn, kda, rwkv6, rwkv7, "
                  "elementwise, "
                  "pairwise:\n"));
}

TEST(Linear, EveryMethodAndLayerIsVerifiedAndChecked) {
  const std::map<std::string, std::vector<std::string>> inputs = {
      {"linear", {}},           {"retnet", {}},          {"mamba2", {"dg"}},
      {"gla", {"dg"}},          {"deltanet", {"dbeta"}}, {"gdn", {"dbeta", "dg"}},
      {"kda", {"dbeta", "dg"}}, {"rwkv6", {"dg", "du"}}, {"rwkv7", {"da", "db", "dg"}},
      {"elementwise", {"da"}},  {"pairwise", {"da"}}};
  for (const auto& [layer, gradients] : inputs) {
    const std::string words = " --layer " + layer + kFewTokens + " --backward";
    const json all = json::parse(run_line("verify all" + words + " --json").out);
    EXPECT_EQ(all["ok"], true);
    EXPECT_EQ(all["results"].size(), 7u);
    for (const json& result : all["results"]) {
      const Outcome outcome = run_line("check " + result["method"].get<std::string>() + words + " --dtype fp64 --json");
      EXPECT_EQ(outcome.code, kExitFine) << outcome.out;
      std::vector<std::string> found;
      const json errors = json::parse(outcome.out)["errors"];
      for (const auto& [name, error] : errors.items()) {
        if (name != "out" && name != "dq" && name != "dk" && name != "dv") found.push_back(name);
      }
      std::sort(found.begin(), found.end());
      EXPECT_EQ(found, gradients) << layer;
    }
  }
}

TEST(Linear, Householders) {
  const std::string words = " --layer gdn --householders 3" + kFewTokens + " --backward";
  EXPECT_EQ(json::parse(run_line("verify all" + words + " --json").out)["ok"], true);
  EXPECT_EQ(run_line("check chain" + words + " --dtype bf16").code, kExitFine);
  const std::string text = run_line("show chain" + words + " --json").out;
  EXPECT_TRUE(has(text, "\"householders\": 3"));
  const std::string path = ::testing::TempDir() + "householders_" + std::to_string(::getpid()) + ".json";
  std::ofstream(path) << text;
  EXPECT_EQ(run_line("verify --file " + path).code, kExitFine);
  std::filesystem::remove(path);
  const Outcome refused = run_line("check chain --layer gla --householders 3" + kFewTokens);
  EXPECT_EQ(refused.code, kExitUsage);
  ASSERT_EQ(refused.complaints.size(), 1u);
  EXPECT_TRUE(
      has(refused.complaints[0], "householders go with a layer that has a delta rule: deltanet, gdn or kda, not"));
}

TEST(Linear, HeadsOfQueriesAndKeysMayBeFewer) {
  const std::string words = " --layer mamba2 --ranks 3 --tokens 50 --heads 6 --key-heads 2 --key-dim 4 --value-dim 6";
  EXPECT_EQ(json::parse(run_line("verify all --backward --json" + words).out)["ok"], true);
  const std::string folder = ::testing::TempDir() + "key_heads_" + std::to_string(::getpid());
  EXPECT_EQ(run_line("check head-exchange --backward --dtype bf16" + words + " --save " + folder).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("k":{"dtype":"BF16","shape":[50,2,4])"));
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("v":{"dtype":"BF16","shape":[50,6,6])"));
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("dq":{"dtype":"BF16","shape":[50,2,4])"));
  std::filesystem::remove_all(folder);
  EXPECT_EQ(run_line("show head-exchange --backward" + words).code, kExitFine);
  EXPECT_TRUE(has(complaint("verify chain --layer gla --key-heads 2 --heads 3 --ranks 2 --tokens 50"),
                  "key-heads 2 does not divide heads 3"));
  EXPECT_TRUE(has(complaint("verify ring --key-heads 2 --ranks 2 --tokens 50"), "key-heads goes with a linear layer"));
}

TEST(Linear, MethodMayBeNamedByItsOption) {
  EXPECT_EQ(run_line("show --method chain --layer gla" + kFewTokens + " --verbose").out,
            run_line("show chain --layer gla" + kFewTokens + " --verbose").out);
  EXPECT_TRUE(
      has(run_line("show chain --layer gla" + kFewTokens + " --verbose").out, "summarise kvg#1 0..16 into state#"));
  EXPECT_EQ(run_line("show chain --layer mamba2" + kFewTokens).code, kExitFine);
}

TEST(Linear, CheckSavesInputsAndResults) {
  const std::string folder = ::testing::TempDir() + "linear_" + std::to_string(::getpid());
  EXPECT_EQ(run_line("check log-step --layer gla" + kFewTokens + " --dtype bf16 --save " + folder).code, kExitFine);
  const std::string inputs = read_file(folder + "/inputs.safetensors"),
                    outputs = read_file(folder + "/outputs.safetensors");
  EXPECT_TRUE(has(inputs, R"("g":{"dtype":"F32","shape":[50,2,4])")) << inputs.substr(0, 400);
  EXPECT_TRUE(has(inputs, R"("v":{"dtype":"BF16","shape":[50,2,6])"));
  EXPECT_TRUE(has(outputs, R"("dg":{"dtype":"F32","shape":[50,2,4])")) << outputs.substr(0, 400);
  EXPECT_FALSE(has(outputs, R"("lse")"));
  EXPECT_EQ(run_line("check chain --layer rwkv7" + kFewTokens + " --dtype bf16 --save " + folder).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("a":{"dtype":"BF16","shape":[50,2,4])"));
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("db":{"dtype":"BF16","shape":[50,2,4])"));
  EXPECT_EQ(run_line("check chain --layer pairwise" + kFewTokens + " --dtype bf16 --save " + folder).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("a":{"dtype":"F32","shape":[50,2,12])"));
  EXPECT_EQ(run_line("check chain --layer gdn" + kFewTokens + " --dtype bf16 --save " + folder).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("beta":{"dtype":"F32","shape":[50,2,1])"));
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("dbeta":{"dtype":"F32","shape":[50,2,1])"));
  std::filesystem::remove_all(folder);
}

TEST(Linear, ParametersAreSaved) {
  const std::string folder = ::testing::TempDir() + "linear_u_" + std::to_string(::getpid());
  EXPECT_EQ(run_line("check chain --layer rwkv6" + kFewTokens + " --dtype bf16 --save " + folder).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("u":{"dtype":"F32","shape":[2,4])"));
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("du":{"dtype":"F32","shape":[2,4])"));
  std::filesystem::remove_all(folder);
}

TEST(Linear, StatesOfDocumentsAreSaved) {
  const std::string folder = ::testing::TempDir() + "linear_states_" + std::to_string(::getpid());
  const std::string words = " --ranks 3 --docs 10,30,10 --heads 2 --key-dim 4 --value-dim 6 --layer kda";
  const std::string line = "check all-scan" + words + " --initial-states --final-states --dtype fp64 --json --save ";
  const Outcome outcome = run_line(line + folder);
  EXPECT_EQ(outcome.code, kExitFine) << outcome.out;
  const json errors = json::parse(outcome.out)["errors"];
  EXPECT_TRUE(errors.contains("final_state") && errors.contains("dinitial_state")) << outcome.out;
  const std::string inputs = read_file(folder + "/inputs.safetensors"),
                    outputs = read_file(folder + "/outputs.safetensors");
  EXPECT_TRUE(has(inputs, R"("initial_state":{"dtype":"F64","shape":[3,2,4,6])")) << inputs.substr(0, 900);
  EXPECT_TRUE(has(inputs, R"("dfinal_state":{"dtype":"F64","shape":[3,2,4,6])"));
  EXPECT_TRUE(has(outputs, R"("final_state":{"dtype":"F64","shape":[3,2,4,6])")) << outputs.substr(0, 900);
  EXPECT_TRUE(has(outputs, R"("dinitial_state":{"dtype":"F64","shape":[3,2,4,6])"));
  std::filesystem::remove_all(folder);
  EXPECT_EQ(run_line("verify all" + words + " --initial-states --final-states --backward").code, kExitFine);
}

TEST(Linear, StatesAtPositionsAreSaved) {
  const std::string folder = ::testing::TempDir() + "linear_positions_" + std::to_string(::getpid());
  const std::string words = " --ranks 3 --docs 10,30,10 --heads 2 --key-dim 4 --value-dim 6 --layer gdn";
  const std::string line = "check log-step" + words + " --state-positions 20,3 --dtype fp64 --save " + folder;
  EXPECT_EQ(run_line(line).code, kExitFine);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("dfinal_state":{"dtype":"F64","shape":[2,2,4,6])"));
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("final_state":{"dtype":"F64","shape":[2,2,4,6])"));
  EXPECT_EQ(run_line(line + " --final-states").code, kExitFine);  // one more for each document
  EXPECT_TRUE(has(read_file(folder + "/outputs.safetensors"), R"("final_state":{"dtype":"F64","shape":[5,2,4,6])"));
  std::filesystem::remove_all(folder);
  EXPECT_EQ(run_line("verify all" + words + " --state-positions 9,10,49 --backward").code, kExitFine);
}

TEST(Linear, CanonicalResultsHaveOneDigest) {
  const auto digest = [](const std::string& words) {
    const Outcome outcome = run_line(
        "check " + words + " --layer gdn --docs 300,41,200 --heads 2 --key-dim 4 --value-dim 6 --canonical --json");
    EXPECT_EQ(outcome.code, kExitFine) << outcome.out;
    return json::parse(outcome.out)["digest"].get<std::string>();
  };
  const std::string one = digest("all-scan --ranks 1");
  EXPECT_EQ(digest("chain --ranks 3 --layout zigzag"), one);
  EXPECT_EQ(digest("all-scan --ranks 4"), one);
  EXPECT_EQ(digest("head-exchange --ranks 2"), one);
}

TEST(Linear, FullMask) {
  const std::string words = " --layer linear --mask full --ranks 3 --docs 10,30,13 --heads 2 --key-dim 4 --value-dim 6";
  for (const std::string method : {"all-scan", "all-gather-state", "head-exchange"})
    EXPECT_EQ(run_line("check " + method + words + " --dtype fp64").code, kExitFine) << method;
  const Outcome all = run_line("verify all --backward" + words);
  EXPECT_EQ(all.code, kExitFine);
  EXPECT_TRUE(has(all.out, "for a full mask use all-scan, all-gather-state, head-exchange")) << all.out;
  EXPECT_EQ(run_line("show all-scan --backward" + words).code, kExitFine);
}

TEST(Linear, SaysWhatDoesNotFit) {
  EXPECT_TRUE(has(complaint("verify ring --final-states --ranks 2 --tokens 20"), "layer softmax has no state"));
  EXPECT_TRUE(has(complaint("verify chain --layer gla --ranks 2 --tokens 50 --state-positions 50"),
                  "state position 50 is none of the 50 tokens; use 0 to 49"));
  EXPECT_TRUE(has(complaint("verify ring --layer gla" + kFewTokens),
                  "method ring computes softmax attention, not layer gla; use chain, "));
  EXPECT_TRUE(
      has(complaint("verify chain" + kFewTokens), "chain computes linear layers; give --layer linear, retnet, "));
  EXPECT_TRUE(has(complaint("verify chain --layer glu" + kFewTokens), "did you mean 'gla'?"));
  EXPECT_TRUE(has(complaint("verify chain --layer gla --mask full" + kFewTokens), "it needs a causal mask"));
  EXPECT_TRUE(has(complaint("verify chain --layer linear --mask full" + kFewTokens), "for a full mask use all-scan"));
  EXPECT_TRUE(has(complaint("verify all-scan --layer linear --mask full --final-states" + kFewTokens),
                  "no state before or after a token"));
  EXPECT_TRUE(has(complaint("verify chain --layer linear --mask window:8" + kFewTokens), "a causal or a full mask"));
  EXPECT_TRUE(has(complaint("verify chain --layer gla --mask causal+window:8" + kFewTokens), "it needs a causal mask"));
  EXPECT_TRUE(
      has(complaint("verify chain --layer gla --layout striped" + kFewTokens), "use layout contiguous or zigzag"));
  EXPECT_TRUE(has(complaint("verify chain --layer gla --kv-heads 1" + kFewTokens), "kv-heads 1 must equal heads 2"));
  EXPECT_TRUE(has(complaint("check log-step --layer gla --canonical" + kFewTokens),
                  "for canonical results use chain, all-scan, head-exchange"));
  EXPECT_TRUE(has(complaint("check chain --layer rwkv6 --canonical" + kFewTokens), "has no canonical results"));
  EXPECT_TRUE(
      has(complaint("verify all-scan --layer gla --option blocks=3" + kFewTokens), "use at most as many blocks"));
}

}  // namespace
}  // namespace weft::cli
