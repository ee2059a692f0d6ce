// Cells of nonlinear recurrent networks whose hidden matrices are diagonal, on tensors: the formulas are those of
// weft/kernels/fused/fused.h.
//
// No number of a state grows above 1 in size, or above that of the state that a document begins with.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "weft/kernels/fused/fused.h"

namespace weft {

using kernels::RnnCell;
// Throws Error(usage) for other names than gru and lstm.
RnnCell rnn_cell_of(std::string_view name);
const char* name_of(RnnCell cell);
inline int64_t state_rows(RnnCell cell) { return kernels::rows_of_state(cell); }
inline constexpr int64_t kGates = 3;
inline constexpr int64_t kTokenDim = -3;  // of inputs and states: [.., tokens, gates or rows, channels]

struct RnnParameters {
  at::Tensor a;              // [3, channels]: of the gates, in the order above
  at::Tensor peephole = {};  // [2, channels]: p_0 and p_1 of an LSTM; else undefined
};

// Of all tokens; x and before contiguous, of the type of the parameters, fp32 or fp64.
struct RnnStep {
  at::Tensor rest;  // f(before, x) - state: [.., tokens, rows, channels]
  at::Tensor
      jacobian;  // [.., tokens, rows * rows, channels]: of row i of f by row j of the state before, in row i * rows + j
  double largest = 0;  // of the rest in size; where `finite`
  bool finite = true;
};
// x [.., tokens, 3, channels], before and state [.., tokens, rows, channels]: the states before the tokens and those after them;
// an undefined state is 0. Not differentiable.
RnnStep rnn_step(RnnCell cell, const at::Tensor& x, const at::Tensor& before, const at::Tensor& state,
                 const RnnParameters& parameters);
// step.rest, whose gradient goes to x, the parameters and, if it is defined, `initial`: the states [.., documents, rows, channels] that
// stand in `before` at `first_rows` of the tokens.
at::Tensor differentiable_rest(RnnCell cell, const RnnStep& step, const at::Tensor& x, const at::Tensor& before,
                               const RnnParameters& parameters, const at::Tensor& initial,
                               const at::Tensor& first_rows);
// state <- state + by within +-bound, and where that is not finite state + rest.
void rnn_correct(const at::Tensor& state, const at::Tensor& by, const at::Tensor& rest, double bound);

}  // namespace weft
