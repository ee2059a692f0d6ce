// Short convolution and token shift over a plan on torch tensors: what the operators do.
#pragma once

#include <memory>

#include "weft/ops/attention_plan.h"
#include "weft/torch/short_convolution.h"

namespace weft {

// x [batch, local tokens, channels], weight [channels, width] or undefined for token shift, bias [channels] or undefined; any
// strides, on the CPU. `out` is as x; `halo` is what backward takes. Throws Error(usage) for others.
Convolved convolve(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& x, const at::Tensor& weight,
                   const at::Tensor& bias);
ConvolutionGradients convolve_backward(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& dout,
                                       const at::Tensor& x, const at::Tensor& halo, const at::Tensor& weight);

}  // namespace weft
