// A linear layer of a hybrid model: what stands where attention_inputs, attention and attention_output stand in others.
//
//   at::Tensor y = linear_block(x, norm, weights, linear_config, eps, linear, convolution);    // y = x + its result
//
// With n = rms_norm(x) and, for each head, q, k, v and z products of n; q, k and v, where the config has a short convolution,
// through that and silu:
//   gdn   q, k, v through silu (once), q and k then of length 1; g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), a and b
//         products of n with one column for each head
//   mamba2   x = v, B = k, C = q, dt = softplus(product of n + dt_bias): k = B, v = dt x, g = -exp(A_log) dt, and D x is added to
//         the result, which silu(z) multiplies before a norm of the columns of each group of heads that share B and C
//   gla   g = logsigmoid(gk1 (gk0 n) + bias) / 16, a vector
// out = rms_norm(recurrence) * silu(z) by head (mamba2: as said), and y = x + out o^T. As in Gated DeltaNet, Qwen3-Next and
// Qwen3.5, in Mamba-2 and Bamba, and in GLA. A head of q and k may serve several heads. Rows mix in the convolution and the recurrence alone.
#pragma once

#include <ATen/core/Tensor.h>

#include "weft/model/attention.h"
#include "weft/model/config.h"

namespace weft {

// All of the wide type.
struct LinearWeights {
  at::Tensor in;              // [input_rows, hidden]: q, k, v, z, then b and a, or gk0; mamba2: z, x, B, C, dt
  at::Tensor taps_bias;       // [columns of q, k and v], where there is one
  at::Tensor taps;            // [columns of q, k and v, 1, width], where there is a convolution
  at::Tensor a_log, dt_bias;  // gdn, mamba2: [heads]
  at::Tensor d;               // mamba2: [heads]
  at::Tensor gate, bias;      // gla: [heads * key dim, rank], [heads * key dim]
  at::Tensor norm;            // [value dim]; mamba2: [heads * value dim]
  at::Tensor out;             // [hidden, heads * value dim]
};

at::Tensor linear_block(const at::Tensor& x, const at::Tensor& norm, const LinearWeights& weights,
                        const LinearConfig& config, double eps, const LinearFunction& linear,
                        const ConvolutionFunction& convolution, at::ScalarType operands);

}  // namespace weft
