// Attention with what the fused blocks (blocks.h) lack, in torch operators: heads that are rotated in part, normalised queries and keys,
// gates. What stands where attention_inputs, attention and attention_output stand in others.
//
//   at::Tensor y = attention_block(x, norm, weights, cos, sin, shape, eps, attention);    // y = x + its result
//
// q, k and v are products of rms_norm(x); queries and keys are normalised by head where there are norms for them, and the first columns
// of each, as many as cos and sin are for, rotated. Where qkv has a gate for each query, attention's result is multiplied by its
// sigmoid. So Qwen3.5 has it, and Bamba without norms and gates.
#pragma once

#include <ATen/core/Tensor.h>

#include "weft/model/attention.h"
#include "weft/model/blocks.h"

namespace weft {

// All of the wide type; norms as they multiply.
struct AttentionBlockWeights {
  at::Tensor qkv;  // [.., hidden]: q of each head, with gates each followed by its head_dim rows of them; k; v
  at::Tensor q_norm, k_norm;  // [head_dim], or undefined
  at::Tensor o;               // [hidden, heads * head_dim]
};

// cos and sin [tokens, rotated columns / 2] of the wide type.
at::Tensor attention_block(const at::Tensor& x, const at::Tensor& norm, const AttentionBlockWeights& weights,
                           const at::Tensor& cos, const at::Tensor& sin, const HeadShape& shape, double eps,
                           const AttentionFunction& attention, at::ScalarType operands);

}  // namespace weft
