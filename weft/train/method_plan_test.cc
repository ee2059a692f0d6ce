// Training with real schedules: every method and rank count against dense attention on one rank.
#include "weft/train/method_plan.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <thread>

#include "weft/base/error.h"
#include "weft/base/test_level.h"
#include "weft/methods/registry.h"
#include "weft/train/evaluate.h"
#include "weft/train/ranks.h"
#include "weft/train/testing.h"
#include "weft/train/trainer.h"

namespace weft {
namespace {

class MethodPlans : public LetterFolder {
 protected:
  MethodPlans() : LetterFolder("method_plan_test", 120) {}

  std::vector<double> losses(const PlanFactory& factory, int ranks, int64_t steps) {
    TrainOptions options;
    options.text = folder_ + "/text";
    options.model = model_preset("tiny");
    options.ranks = ranks;
    options.tokens = 203;  // a prime number of tokens: no rank count divides it
    options.steps = steps;
    options.seed = 1;
    std::vector<double> result;
    StopFlag stop;
    train(
        options, factory, [&](const StepReport& r) { result.push_back(r.loss); }, stop);
    return result;
  }
};

TEST_F(MethodPlans, LossesAreThoseOfOneDenseRank) {
  const int64_t steps = 20;
  const std::vector<double> dense = losses(dense_plan(), 1, steps);
  for (const Method* method : all_methods()) {
    for (int ranks : {1, 2, 3, 4}) {
      const std::vector<double> found = losses(method_plans({.method = std::string(method->name)}), ranks, steps);
      ASSERT_EQ(found.size(), dense.size());
      for (size_t step = 0; step < dense.size(); ++step) {
        EXPECT_NEAR(found[step], dense[step], 1e-5 * dense[step])
            << method->name << ", " << ranks << " ranks, step " << step + 1;
      }
    }
  }
}

TEST_F(MethodPlans, SameRunSameBits) {
  const PlanFactory factory = method_plans({.method = "zigzag"});
  EXPECT_EQ(losses(factory, 3, 5), losses(factory, 3, 5));
}

TEST_F(MethodPlans, UnknownNamesAreRefusedAtOnce) {
  EXPECT_THROW(method_plans({.method = "zigzg"}), Error);
  EXPECT_THROW(losses(method_plans({.method = "ring", .layout = "spiral"}), 2, 1), Error);
  EXPECT_THROW(losses(method_plans({.method = "usp", .method_options = {{"ulysses", "3"}}}), 4, 1), Error);
}

// Rows given in another shape than the plan's are refused, on the rank that gives them, and nobody hangs.
TEST_F(MethodPlans, AWrongShapeStopsAllRanks) {
  const SequenceShape shape{
      .document_lengths = {10, 20}, .ranks = 2, .heads = 2, .kv_heads = 1, .head_dim = 8, .dtype = DType::fp32};
  const auto plan = method_plans({.method = "zigzag"})(shape);
  ThreadGroup group(2);
  StopFlag stop;
  try {
    run_ranks(
        group, stop, [&] { plan->abort(); },
        [&](int rank) {
          const int64_t rows =
              static_cast<int64_t>(plan->token_indices(rank).size()) + rank;  // rank 1 gives one row too many
          plan->attention(rank)(at::randn({rows, 2, 8}), at::randn({rows, 1, 8}), at::randn({rows, 1, 8}));
        });
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage) << error.what();
    EXPECT_NE(std::string(error.what()).find("attention: q is [16, 2, 8]"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft
