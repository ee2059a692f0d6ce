#include "weft/model/blocks.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "weft/base/error.h"
#include "weft/model/rows.h"

namespace weft {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor zeros_like_weight(const at::Tensor& weight) { return at::zeros(weight.sizes(), weight.options()); }

// RMSNorm of some rows of x, forward and backward.
struct Norm {
  at::Tensor x, weight, inverse;
  double eps;

  void forward(Range rows, const at::Tensor& to) const {
    kernels::fused_kernels().rms_norm({.y = rows_of(to),
                                       .inverse = rows_of(inverse, rows.begin).data,
                                       .x = const_rows_of(x, rows.begin),
                                       .weight = weight.const_data_ptr(),
                                       .eps = eps,
                                       .rows = rows.size(),
                                       .columns = x.size(1)});
  }
  void backward(Range rows, const at::Tensor& dy, const at::Tensor& residual, const at::Tensor& dx,
                const at::Tensor& dweight) const {
    kernels::fused_kernels().rms_norm_backward({.dx = rows_of(dx, rows.begin),
                                                .dweight = dweight.data_ptr(),
                                                .dy = const_rows_of(dy),
                                                .x = const_rows_of(x, rows.begin),
                                                .residual = const_rows_of(residual, rows.begin),
                                                .inverse = const_rows_of(inverse, rows.begin).data,
                                                .weight = weight.const_data_ptr(),
                                                .rows = rows.size(),
                                                .columns = x.size(1)});
  }
};

at::Tensor inverses_of(const at::Tensor& x) { return at::empty({x.size(0)}, x.options().dtype(wide(x.scalar_type()))); }

// Columns of the product with qkv that one of q, k, v takes, and back.
struct HeadColumns {
  int64_t begin, heads, dim;

  kernels::Rotate rotation(const at::Tensor& cos, const at::Tensor& sin, Range rows) const {
    return {.to = {},
            .from = {},
            .to_head = dim,
            .from_head = dim,
            .cos = const_rows_of(cos, rows.begin),
            .sin = const_rows_of(sin, rows.begin),
            .backward = false,
            .rows = rows.size(),
            .heads = heads,
            .dim = dim};
  }
  void rotate(const at::Tensor& product, const at::Tensor& cos, const at::Tensor& sin, Range rows,
              const at::Tensor& to) const {
    kernels::Rotate args = rotation(cos, sin, rows);
    args.to = rows_of(to, rows.begin);
    args.from = const_rows_of(product, 0, begin);
    kernels::fused_kernels().rotate(args);
  }
  void rotate_back(const at::Tensor& from, const at::Tensor& cos, const at::Tensor& sin, Range rows,
                   const at::Tensor& product) const {
    kernels::Rotate args = rotation(cos, sin, rows);
    args.to = rows_of(product, 0, begin);
    args.from = const_rows_of(from, rows.begin);
    args.backward = true;
    kernels::fused_kernels().rotate(args);
  }
  at::Tensor of(const at::Tensor& product) const {
    return product.narrow(1, begin, heads * dim).view({product.size(0), heads, dim});
  }
};

struct QkvColumns {
  HeadColumns q, k, v;
  explicit QkvColumns(const HeadShape& s)
      : q{0, s.heads, s.head_dim},
        k{s.heads * s.head_dim, s.kv_heads, s.head_dim},
        v{(s.heads + s.kv_heads) * s.head_dim, s.kv_heads, s.head_dim} {}
};

struct AttentionInputsNode : Function<AttentionInputsNode> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin,
                               const HeadShape& shape, double eps, at::ScalarType operands) {
    const Norm norm{x, weight, inverses_of(x), eps};
    const QkvColumns columns(shape);
    const int64_t tokens = x.size(0);
    const auto result = [&](int64_t heads) { return at::empty({tokens, heads, shape.head_dim}, x.options()); };
    const at::Tensor q = result(shape.heads), k = result(shape.kv_heads), v = result(shape.kv_heads);
    const at::Tensor matrix = qkv.to(operands).t();
    const at::Tensor normed = scratch_rows(tokens, x.size(1), operands);
    const at::Tensor product = scratch_rows(tokens, qkv.size(0), operands);
    for (const Range rows : chunks_of(tokens)) {
      const at::Tensor h = first_rows(normed, rows.size()), p = first_rows(product, rows.size());
      norm.forward(rows, h);
      multiply(p, h, matrix);
      columns.q.rotate(p, cos, sin, rows, q);
      columns.k.rotate(p, cos, sin, rows, k);
      v.narrow(0, rows.begin, rows.size()).copy_(columns.v.of(p));
    }
    ctx->save_for_backward({x, weight, qkv, cos, sin, norm.inverse});
    ctx->saved_data["heads"] = shape.heads;
    ctx->saved_data["kv_heads"] = shape.kv_heads;
    ctx->saved_data["head_dim"] = shape.head_dim;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["operands"] = operands;
    return {q, k, v, x};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &qkv = saved[2], &cos = saved[3], &sin = saved[4];
    const Norm norm{x, weight, saved[5], ctx->saved_data["eps"].toDouble()};
    const QkvColumns columns({.heads = ctx->saved_data["heads"].toInt(),
                              .kv_heads = ctx->saved_data["kv_heads"].toInt(),
                              .head_dim = ctx->saved_data["head_dim"].toInt()});
    const at::ScalarType operands = ctx->saved_data["operands"].toScalarType();
    const at::Tensor dq = grads[0].contiguous(), dk = grads[1].contiguous(), dv = grads[2].contiguous(),
                     residual = grads[3].contiguous();
    const int64_t tokens = x.size(0);
    const at::Tensor dx = at::empty_like(x), dweight = zeros_like_weight(weight), dqkv = zeros_like_weight(qkv);
    const at::Tensor matrix = qkv.to(operands);
    const at::Tensor normed = scratch_rows(tokens, x.size(1), operands), dnormed = at::empty_like(normed);
    const at::Tensor dproduct = scratch_rows(tokens, qkv.size(0), operands);
    for (const Range rows : chunks_of(tokens)) {
      const at::Tensor h = first_rows(normed, rows.size()), dh = first_rows(dnormed, rows.size()),
                       dp = first_rows(dproduct, rows.size());
      columns.q.rotate_back(dq, cos, sin, rows, dp);
      columns.k.rotate_back(dk, cos, sin, rows, dp);
      columns.v.of(dp).copy_(dv.narrow(0, rows.begin, rows.size()));
      norm.forward(rows, h);
      add_transposed_product(dqkv, dp, h);
      multiply(dh, dp, matrix);
      norm.backward(rows, dh, residual, dx, dweight);
    }
    return {dx, dweight, dqkv, {}, {}, {}, {}, {}};
  }
};

