// Parameters of a linear layer: the same on all ranks, and in no value.
#include <algorithm>

#include "weft/execute/run.h"

namespace weft::execute_internal {

// The row of the parameter u in a head.
kernels::ConstView Run::parameter(int64_t head) const {
  if (!traits_of(problem_.layer).bonus) return {};
  const DType type = problem_.accumulator();
  return {static_cast<const std::byte*>(inputs_.u.data) + head * problem_.dim * size_of(type), type, problem_.dim,
          problem_.dim};
}

// At the begin of a phase: u is there, and backward's sum of its gradient is zero.
void Run::begin_parameters() {
  if (!traits_of(problem_.layer).bonus) return;
  if (!inputs_.u.data) refuse("the caller gave no u");
  if (phase_ != Phase::backward) return;
  const int64_t elements = problem_.heads * problem_.dim;
  du_ = {};
  du_.type = problem_.accumulator(), du_.row_stride = elements, du_.head_stride = problem_.dim;
  auto buffer = destinations_.du ? nullptr : c_.pool.take(elements * size_of(du_.type));
  du_.data = destinations_.du ? static_cast<std::byte*>(destinations_.du) : buffer.get();
  du_.owner = std::move(buffer);
  std::fill_n(du_.data, elements * size_of(du_.type), std::byte{0});
}

}  // namespace weft::execute_internal
