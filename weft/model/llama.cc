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
  embedding_ = leaf("model.embed_tokens.weight");
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    layers_.push_back({.input_norm = leaf(prefix + "input_layernorm.weight"),
                       .qkv = leaf(prefix + "self_attn.q_proj.weight", prefix + "self_attn.v_proj.weight"),
                       .o = leaf(prefix + "self_attn.o_proj.weight"),
                       .post_norm = leaf(prefix + "post_attention_layernorm.weight"),
                       .gate_up = leaf(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"),
                       .down = leaf(prefix + "mlp.down_proj.weight")});
  }
  final_norm_ = leaf("model.norm.weight");
  output_ = config.tie_word_embeddings ? embedding_ : leaf("lm_head.weight");
}

at::Tensor Llama::layer(const Layer& layer, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        const AttentionFunction& attention) const {
  const HeadShape shape = {config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim};
  const AttentionInputs inputs =
      attention_inputs(x, layer.input_norm, layer.qkv, cos, sin, shape, config_.rms_norm_eps, operands_);
  const at::Tensor attended = attention(inputs.q, inputs.k, inputs.v);  // [tokens, heads, head_dim]
  WEFT_CHECK(attended.sizes() == inputs.q.sizes());
  const at::Tensor y = attention_output(inputs.residual, attended, layer.o, operands_);
  return mlp(y, layer.post_norm, layer.gate_up, layer.down, config_.rms_norm_eps, operands_);
}

at::Tensor Llama::hidden(const at::Tensor& ids, const at::Tensor& positions, const AttentionFunction& attention) const {
  const auto [cos, sin] = rotary_tables(positions, inverse_frequencies_, wide(compute_));
  at::Tensor x = at::embedding(embedding_, ids).to(compute_);  // [tokens, hidden]
  for (const Layer& one : layers_) x = layer(one, x, cos, sin, attention);
  return rms_norm(x, final_norm_, config_.rms_norm_eps);
}

at::Tensor Llama::loss(const at::Tensor& hidden, const at::Tensor& labels, double scale) const {
  return cross_entropy_sum(hidden, output_, labels, scale, kMostLogits, operands_);
}

}  // namespace weft
