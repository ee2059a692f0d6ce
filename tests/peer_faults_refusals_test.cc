// Calls that published packages refuse, end with an error from elsewhere, or answer with something else than was asked
// for, repeated with Weft. Versions and circumstances: tests/peer_faults_test.cc, docs/what-we-check.md.
#include "tests/peer_faults.h"
#include "weft/verify/verify.h"

namespace weft::peer_faults {
namespace {

// A small case in fp64, where the bound is 1e-12.
ExecuteCase small_case(std::string method, int ranks, std::vector<int64_t> lengths, std::string layout = "") {
  return {.method = std::move(method),
          .lengths = std::move(lengths),
          .ranks = ranks,
          .heads = 4,
          .kv_heads = 2,
          .dim = 4,
          .dim_v = 4,
          .layout = std::move(layout)};
}

// Work of the busiest rank over the mean, forward and backward.
double imbalance(const Report& report) {
  EXPECT_TRUE(report.ok());
  int64_t most = 0, sum = 0;
  for (const RankReport& rank : report.ranks) {
    most = std::max(most, rank.work + rank.work_backward);
    sum += rank.work + rank.work_backward;
  }
  return static_cast<double>(most) * static_cast<double>(report.ranks.size()) / static_cast<double>(sum);
}

// The text of a refusal: one line, and after the semicolon what to do.
template <typename F>
std::string refusal(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::usage || error.code() == ErrorCode::unsupported) << error.what();
    const std::string text = error.what();
    EXPECT_EQ(text.find('\n'), text.npos) << text;
    return text;
  }
  ADD_FAILURE() << "was not refused";
  return "";
}

// ring-flash-attention 8996282, zigzag_ring_flash_attn_func and stripe_flash_attn_func with causal=False: an assertion.
TEST(PeerRefusals, BalancedRingsTakeAnyMask) {
  for (const char* method : {"zigzag", "striped"}) {
    for (const char* mask : {"full", "causal", "window:9", "causal+window:9"}) {
      for (const int ranks : {2, 4}) {
        ExecuteCase c = small_case(method, ranks, {64});
        c.mask = mask;
        expect_right(c);
      }
    }
  }
}

// The same with tokens that 2 x ranks does not divide: the shards differ in length, and the run ends in an error of Gloo's
// connection. torch 2.13.0 context_parallel takes such tokens by a contiguous layout instead, and does not say so: one
// rank of two then has three quarters of the causal work.
TEST(PeerRefusals, TokensNeedNotDivide) {
  for (const int ranks : {2, 3, 4}) {
    for (int64_t tokens = 1; tokens <= 4 * ranks + 3; ++tokens) {
      for (const char* method : {"ring", "zigzag", "striped", "all-gather", "ulysses", "llama3"}) {
        if (test_level() == 0 && tokens % 4 != 1) continue;
        expect_right(small_case(method, ranks, {tokens}));
      }
    }
  }
}

TEST(PeerRefusals, TheLayoutIsTheOneAskedFor) {
  for (const int ranks : {2, 4}) {
    for (int64_t tokens = 1000; tokens <= 1000 + 2 * ranks; ++tokens) {
      for (const char* method : {"ring", "zigzag", "striped", "all-gather", "usp"}) {
        for (const std::string_view layout : {"contiguous", "zigzag", "striped"}) {
          ExecuteCase c = small_case(method, ranks, {tokens}, std::string(layout));
          const Schedule schedule = c.schedule();
          EXPECT_EQ(schedule.problem().query_layout.name(), layout) << c.describe();
          EXPECT_EQ(schedule.problem().query_layout, make_layout(layout, {tokens}, ranks)) << c.describe();
        }
      }
      const double balanced = imbalance(verify(small_case("zigzag", ranks, {tokens}).schedule()));
      EXPECT_LT(balanced, 1.01) << tokens;
      const double contiguous = imbalance(verify(small_case("zigzag", ranks, {tokens}, "contiguous").schedule()));
      EXPECT_GT(contiguous, 1.49) << "the unbalanced layout is not noticed";
    }
  }
}

// ring-flash-attention 8996282: documents must divide by the ranks (ring_flash_attn_varlen_func) or by twice as many
// (zigzag_ring_flash_attn_varlen_func). torch context_parallel and yunchang ulysses have no documents at all.
TEST(PeerRefusals, DocumentsOfAnyLength) {
  const std::vector<std::vector<int64_t>> batches = {{1, 1, 1}, {5, 3, 2, 7}, {1, 30, 1, 9}, {13, 13, 15}, {41}};
  for (const Method* method : all_methods()) {
    for (const auto& lengths : batches) {
      for (const int ranks : {2, 4}) {
        if (test_level() == 0 && ranks == 4) continue;
        expect_right(small_case(std::string(method->name), ranks, lengths));
      }
    }
  }
}

