#include "weft/ops/convolution_op.h"

#include <string>

#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

int64_t width_of(const at::Tensor& weight) { return weight.defined() ? weight.size(1) : 2; }

void require_operands(const AttentionPlan& plan, const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias) {
  const std::string who = weight.defined() ? "weft.short_convolution: " : "weft.token_shift: ";
  const auto refuse = [&](const std::string& text) { throw Error(ErrorCode::usage, who + text); };
  if (!dtype_of(x.scalar_type())) {
    refuse(std::string("x is of ") + toString(x.scalar_type()) +
           "; allowed are float64, float32, bfloat16 and float16");
  }
  if (!x.device().is_cpu()) {
    refuse("x is on " + x.device().str() + "; convolutions are computed in main memory only: give tensors on the CPU");
  }
  if (x.dim() != 3 || x.size(0) < 1 || x.size(1) != plan.local_tokens()) {
    refuse("x is " + text_of(x.sizes()) + "; this rank's part of the plan is [batch, " +
           std::to_string(plan.local_tokens()) + ", channels]; shard it with plan.shard");
  }
  if (weight.defined() && (weight.dim() != 2 || weight.size(0) != x.size(2) || weight.size(1) < 1)) {
    refuse("weight is " + text_of(weight.sizes()) + "; for this x it is [" + std::to_string(x.size(2)) + ", width]");
  }
  if (bias.defined() && (bias.dim() != 1 || bias.size(0) != x.size(2))) {
    refuse("bias is " + text_of(bias.sizes()) + "; for this x it is [" + std::to_string(x.size(2)) + "]");
  }
}

// A batch is folded into the channels: [batch, tokens, channels] as rows of [batch * channels].
at::Tensor rows_of_batch(const at::Tensor& t) { return t.transpose(0, 1).reshape({t.size(1), t.size(0) * t.size(2)}); }
at::Tensor batch_of_rows(const at::Tensor& rows, int64_t batch) {
  return rows.view({rows.size(0), batch, rows.size(1) / batch}).transpose(0, 1);
}
at::Tensor for_batch(const at::Tensor& parameter, int64_t batch) {
  if (!parameter.defined() || batch == 1) return parameter;
  return parameter.unsqueeze(0).expand({batch, -1, -1}).reshape({-1, parameter.size(-1)});
}
at::Tensor over_batch(const at::Tensor& gradient, int64_t batch) {
  if (!gradient.defined() || batch == 1) return gradient;
  return gradient.view({batch, gradient.size(0) / batch, -1}).sum(0);
}

}  // namespace

Convolved convolve(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& x, const at::Tensor& weight,
                   const at::Tensor& bias) {
  plan->endpoint().begin_call();
  HaloExchange* halo = nullptr;
  try {
    require_operands(*plan, x, weight, bias);
    halo = &plan->halo_exchange(width_of(weight), *dtype_of(x.scalar_type()), x.size(0) * x.size(2));
  } catch (const Error& error) {
    plan->endpoint().refuse_call(error.what());
    throw;
  }
  const int64_t batch = x.size(0);
  const at::Tensor biases = bias.defined() ? for_batch(bias.unsqueeze(1), batch).squeeze(1) : bias;
  const Convolved done = convolve(rows_of_batch(x), for_batch(weight, batch), biases, *halo);
  return {batch_of_rows(done.out, batch), done.halo};
}

ConvolutionGradients convolve_backward(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& dout,
                                       const at::Tensor& x, const at::Tensor& rows_of_halo, const at::Tensor& weight) {
  const int64_t batch = x.size(0);
  const HaloExchange& halo = plan->halo_exchange(width_of(weight), *dtype_of(x.scalar_type()), batch * x.size(2));
  const ConvolutionGradients all =
      convolve_backward(rows_of_batch(dout), rows_of_batch(x), rows_of_halo, for_batch(weight, batch), halo);
  const at::Tensor bias = all.bias.defined() ? over_batch(all.bias.unsqueeze(1), batch).squeeze(1) : at::Tensor();
  return {batch_of_rows(all.x, batch), over_batch(all.weight, batch), bias};
}

}  // namespace weft
