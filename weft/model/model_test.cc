#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/model/llama.h"
#include "weft/model/ops.h"

namespace weft {
namespace {

at::Tensor normal(std::vector<int64_t> shape, uint64_t stream, at::ScalarType type = at::kDouble) {
  at::Tensor out = at::zeros(shape, at::kDouble);
  Random random(7, stream);
  for (int64_t i = 0; i < out.numel(); ++i) out.mutable_data_ptr<double>()[i] = random.normal();
  return out.to(type);
}

at::Tensor whole_numbers(int64_t count, int64_t end, uint64_t stream) {
  at::Tensor out = at::zeros({count}, at::kLong);
  Random random(8, stream);
  for (int64_t i = 0; i < count; ++i) out.mutable_data_ptr<int64_t>()[i] = random.uniform(end);
  return out;
}

at::Tensor positions_of(const std::vector<int64_t>& lengths) {
  std::vector<at::Tensor> parts;
  for (const int64_t n : lengths) parts.push_back(at::arange(n, at::kLong));
  return at::cat(parts);
}

double largest(const at::Tensor& t) { return t.numel() == 0 ? 0 : t.abs().max().item<double>(); }

ModelConfig small_config(bool tied) {
  ModelConfig config = model_preset("tiny");
  config.vocab_size = 11;
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.rope_theta = 100;
  config.tie_word_embeddings = tied;
  return config;
}

TEST(RmsNormTest, AgreesWithTheFormulaAndItsAutograd) {
  const at::Tensor x = normal({5, 6}, 1).requires_grad_(true);
  const at::Tensor w = normal({6}, 2).requires_grad_(true);
  const at::Tensor dy = normal({5, 6}, 3);
  const at::Tensor y = rms_norm(x, w, 1e-3);
  y.backward(dy);
  const at::Tensor dx = x.grad().clone(), dw = w.grad().clone();
  x.mutable_grad().zero_();
  w.mutable_grad().zero_();
  const at::Tensor want = x.mul(x.square().mean(-1, true).add(1e-3).rsqrt()).mul(w);
  want.backward(dy);
  EXPECT_LT(largest(y - want), 1e-14);
  EXPECT_LT(largest(dx - x.grad()), 1e-13);
  EXPECT_LT(largest(dw - w.grad()), 1e-13);
}

TEST(RotaryTest, TablesAreThoseOfTheAngles) {
  ModelConfig config = small_config(true);
  config.head_dim = 6;
  const at::Tensor positions = at::tensor({0, 1, 5, 1000}, at::kLong);
  const auto [cos, sin] = rotary_tables(positions, rotary_frequencies(config), at::kDouble);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(positions[t].item<int64_t>()) *
                           std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / 6);
      // The angle is rounded to fp32, as in transformers.
      EXPECT_NEAR(cos[t][i].item<double>(), std::cos(angle), 1e-6 * (1 + angle));
      EXPECT_NEAR(sin[t][i].item<double>(), std::sin(angle), 1e-6 * (1 + angle));
    }
  }
}

TEST(RotaryTest, ScalingsFollowTheirDefinitions) {
  ModelConfig config = small_config(true);
  config.head_dim = 64;
  config.rope_theta = 500000;
  const at::Tensor plain = rotary_frequencies(config);
  config.rope_scaling = {RopeScaling::Kind::linear, 4};
  EXPECT_LT(largest(rotary_frequencies(config) * 4 - plain), 1e-7);
  config.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 8192};
  const at::Tensor scaled = rotary_frequencies(config);
  for (int64_t i = 0; i < 32; ++i) {
    const double f = plain[i].item<double>(), wave = 2 * M_PI / f;
    double want = f;
    if (wave > 8192) {
      want = f / 8;
    } else if (wave > 2048) {
      const double share = (8192 / wave - 1) / 3;
      want = (1 - share) * f / 8 + share * f;
    }
    EXPECT_NEAR(scaled[i].item<double>() / want, 1, 1e-5);
  }
}

