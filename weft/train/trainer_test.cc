#include "weft/train/trainer.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <torch/csrc/autograd/custom_function.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/data/packing.h"
#include "weft/files/atomic_file.h"
#include "weft/files/safetensors.h"
#include "weft/train/checkpoint.h"
#include "weft/train/collectives.h"
#include "weft/train/evaluate.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Failure {
  int rank = -1;
  bool backward = false;
};

// Sequence-parallel attention in its plainest form, so that the trainer can be tested on several
// ranks without a method: everybody gathers all keys and values, and all gradients of them.
class GatherPlan : public SequencePlan {
 public:
  explicit GatherPlan(const SequenceShape& shape, Failure failure = {})
      : shape_(shape), failure_(failure), group_(shape.ranks), slots_(group_size()) {
    for (const int64_t length : shape.document_lengths) {
      for (int64_t i = 0; i < length; ++i) starts_.push_back(tokens_);
      tokens_ += length;
    }
  }

  // Irregular on purpose; with three ranks or more the last has nothing.
  std::vector<int64_t> token_indices(int rank) const override {
    const int64_t sharing = shape_.ranks >= 3 ? shape_.ranks - 1 : shape_.ranks;
    std::vector<int64_t> out;
    for (int64_t i = 0; i < tokens_; ++i) {
      if ((i / 7) % sharing == rank) out.push_back(i);
    }
    return out;
  }
  AttentionFunction attention(int rank) override {
    return [this, rank](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return Gather::apply(q, k, v, reinterpret_cast<int64_t>(this), rank);
    };
  }
  void abort() override { group_.abort(nullptr); }
  double waiting_seconds(int rank) const override { return group_.waiting_seconds(rank); }

 private:
  struct Slot {
    at::Tensor k, v;
  };
  size_t group_size() const { return static_cast<size_t>(shape_.ranks); }

  // [heads, tokens, dim] of the whole sequence from everybody's rows.
  at::Tensor gathered(at::Tensor Slot::*field, int64_t repeat) const {
    at::Tensor out = at::zeros({tokens_, shape_.kv_heads, shape_.head_dim});
    for (int rank = 0; rank < shape_.ranks; ++rank) {
      out.index_copy_(0, at::tensor(token_indices(rank), at::kLong), slots_[static_cast<size_t>(rank)].*field);
    }
    return out.transpose(0, 1).repeat_interleave(repeat, 0);
  }
  at::Tensor hidden_keys(int rank) const {
    const std::vector<int64_t> rows = token_indices(rank);
    at::Tensor out = at::zeros({static_cast<int64_t>(rows.size()), tokens_}, at::kBool);
    bool* cell = out.mutable_data_ptr<bool>();
    for (const int64_t q : rows) {
      for (int64_t k = 0; k < tokens_; ++k) *cell++ = k > q || k < starts_[static_cast<size_t>(q)];
    }
    return out;
  }

