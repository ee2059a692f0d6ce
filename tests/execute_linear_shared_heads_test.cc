// Linear layers with fewer heads of q and k than heads, as they run.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/linear_check.h"
#include "weft/base/test_level.h"
#include "weft/kernels/kernels.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

constexpr std::pair<int64_t, int64_t> kHeads[] = {{4, 2}, {6, 1}, {6, 3}, {5, 5}};

TEST(ExecuteLinearSharedHeads, EveryMethodLayerAndRankCount) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      for (const auto& [heads, key_heads] : kHeads) {
        LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {41}, .heads = heads};
        c.key_heads = key_heads;
        for (const int ranks : {1, 3, 5}) {
          c.ranks = ranks;
          expect_right(c);
        }
        c.lengths = {1, 17, 1, 1, 30, 5}, c.ranks = 3, c.layout = "zigzag", c.initial_states = c.final_states = true;
        expect_right(c);
        c.shards = {40, 0, 15};
        expect_right(c);
      }
    }
  }
}

TEST(ExecuteLinearSharedHeads, HouseholdersAndFullMask) {
  for (const Method* method : linear_methods()) {
    LinearCase c{.method = std::string(method->name), .layer = Layer::gdn, .lengths = {20, 50}, .heads = 6};
    c.key_heads = 2, c.householders = 2, c.ranks = 4;
    expect_right(c);
    if (!method->both_ways) continue;
    c.layer = Layer::linear, c.householders = 1, c.both_ways = true;
    expect_right(c);
  }
}

// Blocks that cut groups of heads that share rows, more and fewer ranks than heads, several chunks.
TEST(ExecuteLinearSharedHeads, LowerPrecisions) {
  for (const DType element : {DType::fp32, DType::bf16, DType::fp16}) {
    for (const Layer layer : {Layer::mamba2, Layer::gdn, Layer::kda, Layer::rwkv7}) {
      for (const char* method : {"all-scan", "log-step", "head-exchange", "two-dimensional"}) {
        LinearCase c{.method = method, .layer = layer, .lengths = {100, 156}, .heads = 6, .dim = 16};
        c.dim_v = 8, c.element = element, c.key_heads = 2;
        expect_right(c);
      }
    }
  }
}

// The tensor with each head's row for as many heads as share it.
HostTensor repeated(const HostTensor& tensor, int64_t times) {
  HostTensor all(tensor.type, tensor.rows, tensor.heads * times, tensor.columns);
  for (int64_t row = 0; row < tensor.rows; ++row) {
    for (int64_t head = 0; head < all.heads; ++head) {
      for (int64_t c = 0; c < tensor.columns; ++c)
        all.set((row * all.heads + head) * tensor.columns + c,
                tensor.at((row * tensor.heads + head / times) * tensor.columns + c));
    }
  }
  return all;
}

double largest_difference_from_sums(const HostTensor& sums, const HostTensor& apart, int64_t times) {
  double largest = 0;
  for (int64_t row = 0; row < sums.rows; ++row) {
    for (int64_t head = 0; head < sums.heads; ++head) {
      for (int64_t c = 0; c < sums.columns; ++c) {
        double sum = 0;
        for (int64_t n = 0; n < times; ++n) sum += apart.at((row * apart.heads + head * times + n) * sums.columns + c);
        largest = std::max(largest, std::abs(sum - sums.at((row * sums.heads + head) * sums.columns + c)));
      }
    }
  }
  return largest;
}

// What each head computes has the bits of q and k repeated; dq and dk are the sums.
TEST(ExecuteLinearSharedHeads, AreRepeatedHeads) {
  const CheckOptions options{.compare = false};
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      LinearCase shared{.method = std::string(method->name), .layer = layer, .lengths = {90, 61}, .heads = 6};
      shared.ranks = 4, shared.key_heads = 2, shared.final_states = true;
      LinearCase apart = shared;
      apart.key_heads = 0;
      CheckTensors few = random_inputs(shared.problem(), 5), many = few;
      many.q = repeated(few.q, 3), many.k = repeated(few.k, 3);
      const CheckTensors got = check_schedule(shared.schedule(), few, options).tensors,
                         want = check_schedule(apart.schedule(), many, options).tensors;
      const Fields alone = (shared.problem().results_of(false) | shared.problem().key_gradients()).without(Field::dk);
      alone.for_each([&](Field field) {
        EXPECT_TRUE(got.of(field).bytes == want.of(field).bytes) << shared.describe() << " " << name_of(field);
      });
      EXPECT_LE(largest_difference_from_sums(got.dq, want.dq, 3), 1e-12) << shared.describe();
      EXPECT_LE(largest_difference_from_sums(got.dk, want.dk, 3), 1e-12) << shared.describe();
    }
  }
}

// The numbers of memory that are proved are those of a run, and messages on their way change no bit.
TEST(ExecuteLinearSharedHeads, MemoryAndBits) {
  for (const Method* method : linear_methods()) {
    for (const auto& [heads, key_heads] : kHeads) {
      LinearCase c{.method = std::string(method->name), .layer = Layer::gdn, .lengths = {30, 9, 22}, .heads = heads};
      c.key_heads = key_heads, c.ranks = 5, c.element = DType::bf16;
      const Schedule schedule = c.schedule();
      const Report proof = verify(schedule);
      ASSERT_TRUE(proof.ok()) << c.describe();
      CheckOptions options{.compare = false};
      const CheckReport one = check_schedule(schedule, options);
      for (size_t rank = 0; rank < proof.ranks.size(); ++rank)
        EXPECT_EQ(one.peak_bytes[rank], proof.ranks[rank].live_bytes) << c.describe() << " rank " << rank;
      options.execute.overlap = false, options.execute.poison = true;
      const CheckReport other = check_schedule(schedule, options);
      schedule.problem().results_of(true).for_each([&](Field field) {
        EXPECT_TRUE(one.tensors.of(field).bytes == other.tensors.of(field).bytes) << c.describe() << name_of(field);
      });
    }
  }
}

}  // namespace
}  // namespace weft
