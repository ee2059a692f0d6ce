#include "weft/train/trainer.h"

#include <chrono>
#include <cmath>
#include <cstring>

#include "weft/data/packing.h"
#include "weft/files/safetensors.h"
#include "weft/train/evaluate.h"
#include "weft/train/testing.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

TEST_F(TrainerTest, LearnsAndWritesAModel) {
  options_.out = folder_ + "/out";
  options_.steps = 60;
  options_.lr = 1e-2;
  std::vector<StepReport> reports;
  const TrainSummary done = train(
      options_, dense_plan(), [&](const StepReport& r) { reports.push_back(r); }, never_);
  ASSERT_EQ(reports.size(), 60u);
  EXPECT_NEAR(reports[0].loss, std::log(257.0), 0.1);
  EXPECT_LT(reports.back().loss, 3.0);
  EXPECT_EQ(done.last_loss, reports.back().loss);
  for (const StepReport& r : reports) {
    EXPECT_GT(r.grad_norm, 0);
    EXPECT_GT(r.tokens, 150);
    EXPECT_LT(r.tokens, 200);
    EXPECT_GT(r.tokens_per_second, 0);
    EXPECT_EQ(r.waiting_share, 0);
  }
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    EXPECT_TRUE(fs::exists(done.model_folder + "/" + name)) << name;
  }
  EXPECT_EQ(done.last_checkpoint, options_.out + "/checkpoints/step-60");
  EXPECT_TRUE(fs::exists(options_.out + "/checkpoints/step-52"));
  EXPECT_FALSE(fs::exists(options_.out + "/checkpoints/step-48"));  // three are kept
}

TEST_F(TrainerTest, LossesDoNotDependOnTheRanks) {
  options_.steps = 20;
  options_.sequences_per_step = 2;
  const std::vector<double> want = losses(options_, dense_plan());
  for (const int ranks : {1, 2, 3, 4}) {
    options_.ranks = ranks;
    expect_close(losses(options_, gather_plan()), want, 1e-5);
  }
}

TEST_F(TrainerTest, RunsCanBeRepeatedBitByBit) {
  options_.ranks = 3;
  const std::vector<double> first = losses(options_, gather_plan());
  EXPECT_EQ(losses(options_, gather_plan()), first);
  options_.seed = 4;
  EXPECT_NE(losses(options_, gather_plan()), first);
}

TEST_F(TrainerTest, TrainsInBf16) {
  const std::vector<double> want = losses(options_, dense_plan());
  options_.dtype = DType::bf16;
  expect_close(losses(options_, dense_plan()), want, 0.02);
}

TEST_F(TrainerTest, AFailingRankStopsAllAndIsReported) {
  options_.ranks = 3;
  for (const bool backward : {false, true}) {
    const PlanFactory factory = [&](const SequenceShape& shape) {
      return std::make_shared<GatherPlan>(shape, PlannedFailure{1, backward});
    };
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(error_of(options_, ErrorCode::wrong, factory), "rank 1 fails on purpose");
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  }
  const PlanFactory refusing = [](const SequenceShape&) -> std::shared_ptr<SequencePlan> {
    throw Error(ErrorCode::unsupported, "no such method");
  };
  EXPECT_EQ(error_of(options_, ErrorCode::unsupported, refusing), "no such method");
  EXPECT_NE(error_of(options_, ErrorCode::unsupported, dense_plan()).find("3"), std::string::npos);
}

TEST_F(TrainerTest, APlanThatLosesRowsIsFound) {
  struct Losing : SequencePlan {
    std::vector<int64_t> token_indices(int) const override { return {0, 1, 2}; }
    AttentionFunction attention(int) override { return dense_attention({3}); }
  };
  error_of(options_, ErrorCode::internal, [](const SequenceShape&) { return std::make_shared<Losing>(); });
}

TEST_F(TrainerTest, RefusesBadOptionsAndFolders) {
  const auto refused = [&](auto change, ErrorCode code) {
    TrainOptions options = options_;
    change(options);
    return error_of(options, code, dense_plan());
  };
  refused([](TrainOptions& o) { o.text = ""; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.text = "/nonexistent"; }, ErrorCode::io);
  refused([](TrainOptions& o) { o.ranks = 0; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.ranks = 1000000000; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.tokens = 1; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.tokens = int64_t{1} << 60; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.steps = -1; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.lr = NAN; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.dtype = DType::fp64; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.model.vocab_size = 256; }, ErrorCode::usage);
  refused([](TrainOptions& o) { o.out = "/proc/none"; }, ErrorCode::io);
  refused([](TrainOptions& o) { o.init = "/nonexistent"; }, ErrorCode::io);
  refused(
      [](TrainOptions& o) {
        o.lr = 100, o.steps = 1000, o.warmup_steps = 0, o.adam.eps = 1e-30, o.adam.weight_decay = 100;
      },
      ErrorCode::wrong);
}

TEST_F(TrainerTest, EvaluationAgreesWithTrainingAndWritesItsTokens) {
  options_.out = folder_ + "/out";
  const std::vector<double> trained = losses(options_, dense_plan());
  EvalOptions eval;
  eval.model = options_.out + "/model";
  eval.text = options_.text;
  eval.tokens = 333;
  eval.sequences = 2;
  eval.seed = 9;
  eval.dump = folder_ + "/dump.safetensors";
  const EvalResult one = evaluate(eval, dense_plan(), never_);
  EXPECT_LT(one.loss, trained[0]);
  for (const int ranks : {1, 2, 3}) {
    eval.ranks = ranks;
    const EvalResult many = evaluate(eval, gather_plan(), never_);
    EXPECT_NEAR(many.loss / one.loss, 1, 1e-6);
    EXPECT_EQ(many.tokens, one.tokens);
  }
  const SafetensorsFile file(eval.dump);
  EXPECT_EQ(file.find("input_ids")->shape, (std::vector<int64_t>{2, 333}));
  std::vector<int64_t> labels(666);
  std::memcpy(labels.data(), file.data(*file.find("labels")).data(), 666 * 8);
  EXPECT_EQ(666 - std::count(labels.begin(), labels.end(), kNoLabel), one.tokens);

  // The first step's loss is that of the initial weights on the first sequence.
  TrainOptions more = options_;
  more.out = "";
  more.init = eval.model;
  eval.ranks = 1;
  eval.tokens = options_.tokens;
  eval.sequences = 1;
  eval.seed = options_.seed;
  EXPECT_NEAR(evaluate(eval, dense_plan(), never_).loss, losses(more, dense_plan())[0], 1e-6);
}

}  // namespace
}  // namespace weft
