// weft bench: what it prints, counts and refuses. Times are only positive here; tests share the machine.
#include "cli/bench.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "cli/testing.h"

namespace weft::cli {
namespace {

using nlohmann::json;

const std::string kSmall = " --tokens 300 --heads 2 --head-dim 8 --repeat 1";

json measured(const std::string& line) {
  const Outcome outcome = run_line("bench methods" + line + " --json");
  EXPECT_EQ(outcome.code, kExitFine) << (outcome.complaints.empty() ? "" : outcome.complaints[0]);
  return json::parse(outcome.out);
}

TEST(LongTail, SumsUpAndIsTheSameForASeed) {
  for (const int64_t tokens : {1, 31, 33, 1000, 16384, 100000}) {
    for (const int64_t seed : {0, 1, 2}) {
      const std::vector<int64_t> lengths = long_tail_lengths(tokens, seed);
      EXPECT_EQ(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}), tokens);
      EXPECT_GE(*std::min_element(lengths.begin(), lengths.end()), 1);
      EXPECT_EQ(lengths, long_tail_lengths(tokens, seed));
    }
  }
  EXPECT_NE(long_tail_lengths(16384, 0), long_tail_lengths(16384, 1));
}

TEST(LongTail, FewDocumentsHoldManyTokens) {
  std::vector<int64_t> lengths = long_tail_lengths(1 << 20, 0);
  std::sort(lengths.begin(), lengths.end());
  EXPECT_LT(lengths[lengths.size() / 2], 100);
  EXPECT_GT(lengths.back(), 10000);
  const int64_t longest_tenth =
      std::accumulate(lengths.end() - static_cast<int64_t>(lengths.size() / 10), lengths.end(), int64_t{0});
  EXPECT_GT(longest_tenth, (1 << 20) / 2);
}

TEST(BenchMethods, MeasuresASequenceAndPackedDocuments) {
  const json result = measured(kSmall + " --ranks 2 --methods zigzag,ulysses");
  EXPECT_EQ(result["ranks"], 2);
  ASSERT_EQ(result["batches"].size(), 2u);
  EXPECT_EQ(result["batches"][0]["batch"], "sequence");
  EXPECT_EQ(result["batches"][0]["documents"], json{300});
  EXPECT_EQ(result["batches"][0]["area"], 300 * 301 / 2);
  EXPECT_EQ(result["batches"][1]["batch"], "packed");
  EXPECT_EQ(result["batches"][1]["documents"], json(long_tail_lengths(300, 0)));
  for (const json& batch : result["batches"]) {
    ASSERT_EQ(batch["methods"].size(), 2u);
    EXPECT_EQ(batch["methods"][0]["method"], "zigzag");
    EXPECT_EQ(batch["methods"][1]["method"], "ulysses");
    for (const json& method : batch["methods"]) {
      for (const char* key : {"forward_seconds", "backward_seconds", "efficiency", "peak_bytes", "flops_per_second"}) {
        EXPECT_GT(method[key].get<double>(), 0) << key;
      }
      // Medians of different runs, of milliseconds: only the order of magnitude is sure.
      const double seconds = method["forward_seconds"].get<double>() + method["backward_seconds"].get<double>();
      for (const char* key : {"waiting_seconds", "idle_seconds"}) {
        EXPECT_GE(method[key].get<double>(), 0) << key;
        EXPECT_LE(method[key].get<double>(), 10 * seconds + 1) << key;
      }
    }
  }
}

TEST(BenchMethods, CountsWhatVerifyCounts) {
  const std::string problem = " --ranks 3 --docs 90,7,50 --heads 4 --kv-heads 2 --head-dim 8";
  const json result = measured(problem + " --methods striped --repeat 1");
  ASSERT_EQ(result["batches"].size(), 1u);
  const json& row = result["batches"][0]["methods"][0];
  int64_t bytes = 0, messages = 0, live = 0;
  const json proof = json::parse(run_line("verify striped --backward --json" + problem).out);
  for (const json& rank : proof["ranks"]) {
    bytes += rank["bytes_sent"].get<int64_t>();
    messages += rank["messages"].get<int64_t>();
    live = std::max(live, rank["live_bytes"].get<int64_t>());
  }
  EXPECT_EQ(row["bytes_sent"], bytes);
  EXPECT_EQ(row["messages"], messages);
  EXPECT_EQ(row["peak_bytes"], live);
}

