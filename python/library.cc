// The operators torch.ops.weft.*: all that the Python package calls. Nothing here uses Python itself.
//
// Plans live here by number, since operators pass numbers, texts and tensors only. `attention` is differentiable: its
// backward is an operator too, so that a compiled model has both in its graph.
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <map>
#include <mutex>

#include "python/library.h"
#include "weft/draw/svg.h"
#include "weft/methods/registry.h"
#include "weft/ops/attention_op.h"
#include "weft/ops/spec_json.h"

namespace weft {
namespace {

using at::Tensor;
using ForwardTuple = std::tuple<Tensor, Tensor, Tensor>;

// ---- plans by number

struct Plans {
  std::mutex mutex;
  int64_t next = 1;
  std::map<int64_t, std::shared_ptr<AttentionPlan>> by_number;
};
Plans& plans() {
  static auto& all = *new Plans();
  return all;
}

}  // namespace

std::shared_ptr<AttentionPlan> plan_of(int64_t number) {
  const std::lock_guard lock(plans().mutex);
  const auto found = plans().by_number.find(number);
  if (found == plans().by_number.end()) throw Error(ErrorCode::usage, "weft: this plan was dropped; make it anew");
  return found->second;
}

namespace {

int64_t plan_make(c10::string_view spec) {
  return guarded([&] {
    auto plan = std::make_shared<AttentionPlan>(plan_spec_from_json(std::string(spec)));
    const std::lock_guard lock(plans().mutex);
    plans().by_number.emplace(plans().next, std::move(plan));
    return plans().next++;
  });
}

void plan_drop(int64_t number) {
  std::shared_ptr<AttentionPlan> plan;  // destroyed outside of the lock
  const std::lock_guard lock(plans().mutex);
  const auto found = plans().by_number.find(number);
  if (found == plans().by_number.end()) return;
  plan = std::move(found->second);
  plans().by_number.erase(found);
}

std::string plan_method(int64_t number) {
  return guarded([&] { return plan_of(number)->method(); });
}
std::string plan_layout(int64_t number) {
  return guarded([&] { return plan_of(number)->layout().name(); });
}
std::string plan_describe(int64_t number) {
  return guarded([&] { return describe_plan(*plan_of(number)); });
}
std::string plan_draw(int64_t number, bool backward) {
  return guarded([&] { return draw_svg(plan_of(number)->schedule({.element = DType::bf16, .backward = backward})); });
}
void plan_refuse(int64_t number, c10::string_view why) {
  guarded([&] {
    const auto plan = plan_of(number);
    plan->endpoint().begin_call();
    plan->endpoint().refuse_call(std::string(why));
  });
}
void require_rank(const AttentionPlan& plan, int64_t rank) {
  if (rank >= 0 && rank < plan.ranks()) return;
  throw Error(ErrorCode::usage, "rank " + std::to_string(rank) + " is not one of " + std::to_string(plan.ranks()));
}
Tensor plan_positions(int64_t number, int64_t rank) {
  return guarded([&] {
    const auto plan = plan_of(number);
    require_rank(*plan, rank);
    return at::tensor(plan->layout().positions(static_cast<int>(rank)), at::TensorOptions().dtype(at::kLong));
  });
}
// In the order of the sequence: of the documents whose first token, or last, is on the rank.
std::vector<int64_t> plan_documents(int64_t number, int64_t rank, bool first_token) {
  return guarded([&] {
    const auto plan = plan_of(number);
    require_rank(*plan, rank);
    return plan->documents_at(static_cast<int>(rank), first_token);
  });
}
std::vector<std::string> method_names(c10::string_view layer) {
  return guarded([&] {
    std::vector<std::string> names;
    for (const Method* method : methods_for(layer_of(std::string(layer)))) names.emplace_back(method->name);
    return names;
  });
}

// ---- attention

ForwardTuple forward_real(const Tensor& q, const Tensor& k, const Tensor& v, int64_t plan, double scale, bool lse,
                          bool keep) {
  return guarded([&] {
    FieldTensors given;
    given.set(Field::q, q), given.set(Field::k, k), given.set(Field::v, v);
    const CallResult done = attend(plan_of(plan), given, {.scale = scale, .lse = lse, .keep = keep});
    return ForwardTuple(done.results.of(Field::out), done.results.of(Field::lse), done.run);
  });
}

ForwardTuple backward_real(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& run, int64_t plan,
                           double scale, bool with_lse) {
  return guarded([&] {
    FieldTensors tensors;
    tensors.set(Field::q, q), tensors.set(Field::k, k), tensors.set(Field::v, v);
    tensors.set(Field::out, out), tensors.set(Field::lse, lse), tensors.set(Field::dout, dout);
    const FieldTensors grads = attend_backward(plan_of(plan), tensors, dlse, run, {.scale = scale, .lse = with_lse});
    return ForwardTuple(grads.of(Field::dq), grads.of(Field::dk), grads.of(Field::dv));
  });
}

// The strides that the kernels give.
Tensor meta_rows(const Tensor& like, c10::SymInt heads, c10::SymInt columns) {
  return at::empty_symint({like.sym_size(1), like.sym_size(0), std::move(heads), std::move(columns)}, like.options())
      .transpose(0, 1);
}

ForwardTuple forward_meta(const Tensor& q, const Tensor&, const Tensor& v, int64_t, double, bool, bool) {
  TORCH_CHECK_VALUE(q.dim() == 4 && v.dim() == 4, "weft.attention: q, k and v are [batch, tokens, heads, columns]");
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor lse = at::empty_symint({q.sym_size(1), q.sym_size(0), q.sym_size(2)}, q.options().dtype(type));
  return {meta_rows(q, q.sym_size(2), v.sym_size(3)), lse.transpose(0, 1),
          at::empty({1}, q.options().dtype(at::kLong))};
}

ForwardTuple backward_meta(const Tensor&, const std::optional<Tensor>&, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor&, const Tensor&, const Tensor&, int64_t, double, bool) {
  return {meta_rows(q, q.sym_size(2), q.sym_size(3)), meta_rows(k, k.sym_size(2), k.sym_size(3)),
          meta_rows(v, v.sym_size(2), v.sym_size(3))};
}

ForwardTuple call_forward(const Tensor& q, const Tensor& k, const Tensor& v, int64_t plan, double scale, bool lse,
                          bool keep) {
  static const auto op = operator_of<decltype(forward_real)>("weft::attention_forward");
  return op.call(q, k, v, plan, scale, lse, keep);
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& q,
                                                const Tensor& k, const Tensor& v, int64_t plan, double scale,
                                                bool lse) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [out, all_lse, run] = call_forward(q, k, v, plan, scale, lse, true);
    context->save_for_backward({q, k, v, out, all_lse, run});
    context->saved_data["plan"] = plan;
    context->saved_data["scale"] = scale;
    context->saved_data["lse"] = lse;
    context->set_materialize_grads(false);
    return {out, all_lse};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = operator_of<decltype(backward_real)>("weft::attention_backward");
    const auto saved = context->get_saved_variables();
    // Nobody asks for gradients of gradients: then no operation here need look after them. Else the operator says that it has none.
    std::optional<at::AutoDispatchBelowADInplaceOrView> below;
    if (!at::GradMode::is_enabled()) below.emplace();
    // All ranks run the whole backward, also one whose result nobody used.
    const Tensor dout = grads[0].defined() ? grads[0] : at::zeros_like(saved[3]);
    const std::optional<Tensor> dlse = grads[1].defined() ? std::optional<Tensor>(grads[1]) : std::nullopt;
    const auto [dq, dk, dv] = op.call(dout, dlse, saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
                                      context->saved_data["plan"].toInt(), context->saved_data["scale"].toDouble(),
                                      context->saved_data["lse"].toBool());
    return {dq, dk, dv, Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> attention_below(const Tensor& q, const Tensor& k, const Tensor& v, int64_t plan,
                                           double scale, bool lse) {
  const auto [out, all_lse, run] = call_forward(q, k, v, plan, scale, lse, false);
  return {out, all_lse};
}

std::tuple<Tensor, Tensor> attention_autograd(const Tensor& q, const Tensor& k, const Tensor& v, int64_t plan,
                                              double scale, bool lse) {
  const bool differentiable =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (!differentiable) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return attention_below(q, k, v, plan, scale, lse);
  }
  const auto results = AttentionFunction::apply(q, k, v, plan, scale, lse);
  return {results[0], results[1]};
}

}  // namespace
}  // namespace weft

