// Attention, or a linear layer, of a plan on torch tensors: what the operators do.
#pragma once

#include <memory>
#include <optional>

#include "weft/ops/attention_plan.h"
#include "weft/torch/field_tensors.h"

namespace weft {

struct CallOptions {
  double scale = 0;          // 0: the layer's own
  bool lse = false;          // of attention
  bool final_state = false;  // of a linear layer; and the states after these tokens
  std::vector<int64_t> state_positions = {};
  // A backward may follow; then the messages of forward, too, are those of a schedule with backward, so all ranks give the same.
  bool keep = false;
};
struct CallResult {
  // out [batch, local tokens, heads, dim_v], of q's type; lse [batch, local tokens, heads], final_state [batch, states asked
  // for here, heads, dim, dim_v], both fp32 (fp64 for fp64).
  FieldTensors results;
  at::Tensor run;  // run_board.h
};

// q [batch, local tokens, heads, dim], k [batch, local tokens, kv heads, dim], v [..., dim_v], and what else the layer has: g
// [..., 1 or dim], beta [..., 1], a and b [..., dim], u [heads, dim], initial_state [batch, documents that begin here, heads, dim,
// dim_v]; in any strides. Throws Error(usage) for others than the plan's.
CallResult attend(const std::shared_ptr<AttentionPlan>& plan, const FieldTensors& given, const CallOptions& options);

// The gradients of all that was given. `tensors`: what attend was given, what backward reads of its results, dout, and
// dfinal_state where there is one. A run that is not there any more is run again, on all ranks alike.
FieldTensors attend_backward(const std::shared_ptr<AttentionPlan>& plan, const FieldTensors& tensors,
                             const std::optional<at::Tensor>& dlse, const at::Tensor& run, const CallOptions& options);

}  // namespace weft
