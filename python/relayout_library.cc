// The operator of a change of layout: differentiable by itself with the plans changed over, so that a compiled model has both in
// its graph.
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "python/library.h"
#include "weft/ops/relayout_op.h"

namespace weft::relayout_operators {
namespace {

using at::Tensor;

Tensor real(const Tensor& x, int64_t from, int64_t to) {
  return guarded([&] { return relayout(plan_of(from), plan_of(to), x); });
}

Tensor meta(const Tensor& x, int64_t, int64_t to) {
  const int64_t rows = guarded([&] { return plan_of(to)->local_tokens(); });
  return at::empty_symint({rows, x.sym_size(1)}, x.options());
}

Tensor call(const Tensor& x, int64_t from, int64_t to) {
  static const auto op = operator_of<decltype(real)>("weft::relayout");
  return op.call(x, from, to);
}

class RelayoutFunction : public torch::autograd::Function<RelayoutFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t from, int64_t to) {
    const at::AutoDispatchBelowADInplaceOrView under;
    context->saved_data["from"] = from, context->saved_data["to"] = to;
    return call(x, from, to);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    return {call(grads[0], context->saved_data["to"].toInt(), context->saved_data["from"].toInt()), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, int64_t from, int64_t to) {
  if (!x.requires_grad() || !at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView under;
    return call(x, from, to);
  }
  return RelayoutFunction::apply(x, from, to);
}

}  // namespace
}  // namespace weft::relayout_operators

TORCH_LIBRARY_FRAGMENT(weft, m) { m.def("relayout(Tensor x, int from_plan, int to_plan) -> Tensor"); }
// On a GPU the plan refuses, on all ranks alike.
TORCH_LIBRARY_IMPL(weft, CPU, m) { m.impl("relayout", &weft::relayout_operators::real); }
TORCH_LIBRARY_IMPL(weft, CUDA, m) { m.impl("relayout", &weft::relayout_operators::real); }
TORCH_LIBRARY_IMPL(weft, Meta, m) { m.impl("relayout", &weft::relayout_operators::meta); }
TORCH_LIBRARY_IMPL(weft, Autograd, m) { m.impl("relayout", &weft::relayout_operators::autograd); }
