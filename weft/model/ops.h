// The operators of the model that torch lacks or does with needless memory; all differentiable.
//
//   at::Tensor y = rms_norm(x, weight, 1e-5);
//   auto [cos, sin] = rotary_tables(positions, rotary_frequencies(config), at::kFloat);
//   at::Tensor q = rotate(q_THD, cos, sin);
//   at::Tensor loss = cross_entropy_sum(hidden, output_weight, labels, scale);
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "weft/model/config.h"

namespace weft {

// x weight^T for x [rows, in] and weight [out, in], in x's type whatever the weight's is. Sums are
// formed in fp32 or wider, also where the processor has no fast bf16 products.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight);

// x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in fp32 (fp64 for fp64).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// One angle per position unit for each pair of a head: [head_dim / 2], scaled as the config says.
// Computed in fp32 step by step as transformers does: at large positions other roundings of the
// angle would be another model.
at::Tensor rotary_frequencies(const ModelConfig& config);

// cos and sin of position * frequency: two [tokens, 1, head_dim / 2] of type `type`.
std::pair<at::Tensor, at::Tensor> rotary_tables(const at::Tensor& positions, const at::Tensor& frequencies,
                                                at::ScalarType type);

// Rotates the pairs (i, i + head_dim / 2) of x [tokens, heads, head_dim].
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

// scale * sum over rows with label != -100 of -log softmax(hidden weight^T)[label], as one number in
// fp32 (fp64 if hidden is). Works through the rows in chunks of at most `chunk_logits` logits, and
// computes the gradients on the way, so that no logits are kept.
//   hidden [tokens, hidden], weight [vocab, hidden] of any type, labels int64 [tokens]
at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, double scale,
                             int64_t chunk_logits = int64_t{1} << 20);

}  // namespace weft
