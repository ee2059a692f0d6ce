// Attention over a schedule as a differentiable torch operation.
//
//   auto executor = std::make_shared<Executor>(schedule, rank, endpoint, cpu_kernels(), pool);
//   at::Tensor out = attention(q, k, v, executor);          // on every rank's thread
//   loss.backward();                                        // runs the schedule's second phase
//
// Saved for backward are q, k, v, out and lse of the rank's own tokens, and what the schedule itself keeps (a held
// key-value block of a ring, the exchanged heads of Ulysses: RankReport::saved_bytes).
#pragma once

#include <memory>

#include "weft/execute/executor.h"

namespace at {
class Tensor;
}

namespace weft {

// q [tokens, heads, dim], k [tokens, kv heads, dim], v [tokens, kv heads, dim_v], the rank's own rows in local order
// and in the problem's element type, on the CPU; views are fine. Returns [tokens, heads, dim_v] of the same type.
//
// Every rank must call it, and call backward, equally often and in the same order, ranks without tokens too. With grad
// mode off, or when nothing requires a gradient, only the forward phase runs. Throws Error(usage) for tensors of another
// shape or type than the problem's, and what the execution throws.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::shared_ptr<Executor>& executor);

}  // namespace weft