// ring-flash-attention 8996282, llama3_flash_attn_varlen_func: any documents, if their sum divides by the ranks.
TEST(PeerRefusals, SumsOfDocumentsNeedNotDivide) {
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{3, 4, 6}, {1, 1}, {50, 1}}) {
    for (const int ranks : {2, 4}) expect_right(small_case("llama3", ranks, lengths));
  }
}

// And every rank holds the gathered keys and values of all tokens, however short the documents. Forward.
TEST(PeerRefusals, GatheredKeysAreThoseNeeded) {
  const auto live = [](const char* method, const std::vector<int64_t>& lengths) {
    ExecuteCase c = small_case(method, 32, lengths, "contiguous");
    c.heads = c.kv_heads = 8;
    Problem problem = c.problem();
    problem.backward = false;
    const Report report = verify(make_schedule(method, problem));
    EXPECT_TRUE(report.ok());
    int64_t most = 0;
    for (const RankReport& rank : report.ranks) most = std::max(most, rank.live_bytes);
    return most;
  };
  const int64_t row = 8 * 4 * 8, gathered = 1024 * 2 * row;  // k and v of all tokens, heads and columns in fp64
  EXPECT_GT(live("all-gather", {1024}), gathered);
  EXPECT_LT(live("llama3", {1024}), gathered / 2);
  EXPECT_LT(live("ring", {1024}), gathered / 2);
  for (const char* method : {"all-gather", "llama3", "ring"}) {
    EXPECT_LT(live(method, std::vector<int64_t>(16, 64)), live(method, {1024})) << method;
    EXPECT_LT(live(method, std::vector<int64_t>(16, 64)), gathered) << method;
  }
}

// yunchang 0.6.4, UlyssesAttention with fewer kv heads than ranks, or heads that the ranks do not divide: an error of
// reshape. Documents: none.
TEST(PeerRefusals, HeadExchangeTakesAnyHeads) {
  for (const auto& [heads, kv_heads] :
       std::vector<std::pair<int64_t, int64_t>>{{8, 2}, {6, 1}, {6, 6}, {3, 3}, {2, 1}}) {
    for (const char* method : {"ulysses", "usp"}) {
      for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{31}, {5, 19, 7}}) {
        ExecuteCase c = small_case(method, 4, lengths);
        c.heads = heads, c.kv_heads = kv_heads;
        expect_right(c);
      }
    }
  }
}

// torch 2.13.0 context_parallel refuses the CPU. Here every path that the machine has runs every method.
TEST(PeerRefusals, EveryCpuPathRunsEveryMethod) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    for (const Method* method : all_methods()) {
      ExecuteCase c = small_case(std::string(method->name), 2, {31, 10});
      c.element = c.wire = DType::fp32;
      SCOPED_TRACE(path);
      expect_right(c, {.kernels = &kernels::cpu_kernels(path)});
    }
  }
}

// What is left to refuse here is refused before anything runs, in one line that says what to give instead.
TEST(PeerRefusals, OursAreOneLineWithAWayOut) {
  ExecuteCase c = small_case("zigzag", 4, {64});
  c.heads = 4, c.kv_heads = 3;
  EXPECT_NE(refusal([&] { c.schedule(); }).find("kv"), std::string::npos);
  EXPECT_NE(refusal([] { small_case("zigzg", 2, {8}).schedule(); }).find("did you mean 'zigzag'"), std::string::npos);
  EXPECT_NE(refusal([] { small_case("ring", 2, {8}, "zigg").schedule(); }).find("zigzag"), std::string::npos);
  ExecuteCase degree = small_case("usp", 4, {64});
  degree.options = {{"ulysses", "3"}};
  EXPECT_NE(refusal([&] { degree.schedule(); }).find("; use "), std::string::npos);
  const std::string wire = refusal([] {
    ExecuteCase wide = small_case("ring", 2, {8});
    wide.element = DType::fp16;
    wide.schedule();
  });
  EXPECT_NE(wire.find("fp64"), std::string::npos) << wire;
  EXPECT_NE(refusal([] { kernels::cpu_kernels("cuda"); }).find("portable"), std::string::npos);
}

}  // namespace
}  // namespace weft::peer_faults
