#include "weft/torch/short_convolution.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string>

#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/tensor_parts.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

using torch::autograd::variable_list;
using MaybeTensor = std::optional<at::Tensor>;  // autograd takes no undefined ones

at::ScalarType sums_of(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// The factors of a row's taps, oldest first. Token shift has one tap without a factor: not even a NaN or -0 changes.
class Taps {
 public:
  Taps(const at::Tensor& weight, at::ScalarType type) : plain_(!weight.defined()) {
    if (!plain_) rows_ = weight.detach().to(type).t().contiguous();
  }
  int64_t count() const { return plain_ ? 1 : rows_.size(0); }
  bool plain() const { return plain_; }
  // to += tap j of `rows`, or to = for the first.
  void add(int64_t j, const at::Tensor& rows, const at::Tensor& to) const {
    if (plain_) {
      to.copy_(rows);
    } else if (j == 0) {
      to.copy_(rows).mul_(rows_[j]);
    } else {
      to.addcmul_(rows.to(to.scalar_type()), rows_[j]);
    }
  }
  at::Tensor times(int64_t j, const at::Tensor& rows) const { return plain_ ? rows : rows.mul(rows_[j]); }

 private:
  bool plain_;
  at::Tensor rows_;  // [taps, channels]
};

at::Tensor table_of(const at::Tensor& x, const at::Tensor& rows_of_halo, const HaloExchange& halo) {
  return at::cat({x.index_select(0, halo.table_rows()), rows_of_halo, at::zeros({1, x.size(1)}, x.options())});
}

class ConvolutionNode : public torch::autograd::Function<ConvolutionNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const MaybeTensor& weight,
                            const MaybeTensor& bias, const std::shared_ptr<HaloExchange>& halo) {
    const Convolved done = convolve(x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), *halo);
    context->save_for_backward({x, done.halo, weight.value_or(at::Tensor())});
    context->saved_data["bias"] = bias.has_value();
    context->saved_data["halo"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(halo));
    return done.out;
  }
  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(context->saved_data["halo"].toCapsule());
    const ConvolutionGradients all = convolve_backward(grads[0], saved[0], saved[1], saved[2], *kept->halo);
    return {all.x, all.weight, context->saved_data["bias"].toBool() ? all.bias : at::Tensor(), at::Tensor()};
  }

 private:
  struct Kept : torch::CustomClassHolder {
    explicit Kept(std::shared_ptr<HaloExchange> h) : halo(std::move(h)) {}
    std::shared_ptr<HaloExchange> halo;
  };
};

[[noreturn]] void refuse_shape(const char* who, const std::string& text) {
  throw Error(ErrorCode::usage, who + (": " + text));
}

void require_rows(const char* who, const at::Tensor& x, const HaloExchange& halo) {
  if (x.dim() != 2 || x.size(0) != halo.tokens() || !dtype_of(x.scalar_type()) || !x.device().is_cpu()) {
    refuse_shape(who, "x is " + text_of(x.sizes()) + " of " + toString(x.scalar_type()) + "; this rank's plan needs [" +
                          std::to_string(halo.tokens()) + ", channels] of a floating type on the CPU");
  }
}

}  // namespace

Convolved convolve(const at::Tensor& given, const at::Tensor& weight, const at::Tensor& bias,
                   const HaloExchange& halo) {
  return torch_internal::stopping_all(halo.endpoint(), [&] {
    const at::Tensor x = given.detach().contiguous();
    const at::ScalarType type = weight.defined() ? sums_of(x) : x.scalar_type();
    const Taps taps(weight, type);
    RowFlight flight = halo.send_rows(x);
    const at::Tensor out = at::empty_like(x, x.options().dtype(type));
    const int64_t before = halo.width() - 1, inner = x.size(0) - before;
    if (inner > 0) {  // the edges among these are written again below
      for (int64_t j = 0; j < taps.count(); ++j) taps.add(j, x.narrow(0, j, inner), out.narrow(0, before, inner));
    }
    const at::Tensor rows_of_halo = flight.wait();
    if (halo.edges().numel() > 0) {
      const at::Tensor table = table_of(x, rows_of_halo, halo);
      const at::Tensor sums = at::empty({halo.edges().size(0), x.size(1)}, out.options());
      for (int64_t j = 0; j < taps.count(); ++j) {
        taps.add(j, table.index_select(0, halo.taps()[static_cast<size_t>(j)]), sums);
      }
      out.index_copy_(0, halo.edges(), sums);
    }
    if (bias.defined()) out.add_(bias.detach().to(type));
    return Convolved{out.to(x.scalar_type()), rows_of_halo};
  });
}