TEST(CrossEntropyTest, AgreesWithAutogradInAnyChunks) {
  const at::Tensor x = normal({9, 6}, 1).requires_grad_(true);
  const at::Tensor w = normal({5, 6}, 2).requires_grad_(true);
  const at::Tensor labels = at::tensor({0, 4, -100, 2, 2, -100, 1, 3, -100}, at::kLong);
  const at::Tensor log_p = at::log_softmax(at::linear(x, w), 1);
  const at::Tensor has = labels.ge(0);
  const at::Tensor want = log_p.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1).mul(has).sum().mul(-0.25);
  want.backward();
  const at::Tensor dx = x.grad().clone(), dw = w.grad().clone();
  for (const int64_t most : {1, 11, 25, 1000}) {  // one logit at a time, parts of the vocabulary, all
    x.mutable_grad().zero_();
    w.mutable_grad().zero_();
    const at::Tensor loss = cross_entropy_sum(x, w, labels, 0.25, most);
    EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-13);
    loss.mul(2).backward();
    EXPECT_LT(largest(x.grad() - dx * 2), 1e-13);
    EXPECT_LT(largest(w.grad() - dw * 2), 1e-13);
  }
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(cross_entropy_sum(x, w, labels, 0.25).item<double>(), want.item<double>(), 1e-13);
}

TEST(CrossEntropyTest, ALabelBeyondTheVocabularyIsRefused) {
  EXPECT_THROW(cross_entropy_sum(normal({2, 6}, 1), normal({5, 6}, 2), at::tensor({0, 5}, at::kLong), 1), Error);
}

// More rows than a chunk, and a vocabulary that is cut, in every type: against fp64.
TEST(CrossEntropyTest, LargeShapesInEveryType) {
  const at::Tensor x = normal({700, 16}, 1), w = normal({301, 16}, 2).mul(0.3);
  at::Tensor labels = whole_numbers(700, 301, 3);
  labels[5] = -100;
  const auto gradients = [&](at::ScalarType stored, at::ScalarType operands, int64_t most) {
    const at::Tensor a = x.to(stored).clone().requires_grad_(true);
    const at::Tensor b = w.to(stored == at::kDouble ? at::kDouble : at::kFloat).clone().requires_grad_(true);
    const at::Tensor loss = cross_entropy_sum(a, b, labels, 1.0 / 699, most, operands);
    loss.backward();
    return std::vector<at::Tensor>{loss.detach().to(at::kDouble), a.grad().to(at::kDouble), b.grad().to(at::kDouble)};
  };
  const auto exact = gradients(at::kDouble, at::kDouble, kMostLogits);
  for (const int64_t most : {int64_t{1000}, int64_t{30000}, kMostLogits}) {
    const std::tuple<at::ScalarType, at::ScalarType, double> cases[] = {
        {at::kFloat, at::kFloat, 1e-5}, {at::kBFloat16, at::kFloat, 1e-2}, {at::kBFloat16, at::kBFloat16, 5e-2}};
    for (const auto& [stored, operands, bound] : cases) {
      const auto got = gradients(stored, operands, most);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_LT(largest(got[i] - exact[i]) / largest(exact[i]), bound)
            << toString(stored) << " " << toString(operands) << " " << i << " " << most;
      }
    }
  }
}

struct TinyRun {
  at::Tensor loss, gradients;
};

TinyRun run(const ModelConfig& config, const at::Tensor& weights, const std::vector<int64_t>& lengths,
            at::ScalarType compute, bool backward, Operands operands = {}) {
  const at::Tensor positions = positions_of(lengths);
  const int64_t tokens = positions.numel();
  const at::Tensor ids = whole_numbers(tokens, config.vocab_size, 1);
  at::Tensor labels = whole_numbers(tokens, config.vocab_size, 2);
  if (tokens > 0) labels[tokens - 1] = -100;
  TinyRun out;
  if (backward) out.gradients = at::zeros_like(weights);
  const Llama model(config, weights, out.gradients, compute, operands);
  const at::Tensor x = model.hidden(ids, positions, dense_attention(lengths));
  out.loss = model.loss(x, labels, 1 / static_cast<double>(std::max<int64_t>(tokens - 1, 1)));
  if (backward) out.loss.backward();
  return out;
}

