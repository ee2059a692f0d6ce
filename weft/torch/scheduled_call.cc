#include "weft/torch/scheduled_call.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/torch/types.h"

namespace weft::torch_internal {
namespace {

using torch::autograd::variable_list;

std::vector<int64_t> sizes_of(const Problem& problem, Field field, int rank) {
  if (field == Field::u || field == Field::du) return {problem.heads, problem.dim};
  const int64_t rows = rows_of_rank(problem, field, rank), heads = problem.heads_of(field);
  if (field == Field::lse) return {rows, heads};
  if (kDocumentFields.has(field)) return {rows, heads, problem.dim, problem.dim_v};
  return {rows, heads, problem.columns_of(field)};
}

at::Tensor room_for(const Problem& problem, Field field, int rank) {
  return at::empty(sizes_of(problem, field, rank),
                   at::TensorOptions().dtype(torch_type(problem.type_of(field, Form::whole))));
}

void require_fitting(const std::string& who, const Problem& problem, const FieldTensors& given, int rank) {
  const Fields needed = fields_given(problem, false);
  (needed | given.fields()).for_each([&](Field field) {
    const std::string name = name_of(field);
    const at::Tensor& t = given.of(field);
    if (!needed.has(field)) {
      throw Error(ErrorCode::usage, who + ": layer " + name_of(problem.layer) + " has no " + name + "; leave it out");
    }
    const std::vector<int64_t> sizes = sizes_of(problem, field, rank);
    const DType type = problem.type_of(field, Form::whole);
    if (t.defined() && t.sizes() == at::IntArrayRef(sizes) && t.scalar_type() == torch_type(type) &&
        t.device().is_cpu()) {
      return;
    }
    throw Error(ErrorCode::usage,
                who + ": " + name + " is " +
                    (t.defined() ? text_of(t.sizes()) + " of " + toString(t.scalar_type()) : "missing") +
                    "; this rank's plan needs " + text_of(sizes) + " of " + std::string(name_of(type)) + " on the CPU");
  });
}

// What backward needs besides tensors. The execution must end before its executor.
struct StartedRun : torch::CustomClassHolder {
  std::shared_ptr<Executor> executor;
  std::unique_ptr<Execution> execution;
  ~StartedRun() override { execution.reset(); }
};

FieldTensors with_whole_rows(const FieldTensors& tensors) {
  FieldTensors whole;
  tensors.fields().for_each([&](Field field) { whole.set(field, weft::with_whole_rows(tensors.of(field))); });
  return whole;
}

FieldTensors run_forward(Execution& execution, const Executor& executor, const FieldTensors& whole) {
  FieldTensors results;
  fields_gotten(executor.problem(), false).for_each([&](Field field) {
    results.set(field, room_for(executor.problem(), field, executor.rank()));
  });
  execution.forward(whole.inputs(), results.destinations());
  return results;
}

// What backward reads of what forward was given or gave.
Fields fields_saved(const Problem& problem) {
  constexpr Fields kGradients = Field::dout | Field::dfinal_state;
  return Fields::from_bits(fields_given(problem, true).bits() & ~kGradients.bits());
}

// What the caller gets: lse is the schedule's own.
std::vector<Field> fields_returned(const Problem& problem) {
  if (problem.gives_states()) return {Field::out, Field::final_state};
  return {Field::out};
}

class CallNode : public torch::autograd::Function<CallNode> {
 public:
  // `given`: fields_given in their order.
  static variable_list forward(torch::autograd::AutogradContext* context, at::TensorList given,
                               const c10::intrusive_ptr<StartedRun>& run) {
    const Problem& problem = run->executor->problem();
    FieldTensors tensors;
    size_t n = 0;
    fields_given(problem, false).for_each([&](Field field) { tensors.set(field, given[n++]); });
    tensors = with_whole_rows(tensors);
    const FieldTensors results = run_forward(*run->execution, *run->executor, tensors);
    variable_list saved, returned;
    fields_saved(problem).for_each(
        [&](Field field) { saved.push_back(results.has(field) ? results.of(field) : tensors.of(field)); });
    context->save_for_backward(std::move(saved));
    context->saved_data["run"] = c10::IValue::make_capsule(run);
    for (const Field field : fields_returned(problem)) returned.push_back(results.of(field));
    return returned;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto run = c10::static_intrusive_pointer_cast<StartedRun>(context->saved_data["run"].toCapsule());
    if (!run->execution) throw Error(ErrorCode::usage, "attention: backward runs once; keep no graph for a second one");
    const Problem& problem = run->executor->problem();
    FieldTensors tensors, results;
    size_t n = 0;
    fields_saved(problem).for_each([&](Field field) { tensors.set(field, saved[n++]); });
    tensors.set(Field::dout, weft::with_whole_rows(grads[0]));
    if (problem.gives_states()) tensors.set(Field::dfinal_state, weft::with_whole_rows(grads[1]));
    fields_gotten(problem, true).for_each([&](Field field) {
      results.set(field, room_for(problem, field, run->executor->rank()));
    });
    run->execution->backward(tensors.inputs(), results.destinations());
    run->execution.reset();
    variable_list gradients;
    fields_given(problem, false).for_each([&](Field field) { gradients.push_back(results.of(gradient_of(field))); });
    gradients.emplace_back();  // of the run
    return gradients;
  }
};

}  // namespace

FieldTensors scheduled_call(const char* who, const FieldTensors& given, const std::shared_ptr<Executor>& executor) {
  const Problem& problem = executor->problem();
  require_fitting(who, problem, given, executor->rank());
  if (given.has(Field::g)) require_decays(who, given.of(Field::g));
  variable_list list;
  fields_given(problem, false).for_each([&](Field field) { list.push_back(given.of(field)); });
  const bool differentiable =
      at::GradMode::is_enabled() &&
      std::any_of(list.begin(), list.end(), [](const at::Tensor& t) { return t.requires_grad(); });
  if (!differentiable) return run_forward(*executor->start(), *executor, with_whole_rows(given));
  auto run = c10::make_intrusive<StartedRun>();
  run->executor = executor;
  run->execution = executor->start();
  const variable_list returned = CallNode::apply(at::TensorList(list), run);
  FieldTensors results;
  const std::vector<Field> fields = fields_returned(problem);
  for (size_t n = 0; n < fields.size(); ++n) results.set(fields[n], returned[n]);
  return results;
}

}  // namespace weft::torch_internal