ConvolutionGradients convolve_backward(const at::Tensor& dout, const at::Tensor& given, const at::Tensor& rows_of_halo,
                                       const at::Tensor& weight, const HaloExchange& halo) {
  return torch_internal::stopping_all(halo.endpoint(), [&] {
    const at::Tensor x = given.detach();
    const at::ScalarType type = sums_of(x);
    const Taps taps(weight, type);
    const at::Tensor d = dout.detach().to(type).contiguous();
    const at::Tensor edge = d.index_select(0, halo.edges());
    const int64_t own = halo.table_rows().size(0), channels = x.size(1);
    // Gradients of borrowed rows go home first.
    const at::Tensor dtable = at::zeros({own + halo.halo_rows() + 1, channels}, d.options());
    for (int64_t j = 0; j < taps.count(); ++j) {
      dtable.index_add_(0, halo.taps()[static_cast<size_t>(j)], taps.times(j, edge));
    }
    RowFlight flight = halo.send_home(dtable.narrow(0, own, halo.halo_rows()));

    const at::Tensor dx = at::zeros(d.sizes(), d.options());
    const at::Tensor dweight = taps.plain() ? at::Tensor() : at::zeros({taps.count(), channels}, d.options());
    const int64_t before = halo.width() - 1, inner = x.size(0) - before;
    if (inner > 0) {
      const at::Tensor rest = d.clone().index_fill_(0, halo.edges(), 0).narrow(0, before, inner);
      for (int64_t j = 0; j < taps.count(); ++j) {
        dx.narrow(0, j, inner).add_(taps.times(j, rest));
        if (dweight.defined()) dweight[j].add_(x.narrow(0, j, inner).to(type).mul(rest).sum(0));
      }
    }
    if (dweight.defined() && edge.size(0) > 0) {
      const at::Tensor table = table_of(x, rows_of_halo, halo);
      for (int64_t j = 0; j < taps.count(); ++j) {
        const at::Tensor read = table.index_select(0, halo.taps()[static_cast<size_t>(j)]);
        dweight[j].add_(read.to(type).mul(edge).sum(0));
      }
    }
    dx.index_add_(0, halo.table_rows(), dtable.narrow(0, 0, own));
    dx.index_add_(0, halo.sent_rows(), flight.wait());
    if (taps.plain()) return ConvolutionGradients{dx.to(x.scalar_type()), {}, {}};
    const at::ScalarType given_type = weight.scalar_type();
    return ConvolutionGradients{dx.to(x.scalar_type()), dweight.t().to(given_type), d.sum(0).to(given_type)};
  });
}

at::Tensor short_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             const std::shared_ptr<HaloExchange>& halo) {
  constexpr const char* kWho = "short_convolution";
  require_rows(kWho, x, *halo);
  if (weight.dim() != 2 || weight.size(0) != x.size(1) || weight.size(1) != halo->width()) {
    refuse_shape(kWho, "weight is " + text_of(weight.sizes()) + "; for this x and plan it is " +
                           text_of({x.size(1), halo->width()}) + " (channels, width)");
  }
  if (bias.defined() && (bias.dim() != 1 || bias.size(0) != x.size(1))) {
    refuse_shape(kWho, "bias is " + text_of(bias.sizes()) + "; for this x it is [" + std::to_string(x.size(1)) + "]");
  }
  return ConvolutionNode::apply(x, MaybeTensor(weight), bias.defined() ? MaybeTensor(bias) : std::nullopt, halo);
}

at::Tensor token_shift(const at::Tensor& x, const std::shared_ptr<HaloExchange>& halo) {
  constexpr const char* kWho = "token_shift";
  require_rows(kWho, x, *halo);
  if (halo->width() != 2) refuse_shape(kWho, "the plan is of width " + std::to_string(halo->width()) + ", not 2");
  return ConvolutionNode::apply(x, MaybeTensor(), MaybeTensor(), halo);
}

}  // namespace weft
