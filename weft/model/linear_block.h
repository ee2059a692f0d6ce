// A linear layer of a hybrid model: what stands where attention_inputs, attention and attention_output stand in others.
//
//   at::Tensor y = linear_block(x, norm, weights, linear_config, eps, linear);    // y = x + its result
//
// With n = rms_norm(x) and, for each head, q, k, v and z products of n:
//   gdn   q, k, v through silu, q and k then of length 1; g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), a and b
//         products of n with one column for each head
//   gla   g = logsigmoid(gk1 (gk0 n) + bias) / 16, a vector
// out = rms_norm(recurrence) * silu(z) by head, and y = x + out o^T. As in Gated DeltaNet and Qwen3-Next, and in GLA, but without
// their short convolutions and rotary embedding. Rows mix in the recurrence alone.
#pragma once

#include <ATen/core/Tensor.h>

#include "weft/model/attention.h"
#include "weft/model/config.h"

namespace weft {

// All of the wide type.
struct LinearWeights {
  at::Tensor in;              // [input_rows, hidden]: q, k, v, z, then b and a, or gk0
  at::Tensor a_log, dt_bias;  // gdn: [heads]
  at::Tensor gate, bias;      // gla: [heads * key dim, rank], [heads * key dim]
  at::Tensor norm;            // [value dim]
  at::Tensor out;             // [hidden, heads * value dim]
};

at::Tensor linear_block(const at::Tensor& x, const at::Tensor& norm, const LinearWeights& weights,
                        const LinearConfig& config, double eps, const LinearFunction& linear, at::ScalarType operands);

}  // namespace weft