  struct Gather : torch::autograd::Function<Gather> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              int64_t plan_address, int64_t rank) {
      auto& plan = *reinterpret_cast<GatherPlan*>(plan_address);
      plan.fail_if(static_cast<int>(rank), false);
      plan.slots_[static_cast<size_t>(rank)] = {k, v};
      plan.group_.barrier(static_cast<int>(rank));
      const int64_t repeat = q.size(1) / k.size(1);
      const at::Tensor keys = plan.gathered(&Slot::k, repeat);
      const at::Tensor values = plan.gathered(&Slot::v, repeat);
      plan.group_.barrier(static_cast<int>(rank));
      const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
      const at::Tensor queries = q.transpose(0, 1);  // [heads, rows, dim]
      const at::Tensor p = at::softmax(
          at::matmul(queries, keys.transpose(1, 2))
              .mul(scale)
              .masked_fill(plan.hidden_keys(static_cast<int>(rank)), -std::numeric_limits<double>::infinity()),
          -1);
      ctx->save_for_backward({queries, keys, values, p});
      ctx->saved_data["plan"] = plan_address;
      ctx->saved_data["rank"] = rank;
      ctx->saved_data["scale"] = scale;
      return at::matmul(p, values).transpose(0, 1).contiguous();
    }

    static variable_list backward(AutogradContext* ctx, variable_list grads) {
      auto& plan = *reinterpret_cast<GatherPlan*>(ctx->saved_data["plan"].toInt());
      const int rank = static_cast<int>(ctx->saved_data["rank"].toInt());
      plan.fail_if(rank, true);
      const auto saved = ctx->get_saved_variables();
      const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &p = saved[3];
      const double scale = ctx->saved_data["scale"].toDouble();
      const at::Tensor d = grads[0].transpose(0, 1);
      const at::Tensor dp = at::matmul(d, v.transpose(1, 2));
      const at::Tensor ds = p.mul(dp.sub(dp.mul(p).sum(-1, true))).mul(scale);
      // [heads, tokens, dim] -> [tokens, kv_heads, dim]
      const auto shared = [&](const at::Tensor& t) {
        return t.view({plan.shape_.kv_heads, -1, t.size(1), t.size(2)}).sum(1).transpose(0, 1);
      };
      plan.slots_[static_cast<size_t>(rank)] = {shared(at::matmul(ds.transpose(1, 2), q)),
                                                shared(at::matmul(p.transpose(1, 2), d))};
      plan.group_.barrier(rank);
      const at::Tensor rows = at::tensor(plan.token_indices(rank), at::kLong);
      at::Tensor dk = plan.slots_[0].k.index_select(0, rows);
      at::Tensor dv = plan.slots_[0].v.index_select(0, rows);
      for (size_t other = 1; other < plan.slots_.size(); ++other) {
        dk = dk.add(plan.slots_[other].k.index_select(0, rows));
        dv = dv.add(plan.slots_[other].v.index_select(0, rows));
      }
      plan.group_.barrier(rank);
      return {at::matmul(ds, k).transpose(0, 1), dk, dv, at::Tensor(), at::Tensor()};
    }
  };

  void fail_if(int rank, bool backward) const {
    if (rank == failure_.rank && backward == failure_.backward) {
      throw Error(ErrorCode::wrong, "rank " + std::to_string(rank) + " fails on purpose");
    }
  }

  SequenceShape shape_;
  Failure failure_;
  RankGroup group_;
  std::vector<Slot> slots_;
  std::vector<int64_t> starts_;  // of each token's document
  int64_t tokens_ = 0;
};

PlanFactory gather_plan() {
  return [](const SequenceShape& shape) { return std::make_shared<GatherPlan>(shape); };
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    folder_ = ::testing::TempDir() + "trainer_test_" + std::to_string(::getpid());
    fs::remove_all(folder_);
    make_folder(folder_ + "/text");
    Random random(1);
    const std::vector<std::string> words = {"weft ", "warp ", "thread ", "loom ", "cloth\n"};
    for (int i = 0; i < 30; ++i) {
      std::string text;
      for (int64_t n = random.uniform(1, 40); n > 0; --n) {
        text += words[static_cast<size_t>(random.uniform(5))];
      }
      write_file(folder_ + "/text/" + std::to_string(i), text);
    }
    options_.text = folder_ + "/text";
    options_.model = model_preset("tiny");
    options_.tokens = 200;
    options_.steps = 12;
    options_.warmup_steps = 2;
    options_.seed = 3;
    options_.checkpoint_every = 4;
  }
  ~TrainerTest() override { fs::remove_all(folder_); }

  std::vector<double> losses(const TrainOptions& options, const PlanFactory& factory) {
    std::vector<double> out;
    const auto on_step = [&](const StepReport& report) { out.push_back(report.loss); };
    last_ = train(options, factory, on_step, never_);
    return out;
  }
  std::string error_of(const TrainOptions& options, ErrorCode code, const PlanFactory& factory) {
    try {
      losses(options, factory);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }
  static void expect_close(const std::vector<double>& a, const std::vector<double>& b, double bound) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i] / b[i], 1, bound) << "step " << i + 1;
  }

  std::string folder_;
  TrainOptions options_;
  TrainSummary last_;
  StopFlag never_;
};

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