TORCH_LIBRARY(weft, m) {
  m.def("plan_make(str spec) -> int", &weft::plan_make);
  m.def("plan_drop(int plan) -> ()", &weft::plan_drop);
  m.def("plan_method(int plan) -> str", &weft::plan_method);
  m.def("plan_layout(int plan) -> str", &weft::plan_layout);
  m.def("plan_describe(int plan) -> str", &weft::plan_describe);
  m.def("plan_draw(int plan, bool backward) -> str", &weft::plan_draw);
  m.def("plan_refuse(int plan, str why) -> ()", &weft::plan_refuse);
  m.def("plan_positions(int plan, int rank) -> Tensor", &weft::plan_positions);
  m.def("plan_documents(int plan, int rank, bool first_token) -> int[]", &weft::plan_documents);
  m.def("method_names(str layer) -> str[]", &weft::method_names);
  m.def("attention(Tensor q, Tensor k, Tensor v, int plan, float scale, bool lse) -> (Tensor, Tensor)");
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, int plan, float scale, bool lse, bool keep) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor run, "
      "int plan, float scale, bool with_lse) -> (Tensor, Tensor, Tensor)");
}
// The same for tensors in main memory and on a GPU: kernels are chosen by the device.
TORCH_LIBRARY_IMPL(weft, CPU, m) {
  m.impl("attention", &weft::attention_below);
  m.impl("attention_forward", &weft::forward_real);
  m.impl("attention_backward", &weft::backward_real);
}
TORCH_LIBRARY_IMPL(weft, CUDA, m) {
  m.impl("attention", &weft::attention_below);
  m.impl("attention_forward", &weft::forward_real);
  m.impl("attention_backward", &weft::backward_real);
}
TORCH_LIBRARY_IMPL(weft, Meta, m) {
  m.impl("attention", &weft::attention_below);
  m.impl("attention_forward", &weft::forward_meta);
  m.impl("attention_backward", &weft::backward_meta);
}
TORCH_LIBRARY_IMPL(weft, Autograd, m) { m.impl("attention", &weft::attention_autograd); }
