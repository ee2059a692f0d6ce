#include "weft/model/ops.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/model/rows.h"

namespace weft {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct RmsNormNode : Function<RmsNormNode> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor inverse = at::empty({x.size(0)}, x.options().dtype(wide(x.scalar_type())));
    const at::Tensor y = at::empty_like(x);
    kernels::fused_kernels().rms_norm({.y = rows_of(y),
                                       .inverse = inverse.data_ptr(),
                                       .x = const_rows_of(x),
                                       .weight = weight.const_data_ptr(),
                                       .eps = eps,
                                       .rows = x.size(0),
                                       .columns = x.size(1)});
    ctx->save_for_backward({x, weight, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2], dy = grads[0].contiguous();
    const at::Tensor dx = at::empty_like(x), dweight = at::zeros(weight.sizes(), weight.options());
    kernels::fused_kernels().rms_norm_backward({.dx = rows_of(dx),
                                                .dweight = dweight.data_ptr(),
                                                .dy = const_rows_of(dy),
                                                .x = const_rows_of(x),
                                                .residual = {},
                                                .inverse = inverse.const_data_ptr(),
                                                .weight = weight.const_data_ptr(),
                                                .rows = x.size(0),
                                                .columns = x.size(1)});
    return {dx, dweight, at::Tensor()};
  }
};

// How many rows and columns of the logits are there at once.
struct LogitsTile {
  int64_t rows, columns;

  LogitsTile(int64_t tokens, int64_t vocabulary, int64_t most) {
    constexpr int64_t kFewRows = 64;  // with fewer, products are slower than logits are worth that are computed twice
    rows = std::min({tokens, kChunkRows, std::max<int64_t>(1, most / vocabulary)});
    columns = vocabulary;
    if (rows >= std::min(tokens, kFewRows)) return;
    rows = std::min({tokens, kChunkRows, most});
    columns = std::max<int64_t>(1, most / rows);
  }
};

// Backward of a sum of cross entropies needs nothing but the logits, and these are at hand in
// forward: so both gradients are formed there, chunk by chunk, and backward only scales them.
class CrossEntropy {
 public:
  CrossEntropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, double scale,
               int64_t most_logits, at::ScalarType operands, bool train)
      : hidden_(hidden),
        labels_(labels),
        scale_(scale),
        train_(train),
        tile_(hidden.size(0), weight.size(0), most_logits),
        matrix_(weight.to(operands)),
        columns_(chunks_of(weight.size(0), tile_.columns)),
        logits_(at::empty({tile_.rows * tile_.columns}, weight.options())),
        converted_(scratch_rows(tile_.rows, hidden.size(1), operands)),
        dproduct_(at::empty_like(converted_)),
        lse_(static_cast<size_t>(tile_.rows)),
        picked_(lse_.size()) {
    if (!train) return;
    d_hidden_ = at::empty_like(hidden);
    d_weight_ = at::zeros(weight.sizes(), weight.options());
  }

  double run() {
    double loss = 0;
    for (const Range rows : chunks_of(hidden_.size(0), tile_.rows)) loss += add_rows(rows);
    return scale_ * loss;
  }
  const at::Tensor& d_hidden() const { return d_hidden_; }
  const at::Tensor& d_weight() const { return d_weight_; }

 private:
  double add_rows(Range rows) {
    const at::Tensor x = as_operand(hidden_, rows, converted_);
    std::fill(lse_.begin(), lse_.end(), -std::numeric_limits<double>::infinity());
    at::Tensor logits;
    for (const Range columns : columns_) {
      logits = product(x, columns);
      kernels::fused_kernels().log_sum_exp(
          {.logits = view_of(logits, rows, columns), .lse = lse_.data(), .picked = picked_.data()});
    }
    double loss = 0;
    const int64_t* labels = labels_.const_data_ptr<int64_t>() + rows.begin;
    for (size_t i = 0; i < static_cast<size_t>(rows.size()); ++i) {
      if (labels[i] >= 0) loss += lse_[i] - picked_[i];
    }
    if (train_) add_gradients(rows, x, logits);
    return loss;
  }

  void add_gradients(Range rows, const at::Tensor& x, at::Tensor logits) {
    const at::Tensor dx = first_rows(dproduct_, rows.size());
    for (const Range columns : columns_) {
      if (columns_.size() > 1) logits = product(x, columns);
      const at::Tensor d = matrix_.scalar_type() == logits.scalar_type()
                               ? logits
                               : at::empty(logits.sizes(), logits.options().dtype(matrix_.scalar_type()));
      kernels::fused_kernels().cross_entropy_backward(
          {.logits = view_of(logits, rows, columns), .d = rows_of(d), .lse = lse_.data(), .scale = scale_});
      const at::Tensor part = matrix_.narrow(0, columns.begin, columns.size());
      if (columns.begin == 0) {
        multiply(dx, d, part);
      } else {
        dx.addmm_(d, part);
      }
      add_transposed_product(d_weight_.narrow(0, columns.begin, columns.size()), d, x);
    }
    d_hidden_.narrow(0, rows.begin, rows.size()).copy_(dx);
  }

  at::Tensor product(const at::Tensor& x, Range columns) {
    const at::Tensor to = logits_.narrow(0, 0, x.size(0) * columns.size()).view({x.size(0), columns.size()});
    const at::Tensor part = matrix_.narrow(0, columns.begin, columns.size()).t();
    if (to.scalar_type() == x.scalar_type()) {
      multiply(to, x, part);
    } else {
      to.copy_(at::mm(x, part));
    }
    return to;
  }

  kernels::Logits view_of(const at::Tensor& logits, Range rows, Range columns) const {
    return {.values = const_rows_of(logits),
            .labels = labels_.const_data_ptr<int64_t>() + rows.begin,
            .first = columns.begin,
            .rows = rows.size(),
            .columns = columns.size()};
  }

  const at::Tensor hidden_, labels_;
  const double scale_;
  const bool train_;
  const LogitsTile tile_;
  const at::Tensor matrix_;  // the weight as products take it
  const std::vector<Range> columns_;
  const at::Tensor logits_, converted_, dproduct_;  // scratch
  std::vector<double> lse_, picked_;                // of the rows under way
  at::Tensor d_hidden_, d_weight_;
};

