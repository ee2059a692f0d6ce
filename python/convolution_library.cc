// The operators of short convolutions and token shift: one for users, differentiable by two more, so that a compiled model has
// both in its graph. Without a weight: token shift.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>

#include "python/library.h"
#include "weft/ops/convolution_op.h"
#include "weft/torch/associative_memory.h"

namespace weft::convolution_operators {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Pair = std::tuple<Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Tensor plain(const MaybeTensor& t) { return t.value_or(Tensor()); }
Tensor or_nothing(const Tensor& t, const Tensor& like) { return t.defined() ? t : at::empty({0}, like.options()); }

Pair forward_real(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, int64_t plan) {
  return guarded([&] {
    const Convolved done = convolve(plan_of(plan), x, plain(weight), plain(bias));
    return Pair(done.out, done.halo);
  });
}

Gradients backward_real(const Tensor& dout, const Tensor& x, const Tensor& halo, const MaybeTensor& weight,
                        int64_t plan) {
  return guarded([&] {
    const ConvolutionGradients all = convolve_backward(plan_of(plan), dout, x, halo, plain(weight));
    return Gradients(all.x, or_nothing(all.weight, x), or_nothing(all.bias, x));
  });
}

Tensor meta_like(const Tensor& x) {
  return at::empty_symint(x.transpose(0, 1).sym_sizes(), x.options()).transpose(0, 1);
}

Pair forward_meta(const Tensor& x, const MaybeTensor& weight, const MaybeTensor&, int64_t plan) {
  TORCH_CHECK_VALUE(x.dim() == 3, "weft.short_convolution: x is [batch, tokens, channels]");
  const int64_t width = weight ? weight->size(1) : 2;
  const int64_t rows = guarded([&] { return plan_of(plan)->halo_rows(width); });
  return {meta_like(x), at::empty_symint({rows, x.sym_size(0) * x.sym_size(2)}, x.options())};
}

Gradients backward_meta(const Tensor&, const Tensor& x, const Tensor&, const MaybeTensor& weight, int64_t) {
  if (!weight) return {meta_like(x), at::empty({0}, x.options()), at::empty({0}, x.options())};
  return {meta_like(x), at::empty_symint(weight->sym_sizes(), weight->options()),
          at::empty_symint({weight->sym_size(0)}, weight->options())};
}

Pair call_forward(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, int64_t plan) {
  static const auto op = operator_of<decltype(forward_real)>("weft::short_convolution_forward");
  return op.call(x, weight, bias, plan);
}

Tensor below(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, int64_t plan) {
  return std::get<0>(call_forward(x, weight, bias, plan));
}

class ConvolutionFunction : public torch::autograd::Function<ConvolutionFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const MaybeTensor& weight,
                        const MaybeTensor& bias, int64_t plan) {
    const at::AutoDispatchBelowADInplaceOrView under;
    const auto [out, halo] = call_forward(x, weight, bias, plan);
    context->save_for_backward({x, halo, plain(weight)});
    context->saved_data["plan"] = plan;
    context->saved_data["bias"] = bias.has_value();
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = operator_of<decltype(backward_real)>("weft::short_convolution_backward");
    const auto saved = context->get_saved_variables();
    const MaybeTensor weight = saved[2].defined() ? MaybeTensor(saved[2]) : std::nullopt;
    const auto [dx, dweight, dbias] =
        op.call(grads[0], saved[0], saved[1], weight, context->saved_data["plan"].toInt());
    return {dx, weight ? dweight : Tensor(), context->saved_data["bias"].toBool() ? dbias : Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, int64_t plan) {
  const bool differentiable =
      x.requires_grad() || (weight && weight->requires_grad()) || (bias && bias->requires_grad());
  if (!differentiable || !at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView under;
    return below(x, weight, bias, plan);
  }
  return ConvolutionFunction::apply(x, weight, bias, plan);
}

}  // namespace
}  // namespace weft::convolution_operators

TORCH_LIBRARY_FRAGMENT(weft, m) {
  m.def("short_convolution(Tensor x, Tensor? weight, Tensor? bias, int plan) -> Tensor");
  m.def("short_convolution_forward(Tensor x, Tensor? weight, Tensor? bias, int plan) -> (Tensor, Tensor)");
  m.def(
      "short_convolution_backward(Tensor dout, Tensor x, Tensor halo, Tensor? weight, int plan) -> (Tensor, Tensor, "
      "Tensor)");
}
// On a GPU the plan refuses, on all ranks alike.
TORCH_LIBRARY_IMPL(weft, CPU, m) {
  m.impl("short_convolution", &weft::convolution_operators::below);
  m.impl("short_convolution_forward", &weft::convolution_operators::forward_real);
  m.impl("short_convolution_backward", &weft::convolution_operators::backward_real);
}
TORCH_LIBRARY_IMPL(weft, CUDA, m) {
  m.impl("short_convolution", &weft::convolution_operators::below);
  m.impl("short_convolution_forward", &weft::convolution_operators::forward_real);
  m.impl("short_convolution_backward", &weft::convolution_operators::backward_real);
}
TORCH_LIBRARY_IMPL(weft, Meta, m) {
  m.impl("short_convolution", &weft::convolution_operators::below);
  m.impl("short_convolution_forward", &weft::convolution_operators::forward_meta);
  m.impl("short_convolution_backward", &weft::convolution_operators::backward_meta);
}
TORCH_LIBRARY_IMPL(weft, Autograd, m) { m.impl("short_convolution", &weft::convolution_operators::autograd); }

// Behind the convolution, of operators of torch: as differentiable as they are, on any device.
TORCH_LIBRARY_FRAGMENT(weft, m) {
  m.def("retrieve_and_gate(Tensor local, Tensor x, Tensor gates, Tensor memory, Tensor values) -> Tensor",
        [](const at::Tensor& local, const at::Tensor& x, const at::Tensor& gates, const at::Tensor& memory,
           const at::Tensor& values) {
          return weft::guarded([&] {
            return weft::retrieve_and_gate("weft.gated_associative_memory", local, x, gates, memory, values);
          });
        });
}
