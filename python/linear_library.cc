// The operators of linear layers: one for users, differentiable by two more, so that a compiled model has both in its graph.
//
// Inputs that a layer has not are no tensors. Backward gives the gradients of those that were given, in the order of the
// arguments.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>

#include "python/library.h"
#include "weft/ops/attention_op.h"

namespace weft::linear_operators {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Results = std::tuple<Tensor, Tensor, Tensor>;

constexpr std::array kArguments = {
    Field::q, Field::k, Field::v, Field::g, Field::beta, Field::a, Field::b, Field::u, Field::initial_state};
// As the operators are called.
struct Arguments {
  const Tensor &q, &k, &v;
  const MaybeTensor &g, &beta, &a, &b, &u, &initial_state;

  FieldTensors by_field() const {
    FieldTensors tensors;
    tensors.set(Field::q, q), tensors.set(Field::k, k), tensors.set(Field::v, v);
    const std::array optional = {&g, &beta, &a, &b, &u, &initial_state};
    for (size_t n = 0; n < optional.size(); ++n) {
      if (*optional[n] && (*optional[n])->defined()) tensors.set(kArguments[n + 3], **optional[n]);
    }
    return tensors;
  }
};

// Which states are asked for, and how many of them on this rank.
AttentionShape asked_for(bool final_state, at::IntArrayRef state_positions) {
  AttentionShape shape;
  shape.final_states = final_state;
  shape.ask_for_states(state_positions);
  return shape;
}
int64_t states_here(int64_t plan, bool final_state, at::IntArrayRef state_positions) {
  return guarded(
      [&] { return plan_of(plan)->local_rows(Field::final_state, asked_for(final_state, state_positions)); });
}
CallOptions call_options(double scale, bool final_state, at::IntArrayRef state_positions, bool keep) {
  return {.scale = scale, .final_state = final_state, .state_positions = state_positions.vec(), .keep = keep};
}

at::ScalarType wide(const Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Results forward_real(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& g, const MaybeTensor& beta,
                     const MaybeTensor& a, const MaybeTensor& b, const MaybeTensor& u, const MaybeTensor& initial_state,
                     int64_t plan, double scale, bool final_state, at::IntArrayRef state_positions, bool keep) {
  return guarded([&] {
    const CallResult done = attend(plan_of(plan), Arguments{q, k, v, g, beta, a, b, u, initial_state}.by_field(),
                                   call_options(scale, final_state, state_positions, keep));
    const FieldTensors& results = done.results;
    return Results(
        results.of(Field::out),
        results.has(Field::final_state) ? results.of(Field::final_state) : at::empty({0}, q.options().dtype(wide(q))),
        done.run);
  });
}

std::vector<Tensor> backward_real(const Tensor& dout, const MaybeTensor& dfinal_state, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const MaybeTensor& g, const MaybeTensor& beta, const MaybeTensor& a,
                                  const MaybeTensor& b, const MaybeTensor& u, const MaybeTensor& initial_state,
                                  const Tensor& run, int64_t plan, double scale, bool final_state,
                                  at::IntArrayRef state_positions) {
  return guarded([&] {
    FieldTensors tensors = Arguments{q, k, v, g, beta, a, b, u, initial_state}.by_field();
    tensors.set(Field::dout, dout);
    if (dfinal_state) tensors.set(Field::dfinal_state, *dfinal_state);
    const FieldTensors gradients = attend_backward(plan_of(plan), tensors, std::nullopt, run,
                                                   call_options(scale, final_state, state_positions, true));
    std::vector<Tensor> list;
    for (const Field field : kArguments) {
      if (tensors.has(field)) list.push_back(gradients.of(gradient_of(field)));
    }
    return list;
  });
}

// Columns of out: v has them once for each of the plan's Householder factors.
c10::SymInt value_columns(const Tensor& v, int64_t plan) {
  return v.sym_size(3) / guarded([&] { return plan_of(plan)->spec().householders; });
}

// The strides that the kernels give: rows of a token, or document, for all sequences of the batch.
Tensor meta_rows(const Tensor& like) {
  if (like.dim() < 4) return at::empty_symint(like.sym_sizes(), like.options());
  return at::empty_symint(like.transpose(0, 1).sym_sizes(), like.options()).transpose(0, 1);
}

Results forward_meta(const Tensor& q, const Tensor&, const Tensor& v, const MaybeTensor&, const MaybeTensor&,
                     const MaybeTensor&, const MaybeTensor&, const MaybeTensor&, const MaybeTensor&, int64_t plan,
                     double, bool final_state, at::IntArrayRef state_positions, bool) {
  TORCH_CHECK_VALUE(q.dim() == 4 && v.dim() == 4,
                    "weft.linear_attention: q, k and v are [batch, tokens, heads, columns]");
  const auto options = q.options().dtype(wide(q));
  const Tensor out =
      at::empty_symint({q.sym_size(1), q.sym_size(0), v.sym_size(2), value_columns(v, plan)}, q.options());
  Tensor state = at::empty({0}, options);
  if (final_state || !state_positions.empty()) {
    const int64_t rows = states_here(plan, final_state, state_positions);
    state = at::empty_symint({rows, q.sym_size(0), v.sym_size(2), q.sym_size(3), value_columns(v, plan)}, options)
                .transpose(0, 1);
  }
  return {out.transpose(0, 1), state, at::empty({1}, q.options().dtype(at::kLong))};
}

std::vector<Tensor> backward_meta(const Tensor&, const MaybeTensor&, const Tensor& q, const Tensor& k, const Tensor& v,
                                  const MaybeTensor& g, const MaybeTensor& beta, const MaybeTensor& a,
                                  const MaybeTensor& b, const MaybeTensor& u, const MaybeTensor& initial_state,
                                  const Tensor&, int64_t, double, bool, at::IntArrayRef) {
  const FieldTensors tensors = Arguments{q, k, v, g, beta, a, b, u, initial_state}.by_field();
  std::vector<Tensor> list;
  for (const Field field : kArguments) {
    if (tensors.has(field)) list.push_back(meta_rows(tensors.of(field)));
  }
  return list;
}

std::tuple<Tensor, Tensor> below(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& g,
                                 const MaybeTensor& beta, const MaybeTensor& a, const MaybeTensor& b,
                                 const MaybeTensor& u, const MaybeTensor& initial_state, int64_t plan, double scale,
                                 bool final_state, at::IntArrayRef state_positions) {
  static const auto op = operator_of<decltype(forward_real)>("weft::linear_attention_forward");
  const auto [out, state, run] =
      op.call(q, k, v, g, beta, a, b, u, initial_state, plan, scale, final_state, state_positions, false);
  return {out, state};
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& q,
                                                const Tensor& k, const Tensor& v, const MaybeTensor& g,
                                                const MaybeTensor& beta, const MaybeTensor& a, const MaybeTensor& b,
                                                const MaybeTensor& u, const MaybeTensor& initial_state, int64_t plan,
                                                double scale, bool final_state, at::IntArrayRef state_positions) {
    static const auto op = operator_of<decltype(forward_real)>("weft::linear_attention_forward");
    const at::AutoDispatchBelowADInplaceOrView under;
    const auto [out, state, run] =
        op.call(q, k, v, g, beta, a, b, u, initial_state, plan, scale, final_state, state_positions, true);
    const auto plain = [](const MaybeTensor& t) { return t.value_or(Tensor()); };
    context->save_for_backward(
        {q, k, v, plain(g), plain(beta), plain(a), plain(b), plain(u), plain(initial_state), out, run});
    context->saved_data["plan"] = plan;
    context->saved_data["scale"] = scale;
    context->saved_data["final_state"] = final_state;
    context->saved_data["state_positions"] = state_positions.vec();
    context->set_materialize_grads(false);
    if (!final_state && state_positions.empty()) context->mark_non_differentiable({state});
    return {out, state};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = operator_of<decltype(backward_real)>("weft::linear_attention_backward");
    const auto saved = context->get_saved_variables();
    const auto maybe = [&](size_t n) { return saved[n].defined() ? MaybeTensor(saved[n]) : std::nullopt; };
    const bool final_state = context->saved_data["final_state"].toBool();
    const std::vector<int64_t> state_positions = context->saved_data["state_positions"].toIntVector();
    // All ranks run the whole backward, also one whose results nobody used.
    const Tensor dout = grads[0].defined() ? grads[0] : at::zeros_like(saved[9]);
    MaybeTensor dfinal;
    if (final_state || !state_positions.empty()) {
      const int64_t plan = context->saved_data["plan"].toInt();
      const int64_t rows = states_here(plan, final_state, state_positions);
      dfinal = grads[1].defined() ? grads[1]
                                  : at::zeros_symint({saved[0].sym_size(0), rows, saved[2].sym_size(2),
                                                      saved[0].sym_size(3), value_columns(saved[2], plan)},
                                                     saved[0].options().dtype(wide(saved[0])));
    }
    const std::vector<Tensor> list =
        op.call(dout, dfinal, saved[0], saved[1], saved[2], maybe(3), maybe(4), maybe(5), maybe(6), maybe(7), maybe(8),
                saved[10], context->saved_data["plan"].toInt(), context->saved_data["scale"].toDouble(), final_state,
                state_positions);
    torch::autograd::variable_list gradients(13);
    size_t next = 0;
    for (size_t n = 0; n < kArguments.size(); ++n) {
      if (saved[n].defined()) gradients[n] = list[next++];
    }
    return gradients;
  }
};

std::tuple<Tensor, Tensor> autograd(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& g,
                                    const MaybeTensor& beta, const MaybeTensor& a, const MaybeTensor& b,
                                    const MaybeTensor& u, const MaybeTensor& initial_state, int64_t plan, double scale,
                                    bool final_state, at::IntArrayRef state_positions) {
  bool differentiable = false;
  const FieldTensors tensors = Arguments{q, k, v, g, beta, a, b, u, initial_state}.by_field();
  tensors.fields().for_each([&](Field field) { differentiable |= tensors.of(field).requires_grad(); });
  if (!differentiable || !at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView under;
    return below(q, k, v, g, beta, a, b, u, initial_state, plan, scale, final_state, state_positions);
  }
  const auto results =
      LinearFunction::apply(q, k, v, g, beta, a, b, u, initial_state, plan, scale, final_state, state_positions);
  return {results[0], results[1]};
}

}  // namespace
}  // namespace weft::linear_operators

