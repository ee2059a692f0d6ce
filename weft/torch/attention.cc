#include "weft/torch/attention.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "weft/base/error.h"
#include "weft/torch/types.h"
#include "weft/torch/views.h"

namespace weft {
namespace {

// Rows of contiguous [heads, columns]; a copy only where the tensor is laid out otherwise.
at::Tensor with_whole_rows(const at::Tensor& t) {
  const bool fine = t.numel() == 0 || (t.stride(2) == 1 && (t.size(1) == 1 || t.stride(1) == t.size(2)));
  return fine ? t : t.contiguous();
}

void require_shape(const char* name, const at::Tensor& t, int64_t tokens, int64_t heads, int64_t columns, DType type) {
  const bool fine = t.dim() == 3 && t.size(0) == tokens && t.size(1) == heads && t.size(2) == columns &&
                    t.scalar_type() == torch_type(type) && t.device().is_cpu();
  if (fine) return;
  std::string sizes;
  for (int64_t size : t.sizes()) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  throw Error(ErrorCode::usage, std::string("attention: ") + name + " is [" + sizes + "] of " +
                                    toString(t.scalar_type()) + "; this rank's plan needs [" + std::to_string(tokens) +
                                    ", " + std::to_string(heads) + ", " + std::to_string(columns) + "] of " +
                                    std::string(name_of(type)) + " on the CPU");
}

// What backward needs besides tensors. The execution must end before its executor.
struct StartedRun : torch::CustomClassHolder {
  std::shared_ptr<Executor> executor;
  std::unique_ptr<Execution> execution;
  ~StartedRun() override { execution.reset(); }
};

struct Forward {
  at::Tensor out, lse;
};

Forward run_forward(Execution& execution, const Problem& problem, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) {
  Forward result;
  result.out = at::empty({q.size(0), problem.heads, problem.dim_v}, q.options().requires_grad(false));
  result.lse =
      at::empty({q.size(0), problem.heads}, q.options().requires_grad(false).dtype(torch_type(problem.accumulator())));
  execution.forward({.q = view_of(q), .k = view_of(k), .v = view_of(v)},
                    {.out = data_of(result.out), .lse = data_of(result.lse)});
  return result;
}

class AttentionNode : public torch::autograd::Function<AttentionNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q_given,
                            const at::Tensor& k_given, const at::Tensor& v_given,
                            const c10::intrusive_ptr<StartedRun>& run) {
    const at::Tensor q = with_whole_rows(q_given), k = with_whole_rows(k_given), v = with_whole_rows(v_given);
    const Forward done = run_forward(*run->execution, run->executor->problem(), q, k, v);
    context->save_for_backward({q, k, v, done.out, done.lse});
    context->saved_data["run"] = c10::IValue::make_capsule(run);
    return done.out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto run = c10::static_intrusive_pointer_cast<StartedRun>(context->saved_data["run"].toCapsule());
    if (!run->execution) throw Error(ErrorCode::usage, "attention: backward runs once; keep no graph for a second one");
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const at::Tensor dout = with_whole_rows(grads[0]);
    const at::Tensor dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
                     dv = at::empty(v.sizes(), v.options());
    run->execution->backward({.q = view_of(q),
                              .k = view_of(k),
                              .v = view_of(v),
                              .out = view_of(out),
                              .lse = view_of(lse),
                              .dout = view_of(dout)},
                             {.dq = data_of(dq), .dk = data_of(dk), .dv = data_of(dv)});
    run->execution.reset();
    return {dq, dk, dv, at::Tensor()};
  }
};

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::shared_ptr<Executor>& executor) {
  const Problem& problem = executor->problem();
  const int64_t queries = problem.query_layout.tokens_of(executor->rank()),
                keys = problem.key_layout.tokens_of(executor->rank());
  require_shape("q", q, queries, problem.heads, problem.dim, problem.element);
  require_shape("k", k, keys, problem.kv_heads, problem.dim, problem.element);
  require_shape("v", v, keys, problem.kv_heads, problem.dim_v, problem.element);
  const bool differentiable =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (!differentiable) {
    const auto execution = executor->start();
    return run_forward(*execution, problem, with_whole_rows(q), with_whole_rows(k), with_whole_rows(v)).out;
  }
  auto run = c10::make_intrusive<StartedRun>();
  run->executor = executor;
  run->execution = executor->start();
  return AttentionNode::apply(q, k, v, run);
}

}  // namespace weft
