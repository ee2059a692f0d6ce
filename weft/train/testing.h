// What tests of the trainer share: a plan that needs no method, and a folder with text and small options.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/files/atomic_file.h"
#include "weft/train/trainer.h"
#include "weft/transport/rank_group.h"

namespace weft {

struct PlannedFailure {
  int rank = -1;
  bool backward = false;
};

// Sequence-parallel attention in its plainest form, so that the trainer can be tested on several
// ranks without a method: everybody gathers all keys and values, and all gradients of them.
class GatherPlan : public SequencePlan {
 public:
  explicit GatherPlan(const SequenceShape& shape, PlannedFailure failure = {})
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
    static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, int64_t plan_address, int64_t rank) {
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

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                   torch::autograd::variable_list grads) {
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
  PlannedFailure failure_;
  ThreadGroup group_;
  std::vector<Slot> slots_;
  std::vector<int64_t> starts_;  // of each token's document
  int64_t tokens_ = 0;
};

inline PlanFactory gather_plan() {
  return [](const SequenceShape& shape) { return std::make_shared<GatherPlan>(shape); };
}

// A folder for a test, with text/ in it: documents of random letters. Gone at the end.
class LetterFolder : public ::testing::Test {
 protected:
  // `longest`: letters of a document.
  LetterFolder(const std::string& name, int64_t longest)
      : folder_(::testing::TempDir() + name + "_" + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
    make_folder(folder_ + "/text");
    Random random(3);
    for (int document = 0; document < 40; ++document) {
      std::string text;
      for (int64_t n = 1 + random.uniform(longest); n > 0; --n) text += static_cast<char>('a' + random.uniform(20));
      write_file(folder_ + "/text/" + std::to_string(document), text);
    }
  }
  ~LetterFolder() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    folder_ = ::testing::TempDir() + "trainer_test_" + std::to_string(::getpid());
    std::filesystem::remove_all(folder_);
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
  ~TrainerTest() override { std::filesystem::remove_all(folder_); }

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

}  // namespace weft
