// Hybrid models, attention and linear layers in turn: against the formulas in plain operators, in fp64; documents that stay
// apart; their configuration files.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/model/llama.h"
#include "weft/model/ops.h"
#include "weft/torch/testing.h"

namespace weft {
namespace {

ModelConfig hybrid_config(Layer layer) {
  ModelConfig config = model_preset("tiny");
  config.vocab_size = 11, config.hidden_size = 8, config.intermediate_size = 12, config.num_hidden_layers = 3;
  config.num_attention_heads = 2, config.num_key_value_heads = 1, config.head_dim = 4;
  config.tie_word_embeddings = false;
  config.linear = {.layer = layer,
                   .num_heads = 2,
                   .num_key_heads = 2,
                   .key_head_dim = 3,
                   .value_head_dim = 5,
                   .gate_low_rank_dim = layer == Layer::gla ? 4 : 16};
  config.linear_layers = {true, false, true};
  return config;
}

// Both layers plain, and with a convolution and a key head for both heads.
std::vector<ModelConfig> hybrid_configs() {
  std::vector<ModelConfig> configs;
  for (const Layer layer : {Layer::gdn, Layer::gla}) {
    configs.push_back(hybrid_config(layer));
    configs.push_back(hybrid_config(layer));
    configs.back().linear->num_key_heads = 1, configs.back().linear->conv_width = 3;
  }
  return configs;
}

ModelConfig qwen_config() {
  ModelConfig config = hybrid_configs()[1];
  config.architecture = Architecture::qwen3_5;
  config.head_dim = 8, config.partial_rotary_factor = 0.5;
  return config;
}

ModelConfig bamba_config() {
  ModelConfig config = hybrid_config(Layer::mamba2);
  config.architecture = Architecture::bamba;
  config.linear->num_heads = 4, config.linear->conv_width = 3, config.linear->conv_bias = true;
  config.linear->value_head_dim = 4;
  config.partial_rotary_factor = 0.5;
  return config;
}

// With those of other architectures, and Mamba-2 in our own.
std::vector<ModelConfig> all_configs() {
  std::vector<ModelConfig> configs = hybrid_configs();
  configs.insert(configs.end(), {qwen_config(), hybrid_config(Layer::mamba2), bamba_config()});
  return configs;
}

ConvolutionFunction convolution_of(const std::vector<int64_t>& lengths) {
  return [lengths](const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return convolution_by_document(x, weight, bias, lengths);
  };
}

// The linear layers of one rank that has all documents, token by token.
LinearFunction loop_of(const LinearConfig& config, const std::vector<int64_t>& lengths) {
  return [config, lengths](const LinearInputs& inputs) {
    AttentionShape shape;
    shape.layer = config.layer, shape.heads = config.num_heads;
    shape.dim = config.key_head_dim, shape.dim_v = config.value_head_dim;
    const double scale = traits_of(shape.layer).unit_scale ? 1 : 1 / std::sqrt(static_cast<double>(shape.dim));
    return linear_token_loop(shape, scale, lengths, inputs).out;
  };
}

at::Tensor start_of(const ModelConfig& config) {
  const ParameterMap map(config);
  std::vector<float> weights(static_cast<size_t>(map.size()));
  map.initialise(weights, 3);
  Random random(5);
  for (const Parameter& p : map.parameters()) {
    if (p.start == Start::log_rate || p.start == Start::time_step) continue;
    for (int64_t i = 0; i < p.count; ++i) {
      weights[static_cast<size_t>(p.offset + i)] += static_cast<float>(0.3 * random.normal());
    }
  }
  return at::tensor(weights, at::kDouble);
}

at::Tensor positions_in(const std::vector<int64_t>& lengths) {
  std::vector<at::Tensor> parts;
  for (const int64_t n : lengths) parts.push_back(at::arange(n, at::kLong));
  return at::cat(parts);
}

// The linear layer once more, from its own words.
at::Tensor plain_linear(const ModelConfig& c, const at::Tensor& x, const std::function<at::Tensor(const char*)>& w,
                        const LinearFunction& loop, const std::vector<int64_t>& lengths) {
  const LinearConfig& linear = *c.linear;
  const int64_t tokens = x.size(0), heads = linear.num_heads;
  int64_t channel = 0;  // of the convolution
  const auto by_head = [&](const char* name, int64_t dim) {
    at::Tensor t = at::linear(x, w(name));
    if (linear.conv_width > 1 && std::string(name) != "g_proj.weight") {
      const at::Tensor taps = w("conv1d.weight").squeeze(1).narrow(0, channel, t.size(1));
      channel += t.size(1);
      t = at::silu(convolution_by_document(t, taps, {}, lengths));
    }
    t = t.view({tokens, t.size(1) / dim, dim});
    return t.repeat_interleave(heads / t.size(1), 1);
  };
  const auto unit = [](const at::Tensor& t) { return t.div(t.square().sum(-1, true).add(1e-6).sqrt()); };
  at::Tensor q = by_head("q_proj.weight", linear.key_head_dim), k = by_head("k_proj.weight", linear.key_head_dim),
             v = by_head("v_proj.weight", linear.value_head_dim);
  const at::Tensor z = by_head("g_proj.weight", linear.value_head_dim);
  LinearInputs in{.q = q, .k = k, .v = v};
  if (linear.layer == Layer::gdn) {
    const auto activated = [&](const at::Tensor& t) { return linear.conv_width > 1 ? t : at::silu(t); };
    in = {.q = unit(activated(q)), .k = unit(activated(k)), .v = activated(v)};
    in.beta = at::sigmoid(at::linear(x, w("b_proj.weight"))).unsqueeze(2);
    in.g = at::softplus(at::linear(x, w("a_proj.weight")).add(w("dt_bias"))).mul(w("A_log").exp()).neg().unsqueeze(2);
  } else {
    const at::Tensor low = at::linear(x, w("gk_proj.0.weight"));
    in.g = at::log_sigmoid(at::linear(low, w("gk_proj.1.weight"), w("gk_proj.1.bias"))).div(16).view_as(k);
  }
  const at::Tensor out = loop(in);
  const at::Tensor normed = out.mul(out.square().mean(-1, true).add(c.rms_norm_eps).rsqrt()).mul(w("norm.weight"));
  return at::linear(normed.mul(at::silu(z)).view({tokens, -1}), w("o_proj.weight"));
}

TEST(HybridTest, LayersAgreeWithPlainFormulasForwardAndBackward) {
  for (ModelConfig config : hybrid_configs()) {
    config.num_hidden_layers = 1, config.linear_layers = {true};  // the parts around it: LlamaTest
    const std::vector<int64_t> lengths = {5, 1, 7};
    const at::Tensor weights = start_of(config).requires_grad_(true);
    const ParameterMap map(config);
    const auto full = [&](const std::string& name) {
      const Parameter& p = map.at(name);
      return weights.narrow(0, p.offset, p.count).view(p.shape);
    };
    const at::Tensor ids = at::arange(13, at::kLong).mul(5).remainder(11);
    const LinearFunction loop = loop_of(*config.linear, lengths);
    const at::Tensor x = full("model.embed_tokens.weight").index_select(0, ids);
    const at::Tensor h = rms_norm(x, full("model.layers.0.input_layernorm.weight"), config.rms_norm_eps);
    const at::Tensor y = x.add(plain_linear(
        config, h, [&](const char* name) { return full(std::string("model.layers.0.linear_attn.") + name); }, loop,
        lengths));
    const at::Tensor want =
        mlp(y, full("model.layers.0.post_attention_layernorm.weight"),
            at::cat({full("model.layers.0.mlp.gate_proj.weight"), full("model.layers.0.mlp.up_proj.weight")}),
            full("model.layers.0.mlp.down_proj.weight"), config.rms_norm_eps);
    const at::Tensor last = rms_norm(want, full("model.norm.weight"), config.rms_norm_eps);
    last.square().sum().backward();

    const at::Tensor gradients = at::zeros_like(weights);
    const Llama model(config, weights.detach(), gradients, at::kDouble);
    const at::Tensor got =
        model.hidden(ids, positions_in(lengths), dense_attention(lengths), loop, convolution_of(lengths));
    got.square().sum().backward();
    EXPECT_LT(got.sub(last).abs().max().item<double>(), 1e-12);
    EXPECT_LT(gradients.sub(weights.grad()).abs().max().item<double>(), 1e-11);
    EXPECT_GT(
        gradients.narrow(0, map.at("model.layers.0.linear_attn.q_proj.weight").offset, 4).abs().min().item<double>(),
        0);
  }
}

TEST(HybridTest, GradientsAgreeWithFiniteDifferences) {
  for (const ModelConfig& config : all_configs()) {
    const std::vector<int64_t> lengths = {4, 3};
    const at::Tensor weights = start_of(config), ids = at::arange(7, at::kLong);
    const auto loss = [&](const at::Tensor& at_weights, const at::Tensor& gradients) {
      const Llama model(config, at_weights, gradients, at::kDouble);
      return model.loss(model.hidden(ids, positions_in(lengths), dense_attention(lengths),
                                     loop_of(*config.linear, lengths), convolution_of(lengths)),
                        ids, 1.0 / 7);
    };
    const at::Tensor gradients = at::zeros_like(weights);
    loss(weights, gradients).backward();
    const at::Tensor direction = at::arange(weights.numel(), at::kDouble).sin();
    const double step = 2e-7;  // third derivatives are large
    const double slope =
        (loss(weights + direction * step, {}).item<double>() - loss(weights - direction * step, {}).item<double>()) /
        (2 * step);
    EXPECT_NEAR(slope, gradients.mul(direction).sum().item<double>(), 1e-7);
  }
}

TEST(HybridTest, ParametersAreCountedAndBeginAsTheySay) {
  for (const ModelConfig& config : all_configs()) {
    const ParameterMap map(config);
    int64_t count = 0;
    for (const Parameter& p : map.parameters()) count += p.count;
    EXPECT_EQ(count, config.parameter_count());
    std::vector<float> weights(static_cast<size_t>(map.size()));
    map.initialise(weights, 1);
    for (const Parameter& p : map.parameters()) {
      for (int64_t i = p.offset; i < p.offset + p.count; ++i) {
        const double w = weights[static_cast<size_t>(i)];
        const double step = std::log1p(std::exp(w));
        const bool fine = p.start == Start::ones        ? w == 1
                          : p.start == Start::zeros     ? w == 0
                          : p.start == Start::taps      ? w >= -0.5 && w < 0.5
                          : p.start == Start::log_rate  ? w >= 0 && w <= std::log(16)
                          : p.start == Start::time_step ? step > 0.00099 && step < 0.101
                                                        : std::abs(w) < 0.2;
        EXPECT_TRUE(fine) << p.name << " " << w;
      }
    }
  }
}

// One line that says so.
void expect_refused(const std::string& text, const std::string& words) {
  try {
    parse_config(text, "config.json");
    ADD_FAILURE() << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

TEST(HybridTest, ConfigurationFilesKeepEverything) {
  for (const ModelConfig& config : all_configs()) {
    EXPECT_EQ(parse_config(config_json(config), "config.json"), config);
  }
  const std::string head =
      R"({"model_type": "weft_hybrid", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 6, "num_attention_heads": 4, "linear_num_value_heads": 2, "linear_key_head_dim": 16)";
  const ModelConfig config = parse_config(head + R"(, "full_attention_interval": 3})", "config.json");
  EXPECT_EQ(config.linear_layers, (std::vector<bool>{true, true, false, true, true, false}));
  EXPECT_EQ(config.linear->layer, Layer::gdn);
  EXPECT_EQ(config.linear->value_head_dim, 16);
  const std::pair<const char*, const char*> refused[] = {
      {R"(, "linear_conv_kernel_dim": 0})", "linear_conv_kernel_dim is 0"},
      {R"(, "linear_conv_kernel_dim": 5000})", "allowed are 1 to 4096"},
      {R"(, "linear_num_key_heads": 4})", "2 value heads cannot share 4 key heads"},
      {R"(, "partial_rotary_factor": 0.5})", "only whole heads are rotated"},
      {R"(, "attn_output_gate": false})", "attn_output_gate"},
      {R"(, "linear_layer": "rwkv7"})", "gdn, gla and mamba2 are supported"},
      {R"(, "linear_layer": "gdm"})", "did you mean 'gdn'"},
      {R"(, "layer_types": ["linear_attention"]})", "layer_types has 1 entries"},
      {R"(, "layer_types": ["sliding_attention"]})", "sliding_attention"},
      {R"(, "full_attention_interval": 0})", "full_attention_interval 0"},
      {R"(, "linear_value_head_dim": 0})", "linear_value_head_dim is 0"},
  };
  for (const auto& [tail, words] : refused) expect_refused(head + tail, words);
}

// What transformers writes, with defaults where it would have them; what it computes and this does not.
TEST(HybridTest, QwenFilesAreReadWithTheirDefaults) {
  const std::string head = R"({"model_type": "qwen3_5_text", "vocab_size": 300, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 12)";
  const ModelConfig config = parse_config(head + "}", "config.json");
  EXPECT_EQ(config.architecture, Architecture::qwen3_5);
  EXPECT_EQ(config.rotary_dim(), 4);
  EXPECT_EQ(config.linear->conv_width, 4);
  EXPECT_EQ(config.linear->layer, Layer::gdn);
  EXPECT_EQ(config.linear_layers, (std::vector<bool>{true, true, true, false}));
  const ParameterMap map(config);
  EXPECT_EQ(map.at("model.layers.0.linear_attn.in_proj_qkv.weight").shape, (std::vector<int64_t>{80, 64}));
  EXPECT_EQ(map.at("model.layers.0.linear_attn.conv1d.weight").shape, (std::vector<int64_t>{80, 1, 4}));
  EXPECT_EQ(map.at("model.layers.3.self_attn.q_proj.weight").shape, (std::vector<int64_t>{128, 64}));
  const std::pair<const char*, const char*> refused[] = {
      {R"(, "attn_output_gate": false})", "attn_output_gate"},
      {R"(, "linear_layer": "gla"})", "whose linear layers are gdn"},
      {R"(, "hidden_act": "gelu"})", "only silu"},
      {R"(, "attention_bias": true})", "without biases"},
      {R"(, "rope_parameters": {"partial_rotary_factor": 0.06}})", "an even number of columns"},
      {R"(, "partial_rotary_factor": 2})", "an even number of columns"},
      {R"(, "rope_parameters": {"rope_type": "yarn"}})", "yarn"},
  };
  for (const auto& [tail, words] : refused) expect_refused(head + tail, words);
}

TEST(HybridTest, BambaFilesAreReadWithTheirDefaults) {
  const std::string head = R"({"model_type": "bamba", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_n_groups": 2,
    "mamba_d_state": 12, "mamba_d_head": "auto", "attn_layer_indices": [2],
    "time_step_limit": [0.0, {"__float__": "Infinity"}])";
  const ModelConfig config = parse_config(head + "}", "config.json");
  EXPECT_EQ(config.architecture, Architecture::bamba);
  EXPECT_EQ(config.rotary_dim(), 8);
  EXPECT_EQ(config.linear->value_head_dim, 16);
  EXPECT_EQ(config.linear_layers, (std::vector<bool>{true, true, false, true}));
  const ParameterMap map(config);
  EXPECT_EQ(map.at("model.layers.0.mamba.in_proj.weight").shape, (std::vector<int64_t>{312, 64}));
  EXPECT_EQ(map.at("model.layers.0.mamba.conv1d.bias").shape, (std::vector<int64_t>{176}));
  // One of its lines by another.
  const std::tuple<const char*, const char*, const char*> refused[] = {
      {"\"vocab_size\": 300", R"("vocab_size": 300, "mamba_proj_bias": true)", "mamba_proj_bias"},
      {"[0.0, {\"__float__\": \"Infinity\"}]", "[0.1, 1.0]", "time_step_limit"},
      {"\"auto\"", "4", "mamba_n_heads x mamba_d_head is 32; mamba_expand x hidden_size is 128"},
      {"[2]", "[4]", "attn_layer_indices has 4"},
      {"\"mamba_n_groups\": 2", "\"mamba_n_groups\": 3", "cannot share 3 key heads"},
  };
  for (const auto& [from, to, words] : refused) {
    std::string text = head + "}";
    text.replace(text.find(from), std::string(from).size(), to);
    try {
      parse_config(text, "config.json");
      ADD_FAILURE() << to;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace weft