struct AttentionOutputNode : Function<AttentionOutputNode> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& residual, const at::Tensor& attended,
                            const at::Tensor& o, at::ScalarType operands) {
    const int64_t tokens = residual.size(0);
    const at::Tensor joined = attended.reshape({tokens, o.size(1)});
    const at::Tensor out = at::empty_like(residual), matrix = o.to(operands).t();
    const at::Tensor product = scratch_rows(tokens, o.size(0), operands);
    const at::Tensor converted = scratch_rows(tokens, o.size(1), operands);
    for (const Range rows : chunks_of(tokens)) {
      const at::Tensor p = first_rows(product, rows.size());
      multiply(p, as_operand(joined, rows, converted), matrix);
      kernels::fused_kernels().add({.out = rows_of(out, rows.begin),
                                    .a = const_rows_of(residual, rows.begin),
                                    .b = const_rows_of(p),
                                    .rows = rows.size(),
                                    .columns = out.size(1)});
    }
    ctx->save_for_backward({joined, o});
    ctx->saved_data["heads"] = attended.size(1);
    ctx->saved_data["operands"] = operands;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &joined = saved[0], &o = saved[1], dout = grads[0].contiguous();
    const at::ScalarType operands = ctx->saved_data["operands"].toScalarType();
    const int64_t tokens = dout.size(0), heads = ctx->saved_data["heads"].toInt();
    const at::Tensor djoined = at::empty_like(joined), d_o = zeros_like_weight(o), matrix = o.to(operands);
    const bool same = joined.scalar_type() == operands;
    const at::Tensor product = scratch_rows(same ? 0 : tokens, o.size(1), operands);
    const at::Tensor converted = scratch_rows(tokens, o.size(1), operands);
    const at::Tensor dconverted = scratch_rows(tokens, o.size(0), operands);
    for (const Range rows : chunks_of(tokens)) {
      const at::Tensor d = as_operand(dout, rows, dconverted);
      add_transposed_product(d_o, d, as_operand(joined, rows, converted));
      const at::Tensor to = djoined.narrow(0, rows.begin, rows.size());
      const at::Tensor p = same ? to : first_rows(product, rows.size());
      multiply(p, d, matrix);
      if (!same) to.copy_(p);
    }
    return {dout, djoined.view({tokens, heads, o.size(1) / heads}), d_o, {}};
  }
};

