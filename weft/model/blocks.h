// The parts of a transformer layer on both sides of attention, each one differentiable operation.
//
//   auto [q, k, v, residual] = attention_inputs(x, norm, qkv, cos, sin, shape);
//   at::Tensor y = attention_output(residual, attention(q, k, v), o);
//   at::Tensor z = mlp(y, post_norm, gate_up, down, eps);
//
// Each works through the rows in chunks: norm, matrix product and what follows it pass a chunk on in the cache, and only
// what backward needs is written to memory. Kept for backward: x, q, k, v, attention's result, y, and gate and up. Weights
// are of the wide type (fp32, or fp64 for fp64), activations of any type; products as operands_for says unless `operands`
// is given. Sums are formed in the wide type, or, with bf16 operands, by the bf16 product.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace weft {

struct HeadShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

using Operands = std::optional<at::ScalarType>;

struct AttentionInputs {
  at::Tensor q;         // [tokens, heads, head_dim], rotated
  at::Tensor k, v;      // [tokens, kv heads, head_dim], k rotated
  at::Tensor residual;  // x; its gradient is added where x's is formed
};

// rms_norm(x) qkv^T, cut into heads and rotated. qkv [(heads + 2 kv heads) * head_dim, hidden]: the three matrices one below
// the other. cos and sin [tokens, head_dim / 2] of the wide type.
AttentionInputs attention_inputs(const at::Tensor& x, const at::Tensor& norm, const at::Tensor& qkv,
                                 const at::Tensor& cos, const at::Tensor& sin, const HeadShape& shape, double eps,
                                 Operands operands = {});

// residual + attended o^T. attended [tokens, heads, head_dim], o [hidden, heads * head_dim].
at::Tensor attention_output(const at::Tensor& residual, const at::Tensor& attended, const at::Tensor& o,
                            Operands operands = {});

// x + (silu(gate) * up) down^T of n = rms_norm(x), gate and up = n gate_up^T. gate_up [2 * intermediate, hidden], down
// [hidden, intermediate].
at::Tensor mlp(const at::Tensor& x, const at::Tensor& norm, const at::Tensor& gate_up, const at::Tensor& down,
               double eps, Operands operands = {});

}  // namespace weft
