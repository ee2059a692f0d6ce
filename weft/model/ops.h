// The model's operations outside of its layers; all differentiable.
//
//   at::Tensor y = rms_norm(x, weight, 1e-5);
//   auto [cos, sin] = rotary_tables(positions, rotary_frequencies(config), at::kFloat);
//   at::Tensor loss = cross_entropy_sum(hidden, output_weight, labels, scale);
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "weft/model/blocks.h"
#include "weft/model/config.h"

namespace weft {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension of x [rows, columns], computed in fp32 (fp64 for fp64).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// x weight^T, operands rounded to that type, on in the type of the weight.
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, at::ScalarType operands);

// One angle per position unit for each pair of a head's rotated columns: [rotary_dim / 2], scaled as the config says.
// Computed in fp32 step by step as transformers does: at large positions other roundings of the
// angle would be another model.
at::Tensor rotary_frequencies(const ModelConfig& config);

// cos and sin of position * frequency: two [tokens, head_dim / 2] of type `type`.
std::pair<at::Tensor, at::Tensor> rotary_tables(const at::Tensor& positions, const at::Tensor& frequencies,
                                                at::ScalarType type);

inline constexpr int64_t kMostLogits = int64_t{1} << 22;

// scale * sum over rows with label != -100 of -log softmax(hidden weight^T)[label], as one number in
// fp32 (fp64 if hidden is). Holds at most `most_logits` logits at a time: of some rows, and, where the vocabulary is too
// large for that, of a part of the vocabulary, whose logits are then computed twice. Gradients are formed on the way.
//   hidden [tokens, hidden], weight [vocab, hidden] of the wide type, labels int64 [tokens]
// Throws Error(usage) for a label beyond the vocabulary.
at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, double scale,
                             int64_t most_logits = kMostLogits, Operands operands = {});

}  // namespace weft
