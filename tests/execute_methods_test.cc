// Every method, executed on threads, against dense attention.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/execute_case.h"
#include "weft/base/test_level.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

const std::vector<std::string> kMasks = {"full", "causal", "window:5", "causal+window:7"};
const std::vector<std::vector<int64_t>> kLengths = {{37}, {1, 13, 4, 19}};

// Where a tensor is wrong, by rank and head.
std::string explain(const TensorError& error, int64_t heads) {
  std::string text = error.name + " is off by " + std::to_string(error.max_rel) + " relative:";
  for (size_t i = 0; i < error.by_rank_and_head.size(); ++i) {
    if (error.by_rank_and_head[i] <= error.bound) continue;
    text += " rank " + std::to_string(i / static_cast<size_t>(heads)) + " head " +
            std::to_string(i % static_cast<size_t>(heads)) + ";";
  }
  return text;
}

void expect_right(const ExecuteCase& c, const CheckOptions& options = {}) {
  SCOPED_TRACE(c.describe());
  try {
    const CheckReport report = check_schedule(c.schedule(), options);
    EXPECT_EQ(report.errors.size(), c.return_lse ? 5u : 4u);
    for (const TensorError& error : report.errors) {
      const bool keys = error.name == "dk" || error.name == "dv";
      EXPECT_TRUE(error.ok()) << explain(error, keys ? c.kv_heads : c.heads);
    }
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
}

// Calls f for every method, and says which one failed.
template <typename F>
void for_each_method(F&& f) {
  for (const auto& [method, options] : methods_to_execute()) {
    f(ExecuteCase{.method = method, .options = options});
  }
}

// Whether case n runs: every one in make test-full, else every seventh, every eleventh under sanitizers. The strides divide no
// number of cases of a method, so each method meets other ones.
bool is_sampled(size_t n) { return n % (test_level() == 0 ? 11 : test_level() == 1 ? 7 : 1) == 0; }

TEST(ExecuteMethods, EveryMaskRanksAndHeads) {
  const std::vector<std::pair<int64_t, int64_t>> head_sets = {{8, 8}, {8, 2}, {6, 1}, {5, 5}, {3, 1}};
  size_t n = 0;
  for_each_method([&](ExecuteCase c) {
    for (const std::string& mask : kMasks) {
      for (const auto& lengths : kLengths) {
        for (const int ranks : {1, 2, 3, 4, 5, 8}) {
          for (const auto& [heads, kv_heads] : head_sets) {
            if (!is_sampled(n++)) continue;
            c.mask = mask, c.lengths = lengths, c.ranks = ranks;
            c.heads = heads, c.kv_heads = kv_heads;
            expect_right(c);
          }
        }
      }
    }
  });
}

// Layouts other than the method's own; more ranks than tokens; lengths that divide nothing.
TEST(ExecuteMethods, AnyLayoutAndTokenCount) {
  const std::vector<std::vector<int64_t>> lengths = {{1}, {2}, {7}, {1, 1, 1}, {3, 1, 8}, {41}};
  size_t n = 0;
  for_each_method([&](ExecuteCase c) {
    for (const std::string_view layout : layout_names()) {
      for (const auto& tokens : lengths) {
        for (const std::string mask : {"full", "causal+window:3"}) {
          for (const int ranks : {2, 3, 5}) {
            if (!is_sampled(n++)) continue;
            c.layout = layout, c.lengths = tokens, c.mask = mask, c.ranks = ranks;
            c.heads = 4, c.kv_heads = 2, c.dim = 2, c.dim_v = 5;
            expect_right(c);
          }
        }
      }
    }
  });
}

TEST(ExecuteMethods, LargerCrossProduct) {
  if (test_level() < 2) GTEST_SKIP() << "only in make test-full";
  for_each_method([&](ExecuteCase c) {
    for (const std::string_view layout : layout_names()) {
      for (const std::string& mask : kMasks) {
        for (const auto& tokens : std::vector<std::vector<int64_t>>{{53}, {30, 1, 2, 20}, {9, 44}}) {
          for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8, 12}) {
            for (const auto& [heads, kv_heads] :
                 std::vector<std::pair<int64_t, int64_t>>{{8, 8}, {8, 2}, {6, 1}, {5, 5}, {12, 4}}) {
              c.layout = layout, c.mask = mask, c.lengths = tokens, c.ranks = ranks;
              c.heads = heads, c.kv_heads = kv_heads;
              expect_right(c);
            }
          }
        }
      }
    }
  });
}

