#include "weft/model/linear_block.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>

#include "weft/base/error.h"
#include "weft/model/ops.h"
#include "weft/model/rows.h"

namespace weft {

namespace {

constexpr double kLogitsOfGates = 16;  // GLA divides by it: decays begin near 1

at::Tensor of_length_one(const at::Tensor& t) { return t.mul(t.square().sum(-1, true).add(1e-6).rsqrt()); }

// A product in the type of operands, on in the wide type.
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, at::ScalarType operands) {
  return at::linear(x.to(operands), weight.to(operands)).to(weight.scalar_type());
}

}  // namespace

at::Tensor linear_block(const at::Tensor& x, const at::Tensor& norm, const LinearWeights& weights,
                        const LinearConfig& config, double eps, const LinearFunction& linear, at::ScalarType operands) {
  WEFT_CHECK(linear != nullptr);
  const int64_t tokens = x.size(0), heads = config.num_heads;
  const int64_t key = config.key_head_dim, value = config.value_head_dim;
  const at::Tensor all = product(rms_norm(x, norm, eps), weights.in, operands);
  int64_t column = 0;
  const auto next = [&](int64_t columns) {
    const at::Tensor part = all.narrow(1, column, columns);
    column += columns;
    return part;
  };
  const auto by_head = [&](int64_t columns) { return next(heads * columns).view({tokens, heads, columns}); };
  at::Tensor q = by_head(key), k = by_head(key), v = by_head(value);
  const at::Tensor z = by_head(value);
  LinearInputs inputs;
  if (config.layer == Layer::gdn) {
    q = of_length_one(at::silu(q)), k = of_length_one(at::silu(k)), v = at::silu(v);
    inputs.beta = at::sigmoid(next(heads)).unsqueeze(2);
    inputs.g = weights.a_log.exp().neg().mul(at::softplus(next(heads).add(weights.dt_bias))).unsqueeze(2);
  } else {
    const at::Tensor logits = product(next(config.gate_low_rank_dim), weights.gate, operands).add(weights.bias);
    inputs.g = at::log_sigmoid(logits).div(kLogitsOfGates).view({tokens, heads, key});
  }
  inputs.q = q.to(x.scalar_type()), inputs.k = k.to(x.scalar_type()), inputs.v = v.to(x.scalar_type());
  const at::Tensor mixed = linear(inputs);  // [tokens, heads, value]
  WEFT_CHECK(mixed.sizes() == inputs.v.sizes());
  const at::Tensor normed = rms_norm(mixed.reshape({tokens * heads, value}), weights.norm, eps);
  const at::Tensor out = normed.to(z.scalar_type()).view_as(z).mul(at::silu(z)).reshape({tokens, heads * value});
  return x.add(product(out, weights.out, operands).to(x.scalar_type()));
}

}  // namespace weft
