// Dense attention over whole sequences, forward and backward: what every execution is compared with.
//
// The plainest loops over positions, with nothing in common with schedules, kernels or band
// rectangles over slots: whether a query sees a key is asked of the mask, position by position.
// Time O(tokens^2), memory O(tokens). Heads are shared out over the processor's cores.
//
//   DenseAttention exact = dense_attention(mask, shape, {q, k, v, dout}, DType::fp64);
#pragma once

#include <cstdint>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/stop.h"
#include "weft/mask/mask.h"

namespace weft {

struct DenseShape {
  int64_t heads = 1, kv_heads = 1;
  int64_t dim = 1, dim_v = 1;
  double scale = 1;
};

// Row-major [tokens, heads, columns] in global token order. dout may be empty: forward only.
struct DenseInputs {
  std::vector<double> q, k, v, dout;
};

struct DenseAttention {
  std::vector<double> out, lse;    // rows without an allowed key: 0 and -inf
  std::vector<double> dq, dk, dv;  // empty without dout
};

// With precision fp64 everything is computed in fp64. With a lower one this is the plain
// low-precision attention that error bounds are made of: sums in fp32, and scores, weights, their
// gradients and all results rounded to the precision (lse to fp32).
DenseAttention dense_attention(const Mask& mask, const DenseShape& shape, const DenseInputs& inputs, DType precision,
                               const StopFlag* stop = nullptr);

}  // namespace weft
