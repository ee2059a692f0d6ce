#include "weft/torch/rnn_cell.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

using torch::autograd::variable_list;
using MaybeTensor = std::optional<at::Tensor>;  // autograd takes no undefined ones

const void* data_of(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
int64_t tokens_of(const at::Tensor& x) { return x.numel() / (kGates * x.size(-1)); }
at::Tensor in_place(const at::Tensor& t) { return t.detach().contiguous(); }

class RestNode : public torch::autograd::Function<RestNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& a,
                            const MaybeTensor& peephole, const MaybeTensor& initial, const at::Tensor& before,
                            const RnnStep& step, const at::Tensor& first_rows, RnnCell cell) {
    // Of J only the rows by which the documents' first states are read.
    context->save_for_backward({x.contiguous(), a.contiguous(), peephole ? peephole->contiguous() : at::Tensor(),
                                before, initial ? step.jacobian.index_select(kTokenDim, first_rows) : at::Tensor(),
                                first_rows});
    context->saved_data["lstm"] = cell == RnnCell::lstm;
    return step.rest.detach();
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &a = saved[1], &peephole = saved[2], &before = saved[3];
    const at::Tensor dnext = grads[0].contiguous();
    const at::Tensor dx = at::empty_like(x), da = at::zeros_like(a);
    const at::Tensor dpeephole = peephole.defined() ? at::zeros_like(peephole) : at::Tensor();
    kernels::fused_kernels().rnn_backward({.cell = context->saved_data["lstm"].toBool() ? RnnCell::lstm : RnnCell::gru,
                                           .type = *dtype_of(x.scalar_type()),
                                           .x = data_of(x),
                                           .before = data_of(before),
                                           .a = data_of(a),
                                           .peephole = data_of(peephole),
                                           .dnext = data_of(dnext),
                                           .dx = dx.data_ptr(),
                                           .da = da.data_ptr(),
                                           .dpeephole = dpeephole.defined() ? dpeephole.data_ptr() : nullptr,
                                           .rows = tokens_of(x),
                                           .channels = x.size(-1)});
    return {dx, da, dpeephole, of_initial(saved[4], dnext, saved[5]), {}, {}, {}, {}};
  }

 private:
  // J^T dnext of the tokens with which documents begin.
  static at::Tensor of_initial(const at::Tensor& jacobian, const at::Tensor& dnext, const at::Tensor& first_rows) {
    if (!jacobian.defined()) return {};
    const at::Tensor d = dnext.index_select(kTokenDim, first_rows);
    const int64_t rows = d.size(-2);
    return jacobian.unflatten(-2, {rows, rows}).mul(d.unsqueeze(-2)).sum(-3);
  }
};

}  // namespace

const char* name_of(RnnCell cell) { return cell == RnnCell::gru ? "gru" : "lstm"; }

RnnCell rnn_cell_of(std::string_view name) {
  for (const RnnCell cell : {RnnCell::gru, RnnCell::lstm}) {
    if (name == name_of(cell)) return cell;
  }
  throw unknown_name_error("cell", std::string(name), {"gru", "lstm"});
}

RnnStep rnn_step(RnnCell cell, const at::Tensor& x, const at::Tensor& before, const at::Tensor& state,
                 const RnnParameters& parameters) {
  const at::Tensor inputs = in_place(x), past = in_place(before), a = in_place(parameters.a);
  const at::Tensor peephole = parameters.peephole.defined() ? in_place(parameters.peephole) : at::Tensor();
  std::vector<int64_t> sizes = past.sizes().vec();
  sizes[sizes.size() - 2] *= sizes[sizes.size() - 2];
  RnnStep step{.rest = at::empty_like(past), .jacobian = at::empty(sizes, past.options())};
  const kernels::RnnResidual residual = kernels::fused_kernels().rnn_step({.cell = cell,
                                                                           .type = *dtype_of(inputs.scalar_type()),
                                                                           .x = data_of(inputs),
                                                                           .before = data_of(past),
                                                                           .state = data_of(state),
                                                                           .a = data_of(a),
                                                                           .peephole = data_of(peephole),
                                                                           .rest = step.rest.data_ptr(),
                                                                           .jacobian = step.jacobian.data_ptr(),
                                                                           .rows = tokens_of(inputs),
                                                                           .channels = inputs.size(-1)});
  step.largest = residual.largest, step.finite = residual.finite;
  return step;
}

at::Tensor differentiable_rest(RnnCell cell, const RnnStep& step, const at::Tensor& x, const at::Tensor& before,
                               const RnnParameters& parameters, const at::Tensor& initial,
                               const at::Tensor& first_rows) {
  const auto maybe = [](const at::Tensor& t) { return t.defined() ? MaybeTensor(t) : std::nullopt; };
  return RestNode::apply(x, parameters.a, maybe(parameters.peephole), maybe(initial), before, step, first_rows, cell);
}

void rnn_correct(const at::Tensor& state, const at::Tensor& by, const at::Tensor& rest, double bound) {
  const at::Tensor correction = in_place(by), left = in_place(rest);
  kernels::fused_kernels().rnn_correct({.type = *dtype_of(state.scalar_type()),
                                        .state = state.data_ptr(),
                                        .by = data_of(correction),
                                        .rest = data_of(left),
                                        .bound = bound,
                                        .n = state.numel()});
}

}  // namespace weft