TEST(BenchMethods, DefaultsToEveryMethodButReferences) {
  std::vector<std::string> expected;
  for (const json& method : json::parse(run_line("methods --json").out)) {
    if (!method["reference"].get<bool>() && method["family"] == "softmax") expected.push_back(method["name"]);
  }
  const auto names = [](const json& result) {
    std::vector<std::string> timed;
    for (const json& row : result["batches"][0]["methods"]) timed.push_back(row["method"]);
    return timed;
  };
  const std::string small = " --docs 40,3 --heads 2 --head-dim 8 --repeat 1";
  const json all = measured(small);
  EXPECT_EQ(all["ranks"], 2);
  EXPECT_EQ(names(all), expected);
  EXPECT_EQ(std::count(expected.begin(), expected.end(), "rsa"), 0);
  EXPECT_EQ(names(measured(small + " --methods rsa")), std::vector<std::string>{"rsa"});
}

TEST(BenchMethods, PrintsOneTable) {
  const Outcome outcome = run_line("bench methods --methods ring --ranks 2 --mask window:9" + kSmall);
  EXPECT_EQ(outcome.code, kExitFine);
  for (const char* part :
       {"2 ranks, fp32, 2 heads (2 of keys) of 8", "\nsequence: 300 tokens, window:9\n", "\npacked: 300 tokens in ",
        "\nsequence  ring ", "\npacked    ring ", "waiting", "efficiency"}) {
    EXPECT_TRUE(has(outcome.out, part)) << part << "\n" << outcome.out;
  }
  EXPECT_EQ(outcome.out.find("forward"), outcome.out.rfind("forward"));
}

TEST(BenchMethods, SaysWhenTimesMeanLittle) {
  const std::string ranks = std::to_string(std::thread::hardware_concurrency() + 1);
  const Outcome outcome = run_line("bench methods --methods ring --ranks " + ranks + kSmall);
  EXPECT_EQ(outcome.code, kExitFine);
  EXPECT_TRUE(has(outcome.out, "not valid, first at ring: " + ranks + " ranks share ")) << outcome.out;
}

TEST(BenchAttention, TimesLinearLayers) {
  for (const char* layer : {"retnet", "rwkv6", "kda", "rwkv7"}) {
    const std::string line =
        "bench attention --ranks 2 --tokens 300 --heads 2 --key-dim 8 --value-dim 5 --seconds 1 --layer ";
    const Outcome outcome = run_line(line + layer + " --json");
    ASSERT_EQ(outcome.code, kExitFine) << (outcome.complaints.empty() ? "" : outcome.complaints[0]);
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["layer"], layer);
    EXPECT_EQ(result["method"], "all-scan");
    for (const char* key : {"forward_seconds", "backward_seconds", "efficiency", "tokens_per_second"})
      EXPECT_GT(result[key].get<double>(), 0) << key;
    EXPECT_FALSE(result.contains("flops_per_second"));
  }
}

TEST(BenchMethods, Refuses) {
  const std::string start = "bench methods --ranks 2 --tokens 8 ";
  EXPECT_TRUE(has(complaint(start + "--methods ring,zigzg"), "did you mean 'zigzag'?"));
  EXPECT_TRUE(has(complaint(start + "--methods ring,"), "unknown method ''"));
  EXPECT_EQ(complaint(start + "--methods ring,zigzag,ring"),
            "weft: error: --methods: 'ring' is named twice; name it once");
  EXPECT_EQ(complaint(start + "--method ring"),
            "weft: error: bench methods: --method does not go with it; name them with --methods");
  EXPECT_TRUE(has(complaint(start + "--seconds 3"), "--repeat"));
  EXPECT_TRUE(has(complaint(start + "--option direction=forward"), "methods have different ones"));
  EXPECT_TRUE(has(complaint(start + "--repeat 0"), "--repeat"));
  EXPECT_TRUE(has(complaint(start + "--layout zig"), "unknown layout 'zig'"));
  EXPECT_TRUE(has(complaint("bench methods --tokens 8 --docs 4,5"), "leave --tokens out"));
  EXPECT_TRUE(has(complaint("bench attention --ranks 2 --tokens 8 --methods ring"), "--method"));
  EXPECT_TRUE(has(complaint("bench attention --ranks 2 --tokens 8 --repeat 3"), "--seconds"));
  EXPECT_TRUE(
      has(complaint(start + "--layer gla"), "--layer does not go with it; time one method with bench attention"));
  EXPECT_TRUE(has(complaint("bench attention --ranks 2 --tokens 8 --key-dim 4"), "give one --head-dim"));
  EXPECT_TRUE(
      has(complaint("bench attention --layer gla --ranks 2 --tokens 8 --final-states"), "documents begin with zero"));
  EXPECT_TRUE(has(complaint("bench methds"), "did you mean 'methods'?"));
  EXPECT_EQ(complaint("bench"), "weft: error: bench: say what to time: attention or methods");
}

}  // namespace
}  // namespace weft::cli