TEST(ExecuteMethods, ManyRanks) {
  for_each_method([&](ExecuteCase c) {
    for (const int ranks : test_level() == 0 ? std::vector{16} : std::vector{16, 64}) {
      c.ranks = ranks, c.lengths = {60, 1, 70, 3}, c.heads = 4, c.kv_heads = 2;
      expect_right(c);
    }
  });
}

// Waiting late, waiting at once, memory full of NaN, random pauses: the same bits.
TEST(ExecuteMethods, TimingNeverChangesABit) {
  for_each_method([&](ExecuteCase c) {
    for (const DType element : {DType::fp32, DType::bf16}) {
      for (const DType wire : {DType::fp32, DType::bf16}) {
        c.element = element, c.wire = wire, c.lengths = {1, 40, 60}, c.ranks = 5;
        c.heads = 4, c.kv_heads = 2, c.dim = 8, c.dim_v = 8;
        SCOPED_TRACE(c.describe());
        const Schedule schedule = c.schedule();
        const auto run = [&](const ExecuteOptions& options) {
          return check_schedule(schedule, {.compare = false, .execute = options}).tensors;
        };
        const CheckTensors plain = run({});
        EXPECT_EQ(different(plain, run({.overlap = false})), "");
        EXPECT_EQ(different(plain, run({.poison = true})), "");
        for (const uint64_t seed : {1, 2}) {
          EXPECT_EQ(different(plain, run({.poison = true, .delay_seed = seed})), "");
          EXPECT_EQ(different(plain, run({.overlap = false, .poison = true, .delay_seed = seed})), "");
        }
      }
    }
  });
}

// One token of one document changes; no other document notices.
TEST(ExecuteMethods, DocumentsDoNotLeak) {
  const std::vector<int64_t> lengths = {9, 1, 30, 17};
  const int64_t begin = 10, end = 40, changed = 22;  // the third document, and a token of it
  for_each_method([&](ExecuteCase c) {
    for (const std::string mask : {"full", "causal+window:6"}) {
      c.lengths = lengths, c.mask = mask, c.ranks = 4, c.heads = 4, c.kv_heads = 2;
      c.dim = c.dim_v = 8, c.element = c.wire = DType::fp32;
      SCOPED_TRACE(c.describe());
      const Schedule schedule = c.schedule();
      CheckTensors inputs = random_inputs(schedule.problem(), 3);
      const CheckTensors before = check_schedule(schedule, inputs, {.compare = false}).tensors;
      for (HostTensor* tensor : {&inputs.q, &inputs.k, &inputs.v, &inputs.dout}) {
        const int64_t row = tensor->heads * tensor->columns;
        for (int64_t i = changed * row; i < (changed + 1) * row; ++i) tensor->set(i, 5.5);
      }
      const CheckTensors after = check_schedule(schedule, inputs, {.compare = false}).tensors;
      const auto compare = [&](const char* name, const HostTensor& a, const HostTensor& b) {
        bool inside = false;
        for (int64_t i = 0; i < a.elements(); ++i) {
          const int64_t token = i / (a.heads * a.columns);
          const bool differs = a.at(i) != b.at(i);
          inside |= differs;
          EXPECT_FALSE(differs && (token < begin || token >= end)) << name << " of token " << token;
        }
        EXPECT_TRUE(inside) << name << " does not depend on the inputs";
      };
      compare("out", before.out, after.out);
      compare("lse", before.lse, after.lse);
      compare("dq", before.dq, after.dq);
      compare("dk", before.dk, after.dk);
      compare("dv", before.dv, after.dv);
    }
  });
}