at::Tensor random_weights(const ModelConfig& config) {
  const ParameterMap map(config);
  at::Tensor weights = at::zeros({map.size()}, at::kDouble);
  for (const Parameter& p : map.parameters()) {
    weights.narrow(0, p.offset, p.count)
        .copy_(normal({p.count}, static_cast<uint64_t>(p.offset)) * 0.3 + (p.shape.size() == 1 ? 1 : 0));
  }
  return weights;
}

// The same model once more, as plainly as it can be written.
at::Tensor plain_loss(const ModelConfig& c, const at::Tensor& flat, const std::vector<int64_t>& lengths) {
  const ParameterMap map(c);
  const auto w = [&](const std::string& name) {
    const Parameter& p = map.at(name);
    return flat.narrow(0, p.offset, p.count).view(p.shape);
  };
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) {
    return x * (x.square().mean(-1, true) + c.rms_norm_eps).rsqrt() * weight;
  };
  const at::Tensor positions = positions_of(lengths);
  const int64_t tokens = positions.numel();
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * rotary_frequencies(c);
  const at::Tensor cos = at::cat({angles.cos(), angles.cos()}, 1).to(at::kDouble).unsqueeze(1);
  const at::Tensor sin = at::cat({angles.sin(), angles.sin()}, 1).to(at::kDouble).unsqueeze(1);
  const auto rope = [&](const at::Tensor& x) {
    const int64_t half = c.head_dim / 2;
    return x * cos + at::cat({x.narrow(2, half, half).neg(), x.narrow(2, 0, half)}, 2) * sin;
  };
  at::Tensor x = w("model.embed_tokens.weight").index_select(0, whole_numbers(tokens, c.vocab_size, 1));
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string l = "model.layers." + std::to_string(i) + ".";
    const at::Tensor h = norm(x, w(l + "input_layernorm.weight"));
    const auto heads = [&](const std::string& name, int64_t n) {
      return at::linear(h, w(l + "self_attn." + name + ".weight")).view({tokens, n, c.head_dim});
    };
    const at::Tensor q = rope(heads("q_proj", c.num_attention_heads));
    const at::Tensor k = rope(heads("k_proj", c.num_key_value_heads));
    const at::Tensor v = heads("v_proj", c.num_key_value_heads);
    const at::Tensor o = dense_attention(lengths)(q, k, v).reshape({tokens, -1});
    x = x + at::linear(o, w(l + "self_attn.o_proj.weight"));
    const at::Tensor m = norm(x, w(l + "post_attention_layernorm.weight"));
    x = x +
        at::linear(at::silu(at::linear(m, w(l + "mlp.gate_proj.weight"))) * at::linear(m, w(l + "mlp.up_proj.weight")),
                   w(l + "mlp.down_proj.weight"));
  }
  x = norm(x, w("model.norm.weight"));
  const at::Tensor logits = at::linear(x, w(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"));
  const at::Tensor labels = whole_numbers(tokens, c.vocab_size, 2).narrow(0, 0, tokens - 1);
  const at::Tensor log_p = at::log_softmax(logits.narrow(0, 0, tokens - 1), 1);
  return log_p.gather(1, labels.unsqueeze(1)).mean().neg();
}

TEST(LlamaTest, AgreesWithThePlainFormulaForwardAndBackward) {
  for (const bool tied : {true, false}) {
    const ModelConfig config = small_config(tied);
    const at::Tensor weights = random_weights(config).requires_grad_(true);
    const std::vector<int64_t> lengths = {5, 1, 7};
    const at::Tensor want = plain_loss(config, weights, lengths);
    want.backward();
    const TinyRun got = run(config, weights.detach(), lengths, at::kDouble, true);
    EXPECT_NEAR(got.loss.item<double>(), want.item<double>(), 1e-12);
    EXPECT_LT(largest(got.gradients - weights.grad()), 1e-12);
  }
}

TEST(LlamaTest, GradientsAgreeWithFiniteDifferences) {
  const ModelConfig config = small_config(false);
  const at::Tensor weights = random_weights(config);
  const std::vector<int64_t> lengths = {4, 3};
  const at::Tensor gradients = run(config, weights, lengths, at::kDouble, true).gradients;
  const at::Tensor direction = normal({weights.numel()}, 99);
  const double step = 1e-6;
  const auto loss_at = [&](double t) {
    return run(config, weights + direction * t, lengths, at::kDouble, false).loss.item<double>();
  };
  const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
  EXPECT_NEAR(slope, gradients.mul(direction).sum().item<double>(), 1e-7);
}

// Sequences of one chunk of rows and of several.
TEST(LlamaTest, NarrowTypesComeClose) {
  const ModelConfig config = small_config(true);
  const at::Tensor weights = random_weights(config).to(at::kFloat);
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{20, 13}, {300, 250, 3}}) {
    const TinyRun exact = run(config, weights.to(at::kDouble), lengths, at::kDouble, true);
    const std::tuple<at::ScalarType, Operands, double> cases[] = {
        {at::kFloat, std::nullopt, 1e-5}, {at::kBFloat16, at::kFloat, 5e-2}, {at::kBFloat16, at::kBFloat16, 1e-1}};
    for (const auto& [type, operands, bound] : cases) {
      const TinyRun got = run(config, weights, lengths, type, true, operands);
      EXPECT_EQ(got.gradients.scalar_type(), at::kFloat);
      EXPECT_NEAR(got.loss.item<double>(), exact.loss.item<double>(), bound);
      EXPECT_LT(largest(got.gradients - exact.gradients) / largest(exact.gradients), bound) << toString(type);
    }
  }
}

