// The recurrence of a linear layer, token by token on one processor: the reference that checks compare with.
//
// No chunks, no runs, no ranks, no schedule: R_t = decay_t R_{t-1} + k_t v_t^T, out_t = scale R_t^T q_t as docs/linear.md
// states them, and the chain rule backwards over the same steps. For any decay, with one document or packed ones.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/stop.h"
#include "weft/schedule/problem.h"

namespace weft {

// Row-major [tokens, heads, columns] in global token order. g may be empty where the layer has no gates, dout for forward
// only.
struct RecurrenceInputs {
  std::vector<double> q, k, v, g, dout;
};

struct DenseRecurrence {
  std::vector<double> out;
  std::vector<double> dq, dk, dv, dg;  // empty without dout; dg without gates too
};

// fp64, or fp32 for the sums and states of a lower precision. A fp32 run tells what the precision costs by itself.
DenseRecurrence dense_recurrence(const Problem& problem, const RecurrenceInputs& inputs, DType precision,
                                 const StopFlag* stop = nullptr);

}  // namespace weft
