#include "cli/problem_options.h"

#include <gtest/gtest.h>

#include "cli/parse.h"

namespace weft::cli {
namespace {

ProblemOptions read(const std::vector<std::string>& arguments) {
  ProblemOptions options;
  Command command("show", "show");
  add_problem_options(command, options);
  EXPECT_TRUE(parse(command, arguments));
  options.check();
  return options;
}

std::string refusal_of_problem(const std::vector<std::string>& arguments) {
  try {
    read(arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TEST(ProblemOptions, Defaults) {
  const ProblemOptions options = read({"--ranks", "4", "--tokens", "4K"});
  EXPECT_EQ(options.ranks, 4);
  EXPECT_EQ(options.tokens, 4096);
  EXPECT_EQ(options.heads, 8);
  EXPECT_EQ(options.kv_heads, 8);
  EXPECT_EQ(options.head_dim, 64);
  EXPECT_EQ(options.dtype, DType::fp32);
  EXPECT_EQ(options.rule, (MaskRule{.causal = true}));
  EXPECT_EQ(options.scale, 0);
  EXPECT_EQ(options.seed, 0);
  EXPECT_FALSE(options.backward || options.json);
  EXPECT_EQ(options.lengths(), std::vector<int64_t>{4096});
}

TEST(ProblemOptions, EverythingGiven) {
  const ProblemOptions options =
      read({"--ranks", "7",          "--docs",  "4,1,9",      "--mask",   "causal+window:3", "--heads",
            "6",       "--kv-heads", "2",       "--head-dim", "32",       "--dtype",         "bf16",
            "--seed",  "5",          "--scale", "0.5",        "--layout", "striped",         "--option",
            "a=1",     "--option",   "b=x=y",   "--backward", "--json"});
  EXPECT_EQ(options.tokens, 14);
  EXPECT_EQ(options.lengths(), (std::vector<int64_t>{4, 1, 9}));
  EXPECT_EQ(options.mask(), Mask::documents({4, 1, 9}, {.causal = true, .window = 3}));
  EXPECT_EQ(options.kv_heads, 2);
  EXPECT_EQ(options.dtype, DType::bf16);
  EXPECT_EQ(options.scale, 0.5);
  EXPECT_EQ(options.layout, "striped");
  EXPECT_EQ(options.method_options, (std::map<std::string, std::string>{{"a", "1"}, {"b", "x=y"}}));
  EXPECT_TRUE(options.backward && options.json);
}

TEST(ProblemOptions, TokensMayRepeatTheSumOfTheDocuments) {
  EXPECT_EQ(read({"--ranks", "1", "--docs", "4 1 9", "--tokens", "14"}).tokens, 14);
}

TEST(ProblemOptions, KeysOfAnotherSequence) {
  const ProblemOptions one = read({"--ranks", "2", "--tokens", "5", "--kv-tokens", "9", "--mask", "full"});
  EXPECT_TRUE(one.cross());
  EXPECT_EQ(one.mask(), Mask::cross(5, 9));
  const ProblemOptions two = read({"--ranks", "2", "--docs", "5,2", "--kv-docs", "9,1", "--mask", "full"});
  EXPECT_EQ(two.kv_tokens, 10);
  EXPECT_EQ(two.mask(), Mask::cross_documents({5, 2}, {9, 1}));
  EXPECT_EQ(two.kv_lengths(), (std::vector<int64_t>{9, 1}));
  EXPECT_FALSE(read({"--ranks", "2", "--tokens", "5"}).cross());
  EXPECT_EQ(refusal_of_problem({"--ranks", "2", "--tokens", "5", "--kv-tokens", "9"}),
            "--mask causal compares positions of one sequence, and keys of --kv-tokens or --kv-docs are another; give "
            "--mask full");
  EXPECT_EQ(refusal_of_problem({"--ranks", "2", "--docs", "5,2", "--kv-tokens", "9", "--mask", "full"}),
            "--docs and --kv-docs: 2 query and 1 key documents; give as many of both, the first sees the first");
  EXPECT_NE(
      refusal_of_problem({"--ranks", "2", "--tokens", "5", "--kv-docs", "9", "--kv-tokens", "8", "--mask", "full"}),
      "accepted");
  EXPECT_NE(refusal_of_problem(
                {"--ranks", "2", "--tokens", "5", "--kv-tokens", "2000M", "--heads", "65536", "--mask", "full"}),
            "accepted");
}

TEST(ProblemOptions, Refusals) {
  const std::vector<std::vector<std::string>> bad = {
      {"--tokens", "8"},
      {"--ranks", "2"},
      {"--ranks", "0", "--tokens", "8"},
      {"--ranks", "1000000000", "--tokens", "8"},
      {"--ranks", "2", "--tokens", "0"},
      {"--ranks", "2", "--tokens", "-5"},
      {"--ranks", "2", "--tokens", "2048M"},
      {"--ranks", "2", "--tokens", "99999999999999999999"},
      {"--ranks", "2", "--tokens", "8.5"},
      {"--ranks", "2", "--docs", "4,0,9"},
      {"--ranks", "2", "--docs", "4,,9"},
      {"--ranks", "2", "--docs", ""},
      {"--ranks", "2", "--docs", "2047M,2047M"},
      {"--ranks", "2", "--docs", "4,5", "--tokens", "10"},
      {"--ranks", "2", "--tokens", "8", "--heads", "6", "--kv-heads", "4"},
      {"--ranks", "2", "--tokens", "8", "--heads", "2", "--kv-heads", "4"},
      {"--ranks", "2", "--tokens", "8", "--heads", "65537"},
      {"--ranks", "2", "--tokens", "8", "--mask", "diagonal"},
      {"--ranks", "2", "--tokens", "8", "--mask", "window:0"},
      {"--ranks", "2", "--tokens", "8", "--dtype", "fp8"},
      {"--ranks", "2", "--tokens", "8", "--scale", "0"},
      {"--ranks", "2", "--tokens", "8", "--scale", "nan"},
      {"--ranks", "2", "--tokens", "8", "--seed", "-1"},
      {"--ranks", "2", "--tokens", "8", "--option", "key"},
      {"--ranks", "2", "--tokens", "8", "--option", "=1"},
      {"--ranks", "2", "--tokens", "8", "--option", "a=1", "--option", "a=2"},
      {"--ranks", "2", "--tokens", "2000M", "--heads", "65536"},
      {"--ranks", "2", "--tokens", "2000M", "--heads", "8", "--mask", "full", "--head-dim", "1"},
  };
  for (const auto& arguments : bad) EXPECT_NE(refusal_of_problem(arguments), "accepted") << join(arguments, " ");
  EXPECT_EQ(refusal_of_problem({"--ranks", "2", "--tokens", "8", "--heads", "6", "--kv-heads", "4"}),
            "--heads 6 is not a multiple of --kv-heads 4; each key-value head serves the same "
            "number of query heads");
}

}  // namespace
}  // namespace weft::cli
