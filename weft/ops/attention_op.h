// Attention of a plan on torch tensors: what the operators do once shapes have been checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <tuple>

#include "weft/ops/attention_plan.h"

namespace weft {

struct ForwardTensors {
  at::Tensor out;  // [batch, local tokens, heads, dim_v], of q's type
  at::Tensor lse;  // [batch, local tokens, heads], fp32 (fp64 for fp64), natural logarithm
  at::Tensor run;  // run_board.h
};
struct Gradients {
  at::Tensor q, k, v;
};

// q [batch, local tokens, heads, dim], k [batch, local tokens, kv heads, dim], v [..., dim_v], in any strides, of one type.
// Throws Error(usage) for others than the plan's. With `keep` a backward may follow; then its messages, too, are those of
// a schedule with backward, so all ranks give the same.
ForwardTensors attend(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& q, const at::Tensor& k,
                      const at::Tensor& v, double scale, bool lse, bool keep);

// `forward` as it came from attend. A run that is not there any more is run again, on all ranks alike.
Gradients attend_backward(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& dout,
                          const std::optional<at::Tensor>& dlse, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, const ForwardTensors& forward, double scale, bool lse);

}  // namespace weft