TEST_F(TrainerTest, ResumesAtAnyNumberOfRanks) {
  options_.out = folder_ + "/whole";
  const std::vector<double> whole = losses(options_, dense_plan());
  // The learning rate depends on the planned steps, so the first half is a run that is cut short.
  options_.out = folder_ + "/half";
  StopFlag stop;
  EXPECT_THROW(train(
                   options_, dense_plan(),
                   [&](const StepReport& r) {
                     if (r.step == 6) {
                       stop.raise();
                       std::this_thread::sleep_for(std::chrono::milliseconds(200));
                     }
                   },
                   stop),
               Error);
  for (const int ranks : {1, 2, 4}) {
    TrainOptions resumed = options_of_checkpoint(folder_ + "/half/checkpoints/step-4");
    EXPECT_EQ(resumed.model, options_of_checkpoint(folder_ + "/whole").model);
    resumed.ranks = ranks;
    resumed.out = folder_ + "/resumed-" + std::to_string(ranks);
    std::vector<double> rest = losses(resumed, gather_plan());
    EXPECT_EQ(last_.first_step, 5);
    std::vector<double> all(whole.begin(), whole.begin() + 4);
    all.insert(all.end(), rest.begin(), rest.end());
    expect_close(all, whole, 1e-5);
  }
  TrainOptions same = options_of_checkpoint(folder_ + "/half");
  const std::vector<double> rest = losses(same, dense_plan());
  EXPECT_EQ(rest, std::vector<double>(whole.begin() + 4, whole.end()));  // bit by bit
  EXPECT_EQ(read_file(folder_ + "/half/model/model.safetensors"),
            read_file(folder_ + "/whole/model/model.safetensors"));
}

TEST_F(TrainerTest, RefusesToResumeWhatDoesNotFit) {
  options_.out = folder_ + "/out";
  losses(options_, dense_plan());
  TrainOptions resumed = options_of_checkpoint(options_.out);
  error_of(resumed, ErrorCode::usage, dense_plan());  // all steps done
  resumed.steps = 20;
  write_file(options_.text + "/new", "more text");
  EXPECT_NE(error_of(resumed, ErrorCode::usage, dense_plan()).find("--init"), std::string::npos);
  fs::remove(options_.text + "/new");
  const std::string state = options_.out + "/checkpoints/step-12/state.json";
  const std::string good = read_file(state);
  for (const std::string& bad :
       {std::string("{"), std::string("{}"), std::string("[]"), good.substr(0, good.size() / 2)}) {
    write_file(state, bad);
    EXPECT_THROW(options_of_checkpoint(options_.out), Error);
  }
  write_file(state, good);
  write_file(options_.out + "/checkpoints/step-12/optimizer.safetensors", "x");
  error_of(resumed, ErrorCode::format, dense_plan());
  EXPECT_THROW(options_of_checkpoint(folder_ + "/text"), Error);
  EXPECT_THROW(options_of_checkpoint(folder_ + "/none"), Error);
}

TEST_F(TrainerTest, AnInterruptKeepsTheLastCheckpoint) {
  options_.out = folder_ + "/out";
  options_.ranks = 2;
  StopFlag stop;
  const auto on_step = [&](const StepReport& r) {
    if (r.step == 6) stop.raise();
    if (r.step >= 6) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  };
  try {
    train(options_, gather_plan(), on_step, stop);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stopped);
    EXPECT_NE(std::string(error.what()).find("checkpoints/step-4"), std::string::npos);
  }
  EXPECT_EQ(find_checkpoint(options_.out), options_.out + "/checkpoints/step-4");
  EXPECT_FALSE(fs::exists(options_.out + "/model"));
}

TEST_F(TrainerTest, AFullDiskKeepsTheLastCheckpoint) {
  options_.out = folder_ + "/out";
  rlimit old;
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  const auto on_step = [&](const StepReport& r) {
    if (r.step != 6) return;
    rlimit small = old;
    small.rlim_cur = 4096;
    ::setrlimit(RLIMIT_FSIZE, &small);
  };
  try {
    train(options_, dense_plan(), on_step, never_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io) << error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, old_handler);
  const fs::path checkpoints = options_.out + "/checkpoints";
  EXPECT_EQ(std::distance(fs::directory_iterator(checkpoints), fs::directory_iterator()), 1);
  TrainOptions resumed = options_of_checkpoint(options_.out);
  losses(resumed, dense_plan());
  EXPECT_EQ(last_.first_step, 5);
}

TEST_F(TrainerTest, AFailingRankStopsAllAndIsReported) {
  options_.ranks = 3;
  for (const bool backward : {false, true}) {
    const PlanFactory factory = [&](const SequenceShape& shape) {
      return std::make_shared<GatherPlan>(shape, Failure{1, backward});
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

TEST_F(TrainerTest, DoesNotOverwriteAnotherRun) {
  options_.out = folder_ + "/out";
  losses(options_, dense_plan());
  EXPECT_NE(error_of(options_, ErrorCode::usage, dense_plan()).find("--resume"), std::string::npos);
  options_.overwrite = true;
  options_.steps = 5;
  losses(options_, dense_plan());
  EXPECT_EQ(find_checkpoint(options_.out), options_.out + "/checkpoints/step-5");
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