struct MlpNode : Function<MlpNode> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& gate_up, const at::Tensor& down, double eps, at::ScalarType operands,
                            bool train) {
    const Norm norm{x, weight, inverses_of(x), eps};
    const int64_t tokens = x.size(0), inner = down.size(1);
    const bool same = x.scalar_type() == operands;
    const at::Tensor out = at::empty_like(x);
    const at::Tensor kept = at::empty({train ? tokens : 0, 2 * inner}, x.options());
    const at::Tensor in_matrix = gate_up.to(operands).t(), out_matrix = down.to(operands).t();
    const at::Tensor normed = scratch_rows(tokens, x.size(1), operands);
    const at::Tensor product = scratch_rows(train && same ? 0 : tokens, 2 * inner, operands);
    const at::Tensor activated = scratch_rows(tokens, inner, operands);
    const at::Tensor sum = scratch_rows(tokens, x.size(1), operands);
    for (const Range rows : chunks_of(tokens)) {
      const at::Tensor h = first_rows(normed, rows.size()), act = first_rows(activated, rows.size()),
                       s = first_rows(sum, rows.size());
      const at::Tensor keep = train ? kept.narrow(0, rows.begin, rows.size()) : at::Tensor();
      const at::Tensor p = train && same ? keep : first_rows(product, rows.size());
      norm.forward(rows, h);
      multiply(p, h, in_matrix);
      if (train && !same) keep.copy_(p);
      kernels::fused_kernels().swiglu({.out = rows_of(act),
                                       .gate = const_rows_of(p),
                                       .up = const_rows_of(p, 0, inner),
                                       .rows = rows.size(),
                                       .columns = inner});
      multiply(s, act, out_matrix);
      kernels::fused_kernels().add({.out = rows_of(out, rows.begin),
                                    .a = const_rows_of(x, rows.begin),
                                    .b = const_rows_of(s),
                                    .rows = rows.size(),
                                    .columns = x.size(1)});
    }
    ctx->save_for_backward({x, weight, gate_up, down, norm.inverse, kept});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["operands"] = operands;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &gate_up = saved[2], &down = saved[3], &kept = saved[5];
    const Norm norm{x, weight, saved[4], ctx->saved_data["eps"].toDouble()};
    const at::ScalarType operands = ctx->saved_data["operands"].toScalarType();
    const int64_t tokens = x.size(0), inner = down.size(1);
    const at::Tensor dout = grads[0].contiguous(), dx = at::empty_like(x), dweight = zeros_like_weight(weight),
                     dgate_up = zeros_like_weight(gate_up), ddown = zeros_like_weight(down);
    const at::Tensor in_matrix = gate_up.to(operands), out_matrix = down.to(operands);
    const at::Tensor normed = scratch_rows(tokens, x.size(1), operands), dnormed = at::empty_like(normed);
    const at::Tensor converted = scratch_rows(tokens, x.size(1), operands);
    const at::Tensor dactivated = scratch_rows(tokens, inner, operands), activated = at::empty_like(dactivated);
    const at::Tensor dproduct = scratch_rows(tokens, 2 * inner, operands);
    for (const Range rows : chunks_of(tokens)) {
      const int64_t n = rows.size();
      const at::Tensor d = as_operand(dout, rows, converted);
      const at::Tensor dact = first_rows(dactivated, n), act = first_rows(activated, n), dp = first_rows(dproduct, n);
      multiply(dact, d, out_matrix);
      kernels::fused_kernels().swiglu_backward({.dgate = rows_of(dp),
                                                .dup = rows_of(dp, 0, inner),
                                                .out = rows_of(act),
                                                .dout = const_rows_of(dact),
                                                .gate = const_rows_of(kept, rows.begin),
                                                .up = const_rows_of(kept, rows.begin, inner),
                                                .rows = n,
                                                .columns = inner});
      add_transposed_product(ddown, d, act);
      const at::Tensor h = first_rows(normed, n), dh = first_rows(dnormed, n);
      norm.forward(rows, h);
      add_transposed_product(dgate_up, dp, h);
      multiply(dh, dp, in_matrix);
      norm.backward(rows, dh, dout, dx, dweight);
    }
    return {dx, dweight, dgate_up, ddown, {}, {}, {}};
  }
};

void require_weight(const at::Tensor& x, const at::Tensor& weight) {
  WEFT_CHECK(weight.scalar_type() == wide(x.scalar_type()) && weight.is_contiguous());
}

}  // namespace

AttentionInputs attention_inputs(const at::Tensor& x, const at::Tensor& norm, const at::Tensor& qkv,
                                 const at::Tensor& cos, const at::Tensor& sin, const HeadShape& shape, double eps,
                                 Operands operands) {
  require_weight(x, norm);
  require_weight(x, qkv);
  WEFT_CHECK(qkv.size(0) == (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
  const variable_list out =
      AttentionInputsNode::apply(x, norm, qkv, cos, sin, shape, eps, operands.value_or(operands_for(x.scalar_type())));
  return {out[0], out[1], out[2], out[3]};
}

at::Tensor attention_output(const at::Tensor& residual, const at::Tensor& attended, const at::Tensor& o,
                            Operands operands) {
  require_weight(residual, o);
  return AttentionOutputNode::apply(residual, attended, o, operands.value_or(operands_for(residual.scalar_type())));
}

at::Tensor mlp(const at::Tensor& x, const at::Tensor& norm, const at::Tensor& gate_up, const at::Tensor& down,
               double eps, Operands operands) {
  require_weight(x, norm);
  require_weight(x, gate_up);
  require_weight(x, down);
  return MlpNode::apply(x, norm, gate_up, down, eps, operands.value_or(operands_for(x.scalar_type())),
                        at::GradMode::is_enabled());
}

}  // namespace weft
