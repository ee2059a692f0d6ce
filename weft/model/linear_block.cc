#include "weft/model/linear_block.h"

#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>

#include <utility>

#include "weft/base/error.h"
#include "weft/model/ops.h"
#include "weft/model/rows.h"

namespace weft {

namespace {

constexpr double kLogitsOfGates = 16;  // GLA divides by it: decays begin near 1

at::Tensor of_length_one(const at::Tensor& t) { return t.mul(t.square().sum(-1, true).add(1e-6).rsqrt()); }

// Parts of a row, one after the other.
class Columns {
 public:
  explicit Columns(at::Tensor all) : all_(std::move(all)) {}
  at::Tensor next(int64_t columns) {
    const at::Tensor part = all_.narrow(1, at_, columns);
    at_ += columns;
    return part;
  }

 private:
  at::Tensor all_;
  int64_t at_ = 0;
};

at::Tensor mamba_block(const at::Tensor& x, const at::Tensor& norm, const LinearWeights& weights,
                       const LinearConfig& config, double eps, const LinearFunction& linear,
                       const ConvolutionFunction& convolution, at::ScalarType operands) {
  const int64_t tokens = x.size(0), heads = config.num_heads, values = config.value_columns();
  Columns columns(product(rms_norm(x, norm, eps), weights.in, operands));
  const at::Tensor z = columns.next(values);
  at::Tensor mixed_in = columns.next(config.mixed_columns());
  if (config.conv_width > 1) mixed_in = convolution(mixed_in, weights.taps.squeeze(1), weights.taps_bias);
  Columns mixed(at::silu(mixed_in));
  const at::Tensor v = mixed.next(values).view({tokens, heads, config.value_head_dim});
  const at::Tensor k = mixed.next(config.key_columns()).view({tokens, config.num_key_heads, config.key_head_dim});
  const at::Tensor q = mixed.next(config.key_columns()).view_as(k);
  const at::Tensor dt = at::softplus(columns.next(heads).add(weights.dt_bias)).unsqueeze(2);
  const at::ScalarType type = x.scalar_type();
  const at::Tensor out = linear(
      {.q = q.to(type), .k = k.to(type), .v = v.mul(dt).to(type), .g = dt.mul(weights.a_log.exp().neg().unsqueeze(1))});
  WEFT_CHECK(out.sizes() == v.sizes());
  const at::Tensor scanned = out.to(v.scalar_type()).add(v.mul(weights.d.unsqueeze(1)));
  const at::Tensor gated = scanned.reshape({tokens, values}).mul(at::silu(z));
  const at::Tensor groups = gated.view({tokens, config.num_key_heads, values / config.num_key_heads});
  const at::Tensor normed = groups.mul(groups.square().mean(-1, true).add(eps).rsqrt());
  return x.add(product(normed.view({tokens, values}).mul(weights.norm), weights.out, operands).to(type));
}

}  // namespace

at::Tensor linear_block(const at::Tensor& x, const at::Tensor& norm, const LinearWeights& weights,
                        const LinearConfig& config, double eps, const LinearFunction& linear,
                        const ConvolutionFunction& convolution, at::ScalarType operands) {
  WEFT_CHECK(linear != nullptr && (convolution != nullptr || config.conv_width == 1));
  if (config.layer == Layer::mamba2) {
    return mamba_block(x, norm, weights, config, eps, linear, convolution, operands);
  }
  const int64_t tokens = x.size(0), heads = config.num_heads;
  const int64_t key = config.key_head_dim, value = config.value_head_dim;
  Columns columns(product(rms_norm(x, norm, eps), weights.in, operands));
  at::Tensor mixed_in = columns.next(config.mixed_columns());
  if (config.conv_width > 1) mixed_in = convolution(mixed_in, weights.taps.squeeze(1), {});
  if (config.conv_width > 1 || config.layer == Layer::gdn) mixed_in = at::silu(mixed_in);
  const at::Tensor z = columns.next(heads * value).view({tokens, heads, value});
  Columns mixed(mixed_in);
  at::Tensor q = mixed.next(config.key_columns()).view({tokens, config.num_key_heads, key});
  at::Tensor k = mixed.next(config.key_columns()).view_as(q);
  const at::Tensor v = mixed.next(heads * value).view({tokens, heads, value});
  LinearInputs inputs;
  if (config.layer == Layer::gdn) {
    q = of_length_one(q), k = of_length_one(k);
    inputs.beta = at::sigmoid(columns.next(heads)).unsqueeze(2);
    inputs.g = weights.a_log.exp().neg().mul(at::softplus(columns.next(heads).add(weights.dt_bias))).unsqueeze(2);
  } else {
    const at::Tensor logits = product(columns.next(config.gate_low_rank_dim), weights.gate, operands).add(weights.bias);
    inputs.g = at::log_sigmoid(logits).div(kLogitsOfGates).view({tokens, heads, key});
  }
  inputs.q = q.to(x.scalar_type()), inputs.k = k.to(x.scalar_type()), inputs.v = v.to(x.scalar_type());
  const at::Tensor scanned = linear(inputs);  // [tokens, heads, value]
  WEFT_CHECK(scanned.sizes() == inputs.v.sizes());
  const at::Tensor normed = rms_norm(scanned.reshape({tokens * heads, value}), weights.norm, eps);
  const at::Tensor out = normed.to(z.scalar_type()).view_as(z).mul(at::silu(z)).reshape({tokens, heads * value});
  return x.add(product(out, weights.out, operands).to(x.scalar_type()));
}

}  // namespace weft
