#include "weft/model/llama.h"

#include <ATen/ops/embedding.h>

#include <string>

#include "weft/base/error.h"
#include "weft/model/ops.h"
#include "weft/model/rows.h"

namespace weft {

Llama::Llama(const ModelConfig& config, const at::Tensor& weights, const at::Tensor& gradients, at::ScalarType compute,
             Operands operands)
    : config_(config),
      compute_(compute),
      operands_(operands.value_or(operands_for(compute))),
      inverse_frequencies_(rotary_frequencies(config)) {
  const ParameterMap map(config);
  WEFT_CHECK(weights.dim() == 1 && weights.numel() == map.size());
  WEFT_CHECK(!gradients.defined() || gradients.sizes() == weights.sizes());
  // One parameter, or several that follow each other as one matrix.
  const auto leaf = [&](const std::string& name, const std::string& last_name = "") {
    const Parameter& parameter = map.at(name);
    const Parameter& last = last_name.empty() ? parameter : map.at(last_name);
    const int64_t count = last.offset + last.count - parameter.offset;
    std::vector<int64_t> shape = parameter.shape;
    shape[0] = count / (parameter.count / shape[0]);
    // Each rank has its own leaves over shared memory. variable_data() gives each a version counter of
    // its own; with a shared one ranks would race.
    const auto part = [&](const at::Tensor& flat) {
      return flat.variable_data().narrow(0, parameter.offset, count).view(shape);
    };
    at::Tensor out = part(weights);
    if (gradients.defined()) {
      out.requires_grad_(true);
      out.mutable_grad() = part(gradients);  // backward adds in place to a gradient that is there
    }
    return out;
  };
  const LayerNames names = layer_names(config);
  embedding_ = leaf("model.embed_tokens.weight");
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    DecoderLayer layer = {
        .input_norm = leaf(prefix + "input_layernorm.weight"),
        .qkv = {},
        .o = {},
        .post_norm = leaf(prefix + names.post_norm),
        .gate_up = leaf(prefix + names.mlp + "gate_proj.weight", prefix + names.mlp + "up_proj.weight"),
        .down = leaf(prefix + names.mlp + "down_proj.weight"),
        .linear = {},
        .block = {}};
    const bool qwen = config.architecture == Architecture::qwen3_5;
    if (config.is_linear(i)) {
      const std::string l = prefix + names.linear;
      const bool gla = config.linear->layer == Layer::gla, mamba = config.linear->layer == Layer::mamba2;
      LinearWeights& linear = layer.linear.emplace();
      linear.in = mamba  ? leaf(l + "in_proj.weight")
                  : qwen ? leaf(l + "in_proj_qkv.weight", l + "in_proj_a.weight")
                         : leaf(l + "q_proj.weight", l + (gla ? "gk_proj.0.weight" : "a_proj.weight"));
      if (config.linear->conv_width > 1) linear.taps = leaf(l + "conv1d.weight");
      if (config.linear->conv_bias) linear.taps_bias = leaf(l + "conv1d.bias");
      if (mamba) linear.d = leaf(l + "D");
      if (gla) {
        linear.gate = leaf(l + "gk_proj.1.weight"), linear.bias = leaf(l + "gk_proj.1.bias");
      } else {
        linear.a_log = leaf(l + "A_log"), linear.dt_bias = leaf(l + "dt_bias");
      }
      linear.norm = leaf(l + "norm.weight"),
      linear.out = leaf(l + (qwen || mamba ? "out_proj.weight" : "o_proj.weight"));
    } else if (config.has_attention_block()) {
      const std::string a = prefix + "self_attn.";
      const auto norm = [&](const char* name) { return config.gated_attention() ? leaf(a + name) : at::Tensor(); };
      layer.block = {.qkv = leaf(a + "q_proj.weight", a + "v_proj.weight"),
                     .q_norm = norm("q_norm.weight"),
                     .k_norm = norm("k_norm.weight"),
                     .o = leaf(a + "o_proj.weight")};
    } else {
      layer.qkv = leaf(prefix + "self_attn.q_proj.weight", prefix + "self_attn.v_proj.weight");
      layer.o = leaf(prefix + "self_attn.o_proj.weight");
    }
    layers_.push_back(std::move(layer));
  }
  final_norm_ = leaf(names.final_norm);
  output_ = config.tie_word_embeddings ? embedding_ : leaf("lm_head.weight");
}

at::Tensor Llama::scale_of(const at::Tensor& norm) const {
  return config_.architecture == Architecture::qwen3_5 && norm.defined() ? norm.add(1) : norm;
}

at::Tensor Llama::mix(const DecoderLayer& layer, const at::Tensor& x, const Mixers& mixers) const {
  const at::Tensor norm = scale_of(layer.input_norm);
  if (layer.linear) {
    return linear_block(x, norm, *layer.linear, *config_.linear, config_.rms_norm_eps, mixers.linear,
                        mixers.convolution, operands_);
  }
  const HeadShape shape = {config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim};
  if (layer.block) {
    AttentionBlockWeights weights = *layer.block;
    weights.q_norm = scale_of(weights.q_norm), weights.k_norm = scale_of(weights.k_norm);
    return attention_block(x, norm, weights, mixers.cos, mixers.sin, shape, config_.rms_norm_eps, mixers.attention,
                           operands_);
  }
  const AttentionInputs inputs =
      attention_inputs(x, norm, layer.qkv, mixers.cos, mixers.sin, shape, config_.rms_norm_eps, operands_);
  const at::Tensor attended = mixers.attention(inputs.q, inputs.k, inputs.v);  // [tokens, heads, head_dim]
  WEFT_CHECK(attended.sizes() == inputs.q.sizes());
  return attention_output(inputs.residual, attended, layer.o, operands_);
}

at::Tensor Llama::hidden(const at::Tensor& ids, const at::Tensor& positions, const AttentionFunction& attention,
                         const LinearFunction& linear, const ConvolutionFunction& convolution) const {
  const auto [cos, sin] = rotary_tables(positions, inverse_frequencies_, wide(compute_));
  const Mixers mixers{attention, linear, convolution, cos, sin};
  at::Tensor x = at::embedding(embedding_, ids).to(compute_);  // [tokens, hidden]
  for (const DecoderLayer& one : layers_) {
    const at::Tensor y = mix(one, x, mixers);
    x = mlp(y, scale_of(one.post_norm), one.gate_up, one.down, config_.rms_norm_eps, operands_);
  }
  return rms_norm(x, scale_of(final_norm_), config_.rms_norm_eps);
}

at::Tensor Llama::loss(const at::Tensor& hidden, const at::Tensor& labels, double scale) const {
  return cross_entropy_sum(hidden, output_, labels, scale, kMostLogits, operands_);
}

}  // namespace weft
