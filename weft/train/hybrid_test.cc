// Hybrid models in training: the loss is that of one rank that goes through linear layers token by token, whatever the ranks and
// the methods; packed documents stay apart, bit by bit.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string_view>

#include "weft/base/random.h"
#include "weft/base/test_level.h"
#include "weft/methods/registry.h"
#include "weft/model/llama.h"
#include "weft/torch/testing.h"
#include "weft/train/evaluate.h"
#include "weft/train/local_rows.h"
#include "weft/train/method_plan.h"
#include "weft/train/ranks.h"
#include "weft/train/testing.h"
#include "weft/train/trainer.h"

namespace weft {
namespace {

// Everything on one rank, plainly.
class LoopPlan : public SequencePlan {
 public:
  explicit LoopPlan(const SequenceShape& shape) : shape_(shape) {}
  std::vector<int64_t> token_indices(int) const override {
    const std::vector<int64_t>& lengths = shape_.document_lengths;
    std::vector<int64_t> all(static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  AttentionFunction attention(int) override { return dense_attention(shape_.document_lengths); }
  LinearFunction linear_attention(int) override {
    return [shape = shape_](const LinearInputs& inputs) {
      AttentionShape layer;
      layer.layer = shape.linear->layer, layer.heads = shape.linear->num_heads;
      layer.dim = shape.linear->key_head_dim, layer.dim_v = shape.linear->value_head_dim;
      const double scale = traits_of(layer.layer).unit_scale ? 1 : 1 / std::sqrt(static_cast<double>(layer.dim));
      return linear_token_loop(layer, scale, shape.document_lengths, inputs).out;
    };
  }
  ConvolutionFunction convolution(int) override {
    return [lengths = shape_.document_lengths](const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
      return convolution_by_document(x, weight, bias, lengths);
    };
  }

 private:
  SequenceShape shape_;
};

ModelConfig hybrid_model(Layer layer) {
  ModelConfig config = model_preset("tiny");
  config.num_hidden_layers = 4;
  config.linear = {.layer = layer, .num_heads = 2, .num_key_heads = 2, .key_head_dim = 8, .value_head_dim = 12};
  config.linear_layers = {true, true, false, true};
  return config;
}

ModelConfig qwen_model() {
  ModelConfig config = hybrid_model(Layer::gdn);
  config.architecture = Architecture::qwen3_5;
  config.linear->num_key_heads = 1, config.linear->conv_width = 4;
  config.head_dim = 16, config.partial_rotary_factor = 0.25;
  return config;
}

ModelConfig bamba_model() {
  ModelConfig config = hybrid_model(Layer::mamba2);
  config.architecture = Architecture::bamba;
  config.linear->num_key_heads = 1, config.linear->conv_width = 4, config.linear->conv_bias = true;
  config.linear->value_head_dim = config.hidden_size;  // of two heads: twice as many columns
  config.partial_rotary_factor = 0.5;
  return config;
}

std::vector<ModelConfig> hybrid_models() {
  return {hybrid_model(Layer::gdn), hybrid_model(Layer::gla), qwen_model(), bamba_model()};
}

// Of a quick run: fewer ranks, and for architectures of others, whose scans are the same, fewer methods.
bool left_out(const ModelConfig& model, std::string_view method, int ranks) {
  if (test_level() > 1 || method == "all-scan") return false;
  return ranks < 3 || (model.has_attention_block() && method != "log-step");
}

std::string word_for(const ModelConfig& model) {
  return model.architecture == Architecture::qwen3_5 ? "qwen3_5" : name_of(model.linear->layer);
}

class Hybrids : public LetterFolder {
 protected:
  Hybrids() : LetterFolder("hybrid_test", 60) {}

  TrainOptions options(const ModelConfig& model, int ranks, int64_t steps) const {
    TrainOptions options;
    options.text = folder_ + "/text";
    options.model = model;
    options.ranks = ranks;
    options.tokens = 103;  // a prime number of tokens: no rank count divides it
    options.steps = steps;
    options.warmup_steps = 0;
    options.lr = 0.003;
    options.seed = 1;
    return options;
  }

  std::vector<double> losses(const PlanFactory& factory, const TrainOptions& options) const {
    std::vector<double> result;
    StopFlag stop;
    train(
        options, factory, [&](const StepReport& r) { result.push_back(r.loss); }, stop);
    return result;
  }
};

TEST_F(Hybrids, LossesAreThoseOfOneRankTokenByToken) {
  const int64_t steps = 4;
  for (const ModelConfig& model : hybrid_models()) {
    const std::vector<double> want =
        losses([](const SequenceShape& shape) { return std::make_shared<LoopPlan>(shape); }, options(model, 1, steps));
    ASSERT_LT(want.back(), want.front());
    for (const Method* method : linear_methods()) {
      for (const int ranks : {1, 2, 3}) {
        if (left_out(model, method->name, ranks)) continue;
        const std::vector<double> found =
            losses(method_plans({.linear_method = std::string(method->name)}), options(model, ranks, steps));
        ASSERT_EQ(found.size(), want.size());
        for (size_t step = 0; step < want.size(); ++step) {
          EXPECT_NEAR(found[step], want[step], 1e-5 * want[step])
              << word_for(model) << ", " << method->name << ", " << ranks << " ranks, step " << step + 1;
        }
      }
    }
  }
}

// Written, evaluated and gone on with.
TEST_F(Hybrids, CheckpointsGoOnAndEvaluationAgrees) {
  TrainOptions run = options(qwen_model(), 2, 4);
  run.out = folder_ + "/out";
  run.checkpoint_every = 2;
  const std::vector<double> all = losses(method_plans({}), run);
  EXPECT_EQ(read_config(run.out + "/model/config.json").linear, run.model.linear);
  TrainOptions rest = options_of_checkpoint(run.out + "/checkpoints/step-2");
  rest.out = folder_ + "/rest";
  EXPECT_EQ(losses(method_plans({}), rest), (std::vector<double>{all[2], all[3]}));
  StopFlag stop;
  EvalOptions eval;
  eval.model = run.out + "/model", eval.text = run.text, eval.tokens = 103;
  const double one = evaluate(eval, method_plans({}), stop).loss;
  eval.ranks = 3;
  EXPECT_NEAR(evaluate(eval, method_plans({.linear_method = "log-step"}), stop).loss, one, 1e-5 * one);
  EXPECT_LT(losses(method_plans({}),
                   [&] {
                     TrainOptions narrow = options(hybrid_model(Layer::gla), 2, 3);
                     narrow.dtype = DType::bf16;
                     return narrow;
                   }())[2],
            6);
}

struct Probe {
  std::vector<at::Tensor> hidden;     // by rank
  std::vector<at::Tensor> gradients;  // of a loss over the second document alone, by rank
};

// Three documents, of which the second has the loss; `seed` makes the tokens of the others. `apart`: the plan knows of them.
Probe probe(const ModelConfig& config, int ranks, const std::string& method, uint64_t seed, bool apart = true) {
  const ParameterMap map(config);
  const at::Tensor weights = at::zeros({map.size()}, at::kFloat);
  map.initialise({weights.mutable_data_ptr<float>(), static_cast<size_t>(map.size())}, 1);
  PackedSequence sequence;
  sequence.document_lengths = {17, 30, 12};
  Random random(seed);
  int64_t label_count = 0;
  for (size_t n = 0; n < 3; ++n) {
    for (int64_t i = 0; i < sequence.document_lengths[n]; ++i) {
      sequence.ids.push_back(n == 1 ? 40 + i : 100 + random.uniform(100));
      sequence.positions.push_back(i);
      sequence.labels.push_back(n == 1 && i < 29 ? 41 + i : kNoLabel);
      label_count += n == 1 && i < 29;
    }
  }
  sequence.label_count = label_count;
  if (!apart) sequence.document_lengths = {59};
  const auto plan = method_plans({.linear_method = method})(
      sequence_shape(config, sequence.document_lengths, ranks, DType::fp32, true));
  Probe found;
  found.hidden.resize(static_cast<size_t>(ranks)), found.gradients.resize(static_cast<size_t>(ranks));
  ThreadGroup group(ranks);
  StopFlag stop;
  run_ranks(
      group, stop, [&] { plan->abort(); },
      [&](int rank) {
        at::Tensor gradients = at::zeros({map.size()}, at::kFloat);
        const Llama model(config, weights, gradients, at::kFloat);
        const LocalRows rows(sequence, plan->token_indices(rank));
        const at::Tensor hidden = hidden_by_plan(model, rows, *plan, rank);
        model.loss(hidden, rows.labels, 1.0 / 29).backward();
        std::vector<int64_t> of_second;
        for (int64_t i = 0; i < rows.ids.size(0); ++i) {
          const int64_t id = rows.ids[i].item<int64_t>();
          if (id >= 40 && id < 70) of_second.push_back(i);
        }
        found.hidden[static_cast<size_t>(rank)] = hidden.detach().index_select(0, at::tensor(of_second, at::kLong));
        found.gradients[static_cast<size_t>(rank)] = gradients;
      });
  return found;
}

TEST_F(Hybrids, DocumentsStayApartBitByBit) {
  for (const ModelConfig& model : hybrid_models()) {
    EXPECT_FALSE(at::equal(probe(model, 1, "chain", 1, false).hidden[0], probe(model, 1, "chain", 2, false).hidden[0]));
    for (const char* method :
         {"all-scan", "chain", "log-step", "all-gather-state", "hierarchical", "head-exchange", "two-dimensional"}) {
      for (const int ranks : {1, 2, 3}) {
        if (left_out(model, method, ranks)) continue;
        const Probe one = probe(model, ranks, method, 1), other = probe(model, ranks, method, 2);
        for (size_t rank = 0; rank < one.hidden.size(); ++rank) {
          EXPECT_TRUE(at::equal(one.hidden[rank], other.hidden[rank]))
              << method << ", " << ranks << " ranks, rank " << rank;
          EXPECT_TRUE(at::equal(one.gradients[rank], other.gradients[rank]))
              << method << ", " << ranks << " ranks, rank " << rank;
          EXPECT_GT(one.gradients[rank].abs().max().item<float>(), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft
