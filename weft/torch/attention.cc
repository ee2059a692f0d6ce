#include "weft/torch/attention.h"

#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/scheduled_call.h"

namespace weft {

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::shared_ptr<Executor>& executor) {
  FieldTensors given;
  given.set(Field::q, q), given.set(Field::k, k), given.set(Field::v, v);
  return torch_internal::scheduled_call("attention", given, executor).of(Field::out);
}

LinearResult linear_attention(const LinearInputs& inputs, const std::shared_ptr<Executor>& executor) {
  FieldTensors given;
  given.set(Field::q, inputs.q), given.set(Field::k, inputs.k), given.set(Field::v, inputs.v);
  given.set(Field::g, inputs.g), given.set(Field::beta, inputs.beta);
  given.set(Field::a, inputs.a), given.set(Field::b, inputs.b), given.set(Field::u, inputs.u);
  given.set(Field::initial_state, inputs.initial_state);
  const FieldTensors results = torch_internal::scheduled_call("linear_attention", given, executor);
  return {results.of(Field::out), results.of(Field::final_state)};
}

}  // namespace weft
