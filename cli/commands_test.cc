// What each command prints and refuses.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/testing.h"
#include "weft/base/test_level.h"
#include "weft/files/atomic_file.h"

namespace weft::cli {
namespace {

TEST(Methods, JsonTypesTheOptions) {
  const Outcome outcome = run_line("methods --json");
  EXPECT_EQ(outcome.code, kExitFine);
  bool found_direction = false, found_degree = false;
  for (const nlohmann::json& method : nlohmann::json::parse(outcome.out)) {
    for (const nlohmann::json& option : method["options"]) {
      if (option["type"] == "choice") {
        const auto& allowed = option["allowed"];
        EXPECT_NE(std::find(allowed.begin(), allowed.end(), option["default"]), allowed.end()) << option;
      }
      if (method["name"] == "zigzag" && option["name"] == "direction") {
        found_direction = true;
        EXPECT_EQ(option["allowed"], (nlohmann::json{"forward", "reverse"}));
        EXPECT_EQ(option["default"], "reverse");
      }
      if (method["name"] == "usp" && option["name"] == "ulysses") {
        found_degree = true;
        EXPECT_EQ(option["type"], "integer");
        EXPECT_EQ(option["allowed"], nlohmann::json{"auto"});
        EXPECT_EQ(option["min"], 1);
        EXPECT_EQ(option["max"], 65536);
      }
    }
  }
  EXPECT_TRUE(found_direction && found_degree) << outcome.out;
}

TEST(Methods, AliasesSayWhatTheyStandFor) {
  int aliases = 0;
  for (const nlohmann::json& method : nlohmann::json::parse(run_line("methods --json").out)) {
    const bool lss = method["name"] == "lss";
    EXPECT_EQ(method["alias_of"], lss ? nlohmann::json("all-gather") : nlohmann::json());
    aliases += lss ? 1 : 0;
  }
  EXPECT_EQ(aliases, 1);
  EXPECT_TRUE(has(run_line("methods").out, "\n  lss: all-gather --option backward=keep, on its own layout\n"));
}

TEST(Methods, BadOptionsAreRefusedWithWhatIsAllowed) {
  const std::string start = "verify usp --ranks 2 --tokens 8 --option ";
  EXPECT_EQ(complaint(start + "direction=forwrad"),
            "weft: error: option direction of method usp is 'forwrad'; did you mean 'forward'? use forward or reverse");
  EXPECT_EQ(complaint(start + "direction=1"),
            "weft: error: option direction of method usp is '1'; use forward or reverse");
  EXPECT_EQ(complaint(start + "ulysses=0"),
            "weft: error: option ulysses of method usp is '0'; use auto, or 1 to 65536");
  EXPECT_TRUE(has(complaint(start + "directon=forward"), "did you mean 'direction'?"));
  // Checked for every method, even where another layout leaves the option without use.
  EXPECT_TRUE(has(complaint(start + "placement=x --layout zigzag"), "use inner or outer"));
}

TEST(Show, VerboseListsEveryInstruction) {
  const Outcome outcome = run_line("show ring --ranks 2 --tokens 8 --verbose");
  EXPECT_EQ(outcome.code, kExitFine);
  EXPECT_EQ(outcome.out.substr(0, outcome.out.find('\n')), "rank 0");
  EXPECT_TRUE(has(outcome.out, "\nrank 1\n  0  input ")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "exchange lane 0: send 1 <- ")) << outcome.out;
  // As many as verify counts: one line each, and one for each rank.
  const Outcome proof = run_line("verify ring --ranks 2 --tokens 8 --json");
  const auto lines = std::count(outcome.out.begin(), outcome.out.end(), '\n') - 2;
  EXPECT_TRUE(has(proof.out, "\"instructions\": " + std::to_string(lines) + ",")) << lines << proof.out;
}

TEST(Show, OneFormAtATime) {
  EXPECT_TRUE(has(complaint("show ring --ranks 2 --tokens 8 --verbose --json"), "choose one"));
  EXPECT_TRUE(has(complaint("show ring --ranks 2 --tokens 8 --verbose --svg x.svg"), "choose one"));
}

TEST(Check, SavesKeysOfAnotherSequence) {
  const std::string folder = ::testing::TempDir() + "cross_" + std::to_string(::getpid());
  const std::string line = " usp --ranks 3 --tokens 20 --kv-tokens 7 --mask full --dtype fp64 --json";
  const Outcome outcome = run_line("check" + line + " --save " + folder);
  EXPECT_EQ(outcome.code, kExitFine) << outcome.out;
  const nlohmann::json mask = nlohmann::json::parse(read_file(folder + "/mask.json"));
  EXPECT_EQ(mask["tokens"], 20);
  EXPECT_EQ(mask["kv_tokens"], 7);
  EXPECT_TRUE(has(read_file(folder + "/inputs.safetensors"), R"("k":{"dtype":"F64","shape":[7,8,64])"));
  std::filesystem::remove_all(folder);
  EXPECT_EQ(nlohmann::json::parse(run_line("verify" + line).out)["kv_tokens"], 7);
  EXPECT_FALSE(has(run_line("verify usp --ranks 3 --tokens 20 --json").out, "kv_tokens"));
}

TEST(Check, WireTypeShowsInTheErrors) {
  const auto error_of_dk = [](const std::string& wire) {
    const Outcome outcome = run_line("check ring --ranks 3 --tokens 90 --heads 2 --head-dim 8 --json" + wire);
    EXPECT_EQ(outcome.code, kExitFine) << outcome.out;
    return nlohmann::json::parse(outcome.out)["errors"]["dk"]["max_abs"].get<double>();
  };
  EXPECT_EQ(error_of_dk(" --wire-dtype fp32"), error_of_dk(""));
  EXPECT_GT(error_of_dk(" --wire-dtype bf16"), 100 * error_of_dk(""));
  EXPECT_EQ(
      complaint("check ring --ranks 2 --tokens 8 --dtype bf16 --wire-dtype fp64"),
      "weft: error: --wire-dtype fp64 is wider than fp32, the accumulator of --dtype bf16; use fp32, bf16 or fp16");
  EXPECT_TRUE(has(complaint("verify ring --ranks 2 --tokens 8 --dtype fp64 --wire-dtype bf16"), "travel as fp64"));
}

TEST(Check, CanonicalResultsHaveOneDigest) {
  const auto digest_of = [](const std::string& line) {
    const Outcome outcome = run_line("check " + line + " --tokens 600 --heads 2 --kv-heads 1 --head-dim 8 --json");
    EXPECT_EQ(outcome.code, kExitFine);
    return nlohmann::json::parse(outcome.out).at("digest").get<std::string>();
  };
  const std::string one = digest_of("ring --ranks 1 --canonical");
  EXPECT_EQ(digest_of("usp --ranks 4 --canonical"), one);
  EXPECT_EQ(digest_of("token-ring --ranks 3 --layout striped --canonical"), one);
  EXPECT_NE(digest_of("usp --ranks 4"), digest_of("ring --ranks 1"));
  EXPECT_NE(digest_of("ring --ranks 1 --canonical --seed 1"), one);
  EXPECT_EQ(complaint("check ring --ranks 2 --tokens 600 --canonical --wire-dtype bf16"),
            "weft: error: --wire-dtype bf16 and --canonical: exact sums travel as they are; leave one of them out");
}

TEST(Verify, ShowsTheClosedFormBesideWhatItCounted) {
  const auto verified = [](const std::string& line) { return nlohmann::json::parse(run_line("verify " + line).out); };
  nlohmann::json proof = verified("zigzag --ranks 3 --tokens 60 --kv-heads 2 --backward --json");
  EXPECT_EQ(proof["formula"]["exact"], true);
  proof["formula"].erase("exact");
  EXPECT_EQ(proof["formula"], proof["counted"]);
  int64_t bytes = 0, backward = 0;
  for (const auto& rank : proof["ranks"]) {
    bytes += rank["bytes_sent"].get<int64_t>(), backward += rank["bytes_backward"].get<int64_t>();
  }
  EXPECT_EQ(proof["counted"]["backward"]["bytes"]["total"], backward);
  EXPECT_EQ(proof["counted"]["forward"]["bytes"]["total"], bytes - backward);
  EXPECT_EQ(proof["counted"]["forward"]["steps"], 3);

  EXPECT_EQ(verified("ring --ranks 3 --tokens 61 --json")["formula"]["exact"], false);
  proof = verified("ring --ranks 3 --docs 40,20 --json");
  EXPECT_TRUE(proof["formula"].is_null());
  EXPECT_TRUE(has(proof["formula_reason"].get<std::string>(), "one document")) << proof;
  const nlohmann::json all = verified("all --ranks 2 --tokens 64 --mask full --json");
  for (const auto& result : all["results"]) {
    EXPECT_TRUE(result.contains("formula")) << result["method"];
  }
  EXPECT_TRUE(has(run_line("verify ring --ranks 3 --tokens 60").out, "  exact\n"));
  EXPECT_TRUE(has(run_line("verify ring --ranks 3 --docs 40,20").out, "\nClosed forms are for one document with"));
}

TEST(Verify, LargeFilesNeedLarge) {
  if (test_level() == 0) GTEST_SKIP() << "seconds, and much more with a sanitizer";
  // Two million drops of what was never made, before a right program.
  const std::string path = ::testing::TempDir() + "large_" + std::to_string(::getpid()) + ".json";
  std::string text = run_line("show ring --ranks 1 --tokens 1 --heads 1 --head-dim 1 --json").out;
  const size_t first = text.find('{', text.find("\"programs\""));
  ASSERT_NE(first, std::string::npos);
  std::string filler;
  for (int i = 0; i < 2'000'001; ++i) filler += R"({"op":"drop","step":0,"value":7},)";
  text.insert(first, filler);
  write_file(path, text);
  const std::string refused = complaint("verify --file " + path);
  EXPECT_TRUE(has(refused, "more than 2000000 instructions")) << refused;
  EXPECT_TRUE(has(refused, "--large")) << refused;
  const Outcome proof = run_line("verify --file " + path + " --large");
  EXPECT_EQ(proof.code, kExitWrong) << (proof.complaints.empty() ? "" : proof.complaints[0]);
  EXPECT_TRUE(has(proof.out, "WRONG")) << proof.out.substr(0, 1000);
  ::unlink(path.c_str());
  EXPECT_TRUE(has(complaint("verify ring --ranks 2 --tokens 8 --large"), "--large goes with --file"));
}

}  // namespace
}  // namespace weft::cli