// Attention's gradients may come as views, and an attention that copies nothing may return one.
TEST(LlamaTest, StridedTensorsAreFine) {
  const ModelConfig config = small_config(true);
  const at::Tensor weights = random_weights(config);
  const at::Tensor ids = whole_numbers(6, 11, 1), positions = at::arange(6, at::kLong);
  std::vector<at::Tensor> gradients;
  for (const bool strided : {false, true}) {
    gradients.push_back(at::zeros_like(weights));
    const Llama model(config, weights, gradients.back(), at::kDouble);
    const AttentionFunction dense = dense_attention({6});
    const auto attention = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      if (!strided) return dense(q, k, v);
      const auto turn = [](const at::Tensor& t) { return t.transpose(0, 2).contiguous().transpose(0, 2); };
      return turn(dense(turn(q), turn(k), turn(v)));
    };
    model.loss(model.hidden(ids, positions, attention), ids, 1).backward();
  }
  EXPECT_LT(largest(gradients[0] - gradients[1]), 1e-14);
}

TEST(LlamaTest, ARankWithoutTokensTakesPart) {
  const ModelConfig config = small_config(false);
  const at::Tensor weights = random_weights(config).to(at::kFloat);
  int calls = 0;
  at::Tensor gradients = at::zeros_like(weights);
  const Llama model(config, weights, gradients, at::kFloat);
  const at::Tensor none = at::zeros({0}, at::kLong);
  const at::Tensor x = model.hidden(none, none, [&](const at::Tensor& q, const at::Tensor&, const at::Tensor&) {
    ++calls;
    EXPECT_TRUE(q.requires_grad());
    return q.clone();
  });
  const at::Tensor loss = model.loss(x, none, 1);
  EXPECT_EQ(calls, config.num_hidden_layers);
  EXPECT_EQ(loss.item<float>(), 0);
  loss.backward();
  EXPECT_EQ(largest(gradients), 0);
}

TEST(LlamaTest, GradientsAddUp) {
  const ModelConfig config = small_config(true);
  const at::Tensor weights = random_weights(config);
  at::Tensor gradients = at::zeros_like(weights);
  const Llama model(config, weights, gradients, at::kDouble);
  const at::Tensor ids = whole_numbers(6, 11, 1), positions = at::arange(6, at::kLong);
  at::Tensor once;
  for (int i = 0; i < 2; ++i) {
    model.loss(model.hidden(ids, positions, dense_attention({6})), ids, 1).backward();
    if (i == 0) once = gradients.clone();
  }
  EXPECT_LT(largest(gradients - once * 2), 1e-12);
}

}  // namespace
}  // namespace weft
