// Attention as a model sees it: a function of this rank's rows that hides which method, how many
// ranks and which documents there are.
//
//   AttentionFunction attention = dense_attention({1000, 3096});   // one rank, two documents
//   at::Tensor out = attention(q, k, v);                           // differentiable
//
// Sequence-parallel implementations have the same type (see weft/train/sequence_plan.h).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "weft/torch/attention.h"

namespace weft {

// Causal attention within each document for this rank's rows of one packed sequence, scaled by
// 1/sqrt(head_dim).
//   q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads, head_dim]
// tokens may be 0. q, k, v have the compute type (fp32 or bf16) and may be strided views. Called once
// a layer, in the same order on all ranks, and differentiable: its backward runs in the thread that
// called backward(). With grad mode off (at::NoGradGuard) only the forward pass may happen.
using AttentionFunction = std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

// A linear layer (docs/linear.md) within each document, of the same rows: [tokens, heads, key dim] and [.., value dim] of the compute
// type, gates in fp32 (fp64 for fp64) -> [tokens, heads, value dim]. Documents begin with a state of zero. Called as the other, in
// the layers that are linear.
using LinearFunction = std::function<at::Tensor(const LinearInputs& inputs)>;

// A short causal convolution within each document, of the same rows (weft/torch/short_convolution.h): x [tokens, channels], weight
// [channels, width], bias [channels] or undefined -> [tokens, channels]. Called as the others, in linear layers that have one.
using ConvolutionFunction =
    std::function<at::Tensor(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias)>;

// The plain one-rank implementation of torch operators: the reference for tests, with memory for
// all scores of a document at once.
AttentionFunction dense_attention(std::vector<int64_t> document_lengths);

}  // namespace weft
