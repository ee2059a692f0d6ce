// Attention of packed pieces by torch's operators: every piece is allowed altogether, or a square causal triangle. Private
// to this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "weft/base/stop.h"

namespace weft::torch_internal {

// Piece i has queries [q_ends[i-1], q_ends[i]) and keys [k_ends[i-1], k_ends[i]).
struct PackedCall {
  at::Tensor q;  // [queries, heads, dim]
  at::Tensor k;  // [keys, kv heads, dim]; query head h reads kv head h / (heads / kv heads)
  at::Tensor v;  // [keys, kv heads, dim_v]
  std::vector<int64_t> q_ends, k_ends;
  bool causal = false;  // then the pieces are squares
  double scale = 1;
  const StopFlag* stop = nullptr;

  int64_t group() const { return q.size(1) / k.size(1); }
};
struct PackedResult {
  at::Tensor out;  // [queries, heads, dim_v], accumulator or element type
  at::Tensor lse;  // [queries, heads], accumulator type, natural logarithm
};
struct PackedGradients {
  at::Tensor q, k, v;  // as the inputs, accumulator or element type
};

class BlockAttention {
 public:
  virtual ~BlockAttention() = default;
  virtual PackedResult forward(const PackedCall& call) const = 0;
  // By lse and delta of whole rows, [queries, heads] in the accumulator's type. Rows with lse = -inf give nothing.
  virtual PackedGradients backward(const PackedCall& call, const at::Tensor& dout, const at::Tensor& lse,
                                   const at::Tensor& delta) const = 0;
};

// Matrix products in the accumulator's type. Any type, shape and device.
const BlockAttention& dense_attention_blocks();
// _flash_attention_forward and _backward in their form for packed sequences: 16-bit types on a GPU.
const BlockAttention& flash_gpu_blocks();
// The fused operator for main memory, piece by piece: what stands for the above in tests, and rounds what that rounds: for
// 16-bit inputs out, the out of delta, and gradients are 16 bits. It is called in fp32 for them, since by itself its lse is off
// by 6e-5 there (measured, torch 2.13), and its gradients are sums that were rounded to the input's type block by block.
const BlockAttention& flash_cpu_blocks();

// The fused operators want the rows' out instead of delta = sum of dout * out: an out that gives this delta, and a dout with
// which there is one. They differ from the given ones only where a row's delta is not of its dout's size, as when only
// lse has a gradient, and then by less than `least` x delta in one column.
struct DoutAndOut {
  at::Tensor dout, out;  // accumulator type
};
DoutAndOut out_of_delta(const at::Tensor& dout, const at::Tensor& delta, double least);

}  // namespace weft::torch_internal
