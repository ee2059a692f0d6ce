#include "weft/torch/associative_memory.h"

#include <ATen/TensorOperators.h>

#include <string>

#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/short_convolution.h"

namespace weft {
namespace {

void require_memory(const std::string& who, const at::Tensor& x, const at::Tensor& gates, const at::Tensor& memory,
                    const at::Tensor& values) {
  const auto refuse = [&](const std::string& text) { throw Error(ErrorCode::usage, who + ": " + text); };
  const int64_t channels = x.size(-1);
  std::vector<int64_t> doubled = x.sizes().vec();
  doubled.back() *= 2;
  if (gates.sizes() != at::IntArrayRef(doubled)) {
    refuse("gates are " + text_of(gates.sizes()) + "; for this x they are " + text_of(doubled) + ", local ones first");
  }
  if (memory.dim() != 2 || memory.size(0) < 1 || memory.size(1) != channels) {
    refuse("memory is " + text_of(memory.sizes()) + "; for this x it is [slots, " + std::to_string(channels) + "]");
  }
  if (values.sizes() != memory.sizes()) {
    refuse("values are " + text_of(values.sizes()) + "; for this memory they are " + text_of(memory.sizes()));
  }
  for (const at::Tensor* t : {&gates, &memory, &values}) {
    if (t->scalar_type() == x.scalar_type() && t->device() == x.device()) continue;
    refuse(std::string("x is of ") + toString(x.scalar_type()) + " on " + x.device().str() +
           ", and gates, memory or values of " + toString(t->scalar_type()) + " on " + t->device().str() +
           "; give all of one type in one place");
  }
}

}  // namespace

at::Tensor retrieve_and_gate(const char* who, const at::Tensor& local, const at::Tensor& x, const at::Tensor& gates,
                             const at::Tensor& memory, const at::Tensor& values) {
  const at::Tensor& read = values.defined() ? values : memory;
  require_memory(who, x, gates, memory, read);
  const auto sums = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor weights = x.matmul(memory.t()).softmax(-1, sums).to(x.scalar_type());
  const int64_t channels = x.size(-1);
  const at::Tensor near = gates.narrow(-1, 0, channels).sigmoid(),
                   found = gates.narrow(-1, channels, channels).sigmoid();
  return near * local + found * weights.matmul(read);
}

at::Tensor gated_associative_memory(const at::Tensor& x, const at::Tensor& gates, const AssociativeWeights& weights,
                                    const std::shared_ptr<HaloExchange>& halo) {
  constexpr const char* kWho = "gated_associative_memory";
  require_memory(kWho, x, gates, weights.memory, weights.values.defined() ? weights.values : weights.memory);
  const at::Tensor local = short_convolution(x, weights.taps, weights.bias, halo);
  return retrieve_and_gate(kWho, local, x, gates, weights.memory, weights.values);
}

}  // namespace weft