TORCH_LIBRARY_FRAGMENT(weft, m) {
  m.def(
      "linear_attention(Tensor q, Tensor k, Tensor v, Tensor? g, Tensor? beta, Tensor? a, Tensor? b, Tensor? u, "
      "Tensor? "
      "initial_state, int plan, float scale, bool final_state, int[] state_positions) -> (Tensor, Tensor)");
  m.def(
      "linear_attention_forward(Tensor q, Tensor k, Tensor v, Tensor? g, Tensor? beta, Tensor? a, Tensor? b, Tensor? "
      "u, "
      "Tensor? initial_state, int plan, float scale, bool final_state, int[] state_positions, bool keep) -> (Tensor, "
      "Tensor, Tensor)");
  m.def(
      "linear_attention_backward(Tensor dout, Tensor? dfinal_state, Tensor q, Tensor k, Tensor v, Tensor? g, Tensor? "
      "beta, "
      "Tensor? a, Tensor? b, Tensor? u, Tensor? initial_state, Tensor run, int plan, float scale, bool final_state, "
      "int[] state_positions) -> Tensor[]");
}
// On a GPU the plan refuses, on all ranks alike.
TORCH_LIBRARY_IMPL(weft, CPU, m) {
  m.impl("linear_attention", &weft::linear_operators::below);
  m.impl("linear_attention_forward", &weft::linear_operators::forward_real);
  m.impl("linear_attention_backward", &weft::linear_operators::backward_real);
}
TORCH_LIBRARY_IMPL(weft, CUDA, m) {
  m.impl("linear_attention", &weft::linear_operators::below);
  m.impl("linear_attention_forward", &weft::linear_operators::forward_real);
  m.impl("linear_attention_backward", &weft::linear_operators::backward_real);
}
TORCH_LIBRARY_IMPL(weft, Meta, m) {
  m.impl("linear_attention", &weft::linear_operators::below);
  m.impl("linear_attention_forward", &weft::linear_operators::forward_meta);
  m.impl("linear_attention_backward", &weft::linear_operators::backward_meta);
}
TORCH_LIBRARY_IMPL(weft, Autograd, m) { m.impl("linear_attention", &weft::linear_operators::autograd); }
