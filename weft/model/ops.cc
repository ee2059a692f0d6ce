#include "weft/model/ops.h"

#include <ATen/core/grad_mode.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "weft/base/error.h"

namespace weft {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Sums over many elements are formed in this type.
at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// Without AMX torch multiplies bf16 matrices 10 to 50 times slower than fp32 ones.
bool has_fast_bf16() {
  static const bool fast = at::cpu::init_amx();
  return fast;
}

// The matrix product with sums in fp32 or wider, rounded to `out` once.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType out) {
  if (a.scalar_type() == at::kBFloat16 && !has_fast_bf16()) {
    return at::matmul(a.to(at::kFloat), b.to(at::kFloat)).to(out);
  }
  return at::matmul(a, b).to(out);
}

// The weight stays in its own type in the graph, so that its gradient does too.
struct Linear : Function<Linear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight) {
    ctx->save_for_backward({x, weight});
    return product(x, weight.to(x.scalar_type()).t(), x.scalar_type());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &dy = grads[0];
    return {product(dy, weight.to(x.scalar_type()), x.scalar_type()), product(dy.t(), x, weight.scalar_type())};
  }
};

// As one node: composed of torch operators it would keep three arrays of x's size for backward.
struct RmsNorm : Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor wide_x = x.to(wide(x.scalar_type()));
    const at::Tensor inverse = wide_x.square().mean(-1, true).add_(eps).rsqrt_();  // [..., 1]
    ctx->save_for_backward({x, weight, inverse});
    return wide_x.mul(inverse).mul_(weight).to(x.scalar_type());
  }

  // With n = x * inverse and h = dy * weight: dx = inverse * (h - n * mean(h * n)), dw = sum(dy * n).
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const auto type = inverse.scalar_type();
    const at::Tensor dy = grads[0].to(type);
    const at::Tensor n = x.to(type).mul(inverse);
    const at::Tensor dw = dy.mul(n).sum(0).to(weight.scalar_type());
    at::Tensor h = dy.mul(weight);
    const at::Tensor mean = h.mul(n).mean(-1, true);
    h.sub_(n.mul(mean)).mul_(inverse);
    return {h.to(x.scalar_type()), dw, at::Tensor()};
  }
};

// out = (x1 cos - x2 sin, x2 cos + x1 sin) for the halves x1, x2 of each head.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double direction) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
  at::Tensor out = at::empty(x.sizes(), x.options());
  at::Tensor y1 = out.narrow(-1, 0, half), y2 = out.narrow(-1, half, half);
  at::mul_out(y1, x1, cos);
  y1.addcmul_(x2, sin, -direction);
  at::mul_out(y2, x2, cos);
  y2.addcmul_(x1, sin, direction);
  return out;
}