struct CrossEntropyNode : Function<CrossEntropyNode> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                            const at::Tensor& labels, double scale, int64_t most_logits, at::ScalarType operands,
                            bool train) {
    CrossEntropy work(hidden, weight, labels.contiguous(), scale, most_logits, operands, train);
    const at::Tensor loss = at::empty({}, weight.options()).fill_(work.run());
    if (train) {
      ctx->saved_data["d_hidden"] = work.d_hidden();
      ctx->saved_data["d_weight"] = work.d_weight();
    }
    return loss;
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
    return {d_hidden, d_weight, {}, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  WEFT_CHECK(x.dim() == 2 && weight.scalar_type() == wide(x.scalar_type()));
  return RmsNormNode::apply(x.contiguous(), weight, eps);
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight, at::ScalarType operands) {
  return at::linear(x.to(operands), weight.to(operands)).to(weight.scalar_type());
}

at::Tensor rotary_frequencies(const ModelConfig& config) {
  const at::Tensor even = at::arange(0, config.rotary_dim(), 2, at::kLong).to(at::kFloat);
  const at::Tensor plain = at::pow(config.rope_theta, even.div(static_cast<double>(config.rotary_dim()))).reciprocal();
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
  const at::Tensor angles = positions.to(frequencies.scalar_type()).unsqueeze(1).mul(frequencies);
  return {angles.cos().to(type), angles.sin().to(type)};
}

at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, double scale,
                             int64_t most_logits, Operands operands) {
  WEFT_CHECK(weight.scalar_type() == wide(hidden.scalar_type()) && most_logits > 0);
  const int64_t largest = labels.numel() == 0 ? -1 : labels.max().item<int64_t>();
  if (largest >= weight.size(0)) {
    throw Error(ErrorCode::usage, "a label is " + std::to_string(largest) + "; the vocabulary has " +
                                      std::to_string(weight.size(0)) + " tokens");
  }
  const bool train = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return CrossEntropyNode::apply(hidden.contiguous(), weight, labels, scale, most_logits,
                                 operands.value_or(operands_for(hidden.scalar_type())), train);
}

}  // namespace weft