TEST(ExecuteMethods, LowPrecisionStaysWithinItsBounds) {
  for_each_method([&](ExecuteCase c) {
    for (const DType element : {DType::fp32, DType::bf16, DType::fp16}) {
      for (const std::string mask : {"full", "causal"}) {
        for (const int ranks : {1, 4}) {
          if (test_level() == 0 && ranks == 1) continue;
          c.element = element, c.wire = DType::fp32, c.mask = mask, c.ranks = ranks;
          c.lengths = {150, 7, 99}, c.heads = 4, c.kv_heads = 2, c.dim = c.dim_v = 16;
          expect_right(c);
        }
      }
    }
  });
}

TEST(ExecuteMethods, ErrorDoesNotGrowWithTheRanks) {
  for_each_method([&](ExecuteCase c) {
    for (const DType element : {DType::fp32, DType::bf16}) {
      c.element = element, c.wire = DType::fp32, c.lengths = {256};
      c.heads = 4, c.kv_heads = 4, c.dim = c.dim_v = 16;
      c.ranks = 1;
      const std::vector<TensorError> one = check_schedule(c.schedule()).errors;
      c.ranks = 16;
      SCOPED_TRACE(c.describe());
      const std::vector<TensorError> many = check_schedule(c.schedule()).errors;
      for (size_t i = 0; i < one.size(); ++i) {
        // Merging rounds lse once per block, by half a unit of its last place; adding does that to sums. Blocks in 15
        // pieces, as tasp has them with 16 ranks, are rounded 15 times as often, which adds up as a random walk does; so do
        // the 6 pieces of a rank's tokens that lie in stripes of 3.
        const double unit = one[i].max_abs / one[i].max_rel * 0x1p-23;
        const double pieces = c.method == "tasp" ? 15 : c.options.count("block") ? 6 : 1;
        EXPECT_LE(many[i].max_abs, 2 * one[i].max_abs + 2 * std::sqrt(pieces) * unit) << one[i].name;
      }
    }
  });
}

// Partial results and gradient sums that travel as bf16: close, and the same with and without overlap.
TEST(ExecuteMethods, NarrowWire) {
  for_each_method([&](ExecuteCase c) {
    c.element = DType::fp32, c.wire = DType::bf16, c.lengths = {100}, c.ranks = 4;
    c.dim = c.dim_v = 8;
    SCOPED_TRACE(c.describe());
    for (const TensorError& error : check_schedule(c.schedule()).errors) {
      EXPECT_LT(error.max_rel, 0.02) << error.name;
    }
  });
}

// The bytes that a run holds are those that the verifier counts.
TEST(ExecuteMethods, LiveBytesAreTheVerifiers) {
  for_each_method([&](ExecuteCase c) {
    for (const std::string& mask : kMasks) {
      for (const int ranks : {1, 2, 5}) {
        c.mask = mask, c.ranks = ranks, c.lengths = {64, 30}, c.heads = 6, c.kv_heads = 3;
        c.element = DType::bf16, c.wire = DType::fp32;
        SCOPED_TRACE(c.describe());
        const Schedule schedule = c.schedule();
        const Report proved = verify(schedule);
        EXPECT_TRUE(proved.ok());
        const CheckReport run = check_schedule(schedule, {.compare = false});
        for (size_t rank = 0; rank < run.peak_bytes.size(); ++rank) {
          EXPECT_EQ(run.peak_bytes[rank], proved.ranks[rank].live_bytes) << "rank " << rank;
        }
      }
    }
  });
}

// The comparison sees what it should: a schedule for another mask is wrong.
TEST(ExecuteMethods, AWrongResultIsSeen) {
  const ExecuteCase causal{.mask = "causal", .ranks = 3}, window{.mask = "causal+window:20", .ranks = 3};
  // The programs of the window, executed as if they were those of the causal mask.
  auto stored = std::make_shared<const StoredSchedule>(window.schedule().store());
  const Schedule wrong("wrong", std::make_shared<const Problem>(causal.problem()), stored);
  const CheckReport report = check_schedule(wrong);
  EXPECT_FALSE(report.ok);
  for (const TensorError& error : report.errors) EXPECT_GT(error.max_rel, 1e-6) << error.name;
}

}  // namespace
}  // namespace weft
