// Cells of nonlinear recurrent networks whose hidden matrices are diagonal: one step, and its derivative by the state.
//
// A state has one row (GRU: h) or two (LSTM: c, h) of `channels` numbers. With x the inputs' share of each gate, B x + bias, a
// the diagonals and p the LSTM's peepholes, every product elementwise (docs/linear.md):
//
//   gru:   z = sigmoid(a_0 h + x_0)    r = sigmoid(a_1 h + x_1)    n = tanh(a_2 (r h) + x_2)    h' = z n + (1 - z) h
//   lstm:  f = sigmoid(a_0 h + p_0 c + x_0)    g = tanh(a_2 h + x_2)                            c' = f c + (1 - f) g
//          o = sigmoid(a_1 h + p_1 c' + x_1)                                                    h' = o tanh(c')
//
// No number of a state grows above 1 in size, or above that of the state that a document begins with.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace weft {

enum class RnnCell : uint8_t { gru, lstm };
// Throws Error(usage) for other names than gru and lstm.
RnnCell rnn_cell_of(std::string_view name);
const char* name_of(RnnCell cell);
inline int64_t state_rows(RnnCell cell) { return cell == RnnCell::gru ? 1 : 2; }
inline constexpr int64_t kGates = 3;

struct RnnParameters {
  at::Tensor a;              // [3, channels]: of the gates, in the order above
  at::Tensor peephole = {};  // [2, channels]: p_0 and p_1 of an LSTM; else undefined
};

struct RnnStep {
  at::Tensor state;  // [.., tokens, rows, channels], differentiable
  at::Tensor
      jacobian;  // [.., tokens, rows * rows, channels]: of its row i by row j of the state before, in row i * rows + j; a number
};
// x [.., tokens, 3, channels], before [.., tokens, rows, channels]: the states before the tokens.
RnnStep rnn_step(RnnCell cell, const at::Tensor& x, const at::Tensor& before, const RnnParameters& parameters);

}  // namespace weft
