// A change of layout between two plans on torch tensors: what the operator does.
#pragma once

#include <memory>

#include "weft/ops/attention_plan.h"

namespace weft {

// x [local tokens of `from`, columns], any strides, on the CPU; the result is [local tokens of `to`, columns]. Its backward is the
// same with the plans changed over. Throws Error(usage) for others.
at::Tensor relayout(const std::shared_ptr<AttentionPlan>& from, const std::shared_ptr<AttentionPlan>& to,
                    const at::Tensor& x);

}  // namespace weft
