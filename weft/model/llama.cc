#include "weft/model/llama.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/silu.h>

#include <string>

#include "weft/base/error.h"
#include "weft/model/ops.h"

namespace weft {

Llama::Llama(const ModelConfig& config, const at::Tensor& weights, const at::Tensor& gradients, at::ScalarType compute)
    : config_(config), compute_(compute), inverse_frequencies_(rotary_frequencies(config)) {
  const ParameterMap map(config);
  WEFT_CHECK(weights.dim() == 1 && weights.numel() == map.size());
  WEFT_CHECK(!gradients.defined() || gradients.sizes() == weights.sizes());
  const auto leaf = [&](const std::string& name) {
    const Parameter& parameter = map.at(name);
    // Each rank has its own leaves over shared memory. variable_data() gives each a version counter of
    // its own; with a shared one ranks would race.
    const auto part = [&](const at::Tensor& flat) {
      return flat.variable_data().narrow(0, parameter.offset, parameter.count).view(parameter.shape);
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
    layers_.push_back({leaf(prefix + "input_layernorm.weight"), leaf(prefix + "self_attn.q_proj.weight"),
                       leaf(prefix + "self_attn.k_proj.weight"), leaf(prefix + "self_attn.v_proj.weight"),
                       leaf(prefix + "self_attn.o_proj.weight"), leaf(prefix + "post_attention_layernorm.weight"),
                       leaf(prefix + "mlp.gate_proj.weight"), leaf(prefix + "mlp.up_proj.weight"),
                       leaf(prefix + "mlp.down_proj.weight")});
  }
  final_norm_ = leaf("model.norm.weight");
  output_ = config.tie_word_embeddings ? embedding_ : leaf("lm_head.weight");
}

at::Tensor Llama::layer(const Layer& layer, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        const AttentionFunction& attention) const {
  const auto heads_of = [&](const at::Tensor& flat, int64_t heads) {
    return flat.view({flat.size(0), heads, config_.head_dim});
  };
  const at::Tensor h = rms_norm(x, layer.input_norm, config_.rms_norm_eps);
  const at::Tensor q = rotate(heads_of(linear(h, layer.q), config_.num_attention_heads), cos, sin);
  const at::Tensor k = rotate(heads_of(linear(h, layer.k), config_.num_key_value_heads), cos, sin);
  const at::Tensor v = heads_of(linear(h, layer.v), config_.num_key_value_heads);
  const at::Tensor attended = attention(q, k, v);  // [tokens, heads, head_dim]
  WEFT_CHECK(attended.sizes() == q.sizes());
  const at::Tensor joined = attended.reshape({x.size(0), config_.num_attention_heads * config_.head_dim});
  const at::Tensor y = x.add(linear(joined, layer.o));
  const at::Tensor m = rms_norm(y, layer.post_norm, config_.rms_norm_eps);
  const at::Tensor gated = at::silu(linear(m, layer.gate)).mul(linear(m, layer.up));
  return y.add(linear(gated, layer.down));
}

at::Tensor Llama::hidden(const at::Tensor& ids, const at::Tensor& positions, const AttentionFunction& attention) const {
  const auto [cos, sin] = rotary_tables(positions, inverse_frequencies_, compute_);
  at::Tensor x = at::embedding(embedding_, ids).to(compute_);  // [tokens, hidden]
  for (const Layer& one : layers_) x = layer(one, x, cos, sin, attention);
  return rms_norm(x, final_norm_, config_.rms_norm_eps);
}

at::Tensor Llama::loss(const at::Tensor& hidden, const at::Tensor& labels, double scale) const {
  return cross_entropy_sum(hidden, output_, labels, scale);
}

at::Tensor Llama::logits(const at::Tensor& hidden) const { return linear(hidden, output_); }

}  // namespace weft
