#include "weft/ops/attention_op.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include "weft/base/error.h"
#include "weft/ops/run_board.h"
#include "weft/torch/types.h"
#include "weft/torch/views.h"

namespace weft {
namespace {

DType element_of(const at::Tensor& t) {
  if (const auto type = dtype_of(t.scalar_type())) return *type;
  throw Error(ErrorCode::usage, std::string("weft.attention: q is of ") + toString(t.scalar_type()) +
                                    "; allowed are float64, float32, bfloat16 and float16");
}

void require(const char* name, const at::Tensor& t, const at::Tensor& q, std::array<int64_t, 4> sizes) {
  if (t.device() != q.device()) {
    throw Error(ErrorCode::usage, std::string("weft.attention: ") + name + " is on " + t.device().str() + " and q on " +
                                      q.device().str() + "; give q, k and v on one device");
  }
  if (t.scalar_type() != q.scalar_type()) {
    throw Error(ErrorCode::usage, std::string("weft.attention: ") + name + " is of " + toString(t.scalar_type()) +
                                      " and q of " + toString(q.scalar_type()) + "; give q, k and v of one type");
  }
  if (t.dim() == 4 && t.sizes() == at::IntArrayRef(sizes)) return;
  const auto text = [](at::IntArrayRef all) {
    std::string list;
    for (int64_t size : all) list += (list.empty() ? "[" : ", ") + std::to_string(size);
    return list + "]";
  };
  throw Error(ErrorCode::usage, std::string("weft.attention: ") + name + " is " + text(t.sizes()) +
                                    "; this rank's part of the plan is " + text(sizes) +
                                    " (batch, local tokens, heads, columns); shard it with plan.shard");
}

// [batch, tokens, heads, columns] as rows of [batch x heads, columns], one for each token; a copy only where needed.
at::Tensor rows_of(const at::Tensor& t) {
  const at::Tensor by_token = t.transpose(0, 1);  // [tokens, batch, heads, columns]
  const int64_t columns = t.size(3), heads = t.size(2);
  const bool whole =
      t.numel() == 0 || ((columns == 1 || by_token.stride(3) == 1) && (heads == 1 || by_token.stride(2) == columns) &&
                         (t.size(0) == 1 || by_token.stride(1) == heads * columns));
  return whole ? by_token : by_token.contiguous();
}

at::Tensor empty_rows(const at::Tensor& like, int64_t heads, int64_t columns) {
  const auto sizes = {like.size(1), like.size(0), heads, columns};
  return at::empty(sizes, like.options().requires_grad(false));
}

CallKind kind_of(const at::Tensor& q, double scale, bool backward, bool lse) {
  return {.element = element_of(q),
          .batch = q.size(0),
          .scale = scale,
          .backward = backward,
          .lse = lse,
          .device = q.device().type(),
          .device_index = q.device().index()};
}

// Throws for tensors that are not of the plan.
Executor& executor_for(AttentionPlan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale,
                       bool lse, bool keep) {
  const PlanSpec& spec = plan.spec();
  const int64_t tokens = plan.local_tokens(), batch = q.dim() == 4 ? q.size(0) : 1;
  require("q", q, q, {batch, tokens, spec.heads, spec.dim});
  require("k", k, q, {batch, tokens, spec.kv_heads, spec.dim});
  require("v", v, q, {batch, tokens, spec.kv_heads, spec.dim_v});
  if (batch == 0) throw Error(ErrorCode::usage, "weft.attention: a batch of 0 sequences; give at least one");
  return plan.executor(kind_of(q, scale, keep, lse));
}

}  // namespace

ForwardTensors attend(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& q, const at::Tensor& k,
                      const at::Tensor& v, double scale, bool lse, bool keep) {
  const c10::OptionalDeviceGuard on_device(q.device());
  plan->endpoint().begin_call();
  Executor* executor = nullptr;
  try {
    executor = &executor_for(*plan, q, k, v, scale, lse, keep);
  } catch (const Error& error) {
    plan->endpoint().refuse_call(error.what());
    throw;
  }
  const int64_t tokens = plan->local_tokens(), batch = q.size(0);
  const PlanSpec& spec = plan->spec();
  const at::Tensor rows_q = rows_of(q), rows_k = rows_of(k), rows_v = rows_of(v);
  const at::Tensor out = empty_rows(q, spec.heads, spec.dim_v);
  const at::Tensor all_lse =
      at::empty({tokens, batch, spec.heads},
                q.options().requires_grad(false).dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  std::unique_ptr<Execution> run = executor->start();
  run->forward({.q = view_of(rows_q), .k = view_of(rows_k), .v = view_of(rows_v)},
               {.out = data_of(out), .lse = data_of(all_lse)});
  return {out.transpose(0, 1), all_lse.transpose(0, 1),
          keep ? pin_run(std::move(run), plan, q.device()) : no_run(q.device())};
}

Gradients attend_backward(const std::shared_ptr<AttentionPlan>& plan, const at::Tensor& dout,
                          const std::optional<at::Tensor>& dlse, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, const ForwardTensors& forward, double scale, bool lse) {
  const c10::OptionalDeviceGuard on_device(q.device());
  std::unique_ptr<Execution> run = take_run(forward.run);
  if (!run) run = take_run(attend(plan, q, k, v, scale, lse, true).run);
  plan->executor(kind_of(q, scale, true, lse));  // its messages are of this kind of call
  const at::Tensor rows_q = rows_of(q), rows_k = rows_of(k), rows_v = rows_of(v), rows_dout = rows_of(dout),
                   rows_out = rows_of(forward.out), rows_lse = rows_of(forward.lse.unsqueeze(3));
  const at::Tensor rows_dlse = dlse ? rows_of(dlse->unsqueeze(3)) : at::Tensor();
  const PlanSpec& spec = plan->spec();
  const at::Tensor dq = empty_rows(q, spec.heads, spec.dim), dk = empty_rows(k, spec.kv_heads, spec.dim),
                   dv = empty_rows(v, spec.kv_heads, spec.dim_v);
  run->backward({.q = view_of(rows_q),
                 .k = view_of(rows_k),
                 .v = view_of(rows_v),
                 .out = view_of(rows_out),
                 .lse = view_of(rows_lse),
                 .dout = view_of(rows_dout),
                 .dlse = dlse ? view_of(rows_dlse) : ConstTensor{}},
                {.dq = data_of(dq), .dk = data_of(dk), .dv = data_of(dv)});
  return {dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1)};
}

}  // namespace weft