struct Rotate : Function<Rotate> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return rotated(x, cos, sin, 1);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {rotated(grads[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
  }
};

// Backward of a sum of cross entropies needs nothing but the logits, and these are at hand in
// forward: so both gradients are formed there, chunk by chunk, and backward only scales them.
struct CrossEntropySum : Function<CrossEntropySum> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                            const at::Tensor& labels, double scale, int64_t chunk_logits, bool train) {
    const auto type = wide(hidden.scalar_type());
    const int64_t tokens = hidden.size(0);
    const int64_t rows = std::max<int64_t>(1, chunk_logits / weight.size(0));
    const at::Tensor narrow_weight = weight.to(hidden.scalar_type());
    at::Tensor d_hidden, d_weight;
    if (train) {
      d_hidden = at::empty_like(hidden);
      d_weight = at::zeros(weight.sizes(), weight.options().dtype(type));
    }
    double loss = 0;
    for (int64_t begin = 0; begin < tokens; begin += rows) {
      const int64_t count = std::min(rows, tokens - begin);
      const at::Tensor x = hidden.narrow(0, begin, count);
      const at::Tensor y = labels.narrow(0, begin, count);
      const at::Tensor has_label = y.ge(0);                           // [count]
      const at::Tensor index = y.clamp_min(0).unsqueeze(1);           // [count, 1]
      const at::Tensor logits = product(x, narrow_weight.t(), type);  // [count, vocab]
      const at::Tensor lse = at::logsumexp(logits, 1, true);          // [count, 1]
      const at::Tensor nll = lse.sub(logits.gather(1, index)).squeeze(1);
      loss += nll.mul(has_label).sum(at::kDouble).item<double>();
      if (!train) continue;
      // d loss / d logits = scale * (softmax - one hot), 0 for rows without label.
      at::Tensor d = logits.sub(lse).exp_();
      d.scatter_add_(1, index, at::empty_like(lse).fill_(-1));
      d.mul_(has_label.unsqueeze(1)).mul_(scale);
      const at::Tensor narrow_d = d.to(hidden.scalar_type());
      at::Tensor dx = d_hidden.narrow(0, begin, count);
      dx.copy_(product(narrow_d, narrow_weight, hidden.scalar_type()));
      d_weight.add_(product(narrow_d.t(), x, type));
    }
    if (train) {
      ctx->saved_data["d_hidden"] = d_hidden;
      ctx->saved_data["d_weight"] = d_weight.to(weight.scalar_type());
    }
    return at::empty({}, hidden.options().dtype(type)).fill_(scale * loss);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    // Almost always 1; multiplying in place would be wrong if backward ran twice.
    const double factor = grads[0].item<double>();
    at::Tensor d_hidden = ctx->saved_data["d_hidden"].toTensor();
    at::Tensor d_weight = ctx->saved_data["d_weight"].toTensor();
    if (factor != 1) {
      d_hidden = d_hidden.mul(factor);
      d_weight = d_weight.mul(factor);
    }
    return {d_hidden, d_weight, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight) { return Linear::apply(x, weight); }

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  WEFT_CHECK(x.dim() == 2);
  return RmsNorm::apply(x, weight, eps);
}

at::Tensor rotary_frequencies(const ModelConfig& config) {
  const at::Tensor even = at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat);
  const at::Tensor plain = at::pow(config.rope_theta, even.div(static_cast<double>(config.head_dim))).reciprocal();
  const RopeScaling& scaling = config.rope_scaling;
  switch (scaling.kind) {
    case RopeScaling::Kind::none: return plain;
    case RopeScaling::Kind::linear: return plain.div(scaling.factor);
    case RopeScaling::Kind::llama3: break;
  }
  // Long waves are slowed down by `factor`, short ones stay, those between are blended.
  const double length = static_cast<double>(scaling.original_max_position_embeddings);
  const at::Tensor wave = plain.reciprocal().mul(2 * std::numbers::pi);
  const at::Tensor slowed = plain.div(scaling.factor);
  const at::Tensor share = wave.reciprocal()
                               .mul(length)
                               .sub(scaling.low_freq_factor)
                               .div(scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor blended = slowed.mul(share.neg().add(1)).add(plain.mul(share));
  const at::Tensor long_wave = at::where(wave.gt(length / scaling.low_freq_factor), slowed, plain);
  const at::Tensor between =
      wave.le(length / scaling.low_freq_factor).logical_and(wave.ge(length / scaling.high_freq_factor));
  return at::where(between, blended, long_wave);
}

std::pair<at::Tensor, at::Tensor> rotary_tables(const at::Tensor& positions, const at::Tensor& frequencies,
                                                at::ScalarType type) {
  const at::Tensor angles = positions.to(frequencies.scalar_type()).unsqueeze(1).mul(frequencies).unsqueeze(1);
  return {angles.cos().to(type), angles.sin().to(type)};
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return Rotate::apply(x, cos, sin);
}

at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, double scale,
                             int64_t chunk_logits) {
  const bool train = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return CrossEntropySum::apply(hidden, weight, labels, scale, chunk_logits, train);
}

}  // namespace weft
