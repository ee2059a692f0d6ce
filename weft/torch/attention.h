// Attention, or a linear layer, over a schedule as a differentiable torch operation.
//
//   auto executor = std::make_shared<Executor>(schedule, rank, endpoint, cpu_kernels(), pool);
//   at::Tensor out = attention(q, k, v, executor);          // on every rank's thread
//   loss.backward();                                        // runs the schedule's second phase
//
//   auto [out, final_state] = linear_attention({.q = q, .k = k, .v = v, .g = g, .beta = beta}, executor);
//
// Saved for backward are the rank's own tokens of what its phase reads: q, k, v, out and lse, or the inputs of a linear layer;
// and what the schedule itself keeps (a held key-value block of a ring, the exchanged heads of Ulysses, the state that
// enters: RankReport::saved_bytes).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "weft/execute/executor.h"

namespace weft {

// q [tokens, heads, dim], k [tokens, kv heads, dim], v [tokens, kv heads, dim_v], the rank's own rows in local order
// and in the problem's element type, on the CPU; views are fine. Returns [tokens, heads, dim_v] of the same type.
//
// Every rank must call it, and call backward, equally often and in the same order, ranks without tokens too. With grad
// mode off, or when nothing requires a gradient, only the forward phase runs. Throws Error(usage) for tensors of another
// shape or type than the problem's, and what the execution throws.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::shared_ptr<Executor>& executor);

// Inputs of a linear layer (docs/linear.md), each differentiable; undefined where the layer, or the problem, has none.
struct LinearInputs {
  at::Tensor q, k;  // [tokens, heads, dim], or Problem::key_heads in place of heads
  at::Tensor v;     // [tokens, heads, dim_v]; k, v and beta have Problem::householders times as many columns
  // fp32, or fp64 for fp64: the natural logarithm of the decay, at most 0, [tokens, heads, 1 or dim]; [tokens, heads, 1].
  at::Tensor g = {}, beta = {};
  at::Tensor a = {}, b = {};  // [tokens, heads, dim]
  // fp32 or fp64, too. [heads, dim], the same on all ranks; its gradient is this rank's share, to be summed over the ranks.
  at::Tensor u = {};
  at::Tensor initial_state = {};  // [documents that begin on this rank, heads, dim, dim_v], fp32 or fp64
};
struct LinearResult {
  at::Tensor out;          // [tokens, heads, dim_v]
  at::Tensor final_state;  // [states asked for on this rank, heads, dim, dim_v]; undefined where Problem asks for none
};

// As attention above. Throws Error(usage) for a g above 0, too.
LinearResult linear_attention(const LinearInputs& inputs, const std::shared_ptr<Executor>& executor);

}  // namespace weft
