// The small operations of a transformer around attention and matrix products, each in one pass over memory.
//
//   const FusedKernels& fused = fused_kernels();      // the path of cpu_kernels(): the best, or what WEFT_KERNEL names
//   fused.rms_norm({.y = h, .inverse = inverse, .x = x, .weight = w, .eps = 1e-5, .rows = n, .columns = 256});
//
// Rows are stored as fp32, bf16 or fp16, with any distance between them; arithmetic and sums are fp32. Two 16-bit types do
// not meet in one call. fp64 is for references: then everything is. What is not finite stays in its row. The same call
// gives the same bits, and a row's result does not depend on the rows around it.
#pragma once

#include <cstdint>
#include <string_view>

#include "weft/base/dtype.h"

namespace weft::kernels {

// Rows of contiguous columns; `stride` elements from row to row.
struct ConstRows {
  const void* data;
  DType type;
  int64_t stride;
};
struct Rows {
  void* data;
  DType type;
  int64_t stride;
  operator ConstRows() const { return {data, type, stride}; }
};

// y = x * inverse * weight with inverse = 1 / sqrt(mean(x^2) + eps) of the row.
struct RmsNorm {
  Rows y;
  void* inverse;  // [rows], accumulator type; null: not wanted
  ConstRows x;
  const void* weight;  // [columns], accumulator type
  double eps;
  int64_t rows, columns;
};

// With n = x * inverse and h = dy * weight: dx = inverse * (h - n * mean(h * n)) + residual, dweight += sum of dy * n.
struct RmsNormBackward {
  Rows dx;
  void* dweight;  // [columns], accumulator type, added to
  ConstRows dy, x;
  ConstRows residual;   // another gradient of x, of dx's type; without data: none
  const void* inverse;  // [rows]
  const void* weight;   // [columns]
  int64_t rows, columns;
};

// Turns the pairs (i, i + dim / 2) of every head by the angles whose cosines and sines are given; backward the other way.
struct Rotate {
  Rows to;
  ConstRows from;
  int64_t to_head, from_head;  // elements from head to head
  ConstRows cos, sin;          // dim / 2 columns, accumulator type
  bool backward;
  int64_t rows, heads, dim;
};

// out = gate / (1 + exp(-gate)) * up.
struct Swiglu {
  Rows out;
  ConstRows gate, up;  // of one type
  int64_t rows, columns;
};

// The gradients of Swiglu, and its result once more.
struct SwigluBackward {
  Rows dgate, dup, out;  // of one type, which dout has too
  ConstRows dout;
  ConstRows gate, up;  // of one type
  int64_t rows, columns;
};

// out = a + b: a and out of one type, b of that or the accumulator type. out may be a.
struct AddRows {
  Rows out;
  ConstRows a, b;
  int64_t rows, columns;
};

// A rectangle of the logits: these rows, and columns first .. first + columns - 1 of the vocabulary.
struct Logits {
  ConstRows values;       // accumulator type
  const int64_t* labels;  // [rows], negative for none
  int64_t first;
  int64_t rows, columns;
};

// lse <- log(exp(lse) + sum of exp(logits)); begin with -inf. A row whose label is a column here: picked = its logit.
struct LogSumExp {
  Logits logits;
  double* lse;     // [rows]; fp64, so that nothing is lost however many parts the vocabulary has
  double* picked;  // [rows]
};

// d = scale * (exp(logits - lse) - [column is the label]); 0 for rows without label. d may be the logits.
struct CrossEntropyBackward {
  Logits logits;
  Rows d;
  const double* lse;  // [rows], of the whole vocabulary
  double scale;
};

// One step of AdamW for n weights that share their constants, in fp32; each by itself:
//   g <- g * gradient_scale, m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2
//   w <- keep * w - rate * m / (sqrt(v * v_scale) + eps)
struct AdamWStep {
  float* weights;
  const float* gradients;
  float* first_moment;
  float* second_moment;
  int64_t n;
  float beta1, beta2, eps, gradient_scale, keep, rate, v_scale;
};

// Cells of recurrent networks with diagonal hidden matrices. A state has one row (GRU: h) or two (LSTM: c, h) of `channels`
// numbers; every product is elementwise:
//   gru:   z = sigmoid(a_0 h + x_0)    r = sigmoid(a_1 h + x_1)    n = tanh(a_2 (r h) + x_2)    h' = z n + (1 - z) h
//   lstm:  f = sigmoid(a_0 h + p_0 c + x_0)    g = tanh(a_2 h + x_2)                            c' = f c + (1 - f) g
//          o = sigmoid(a_1 h + p_1 c' + x_1)                                                    h' = o tanh(c')
enum class RnnCell : uint8_t { gru, lstm };
inline constexpr int64_t rows_of_state(RnnCell cell) { return cell == RnnCell::gru ? 1 : 2; }

// One step of many tokens, each from the state before it: what is left of f(before, x) - state, and J = df/dbefore. All of one
// type, fp32 or fp64, and contiguous.
struct RnnStep {
  RnnCell cell;
  DType type;
  const void* x;         // [rows, 3, channels]
  const void* before;    // [rows, rows of a state, channels]
  const void* state;     // as before; null: 0, so that the rest is f
  const void* a;         // [3, channels]
  const void* peephole;  // [2, channels], of an LSTM
  void* rest;            // as before
  void* jacobian;        // [rows, (rows of a state)^2, channels]: row i by row j of the state before; null: not wanted
  int64_t rows, channels;
};
struct RnnResidual {
  double largest;  // of the rest, in size; where not all is finite, any number
  bool finite;     // the rest and J
};

// From the gradients of f: dx, written, and those of a and the peepholes, added to; not that of the state before, J^T dnext.
struct RnnBackward {
  RnnCell cell;
  DType type;
  const void *x, *before, *a, *peephole;  // as in RnnStep
  const void* dnext;                      // as before
  void* dx;                               // as x
  void *da, *dpeephole;                   // as a and peephole
  int64_t rows, channels;
};

// state <- state + by, kept within +-bound; where that is not finite, state + rest. One type, fp32 or fp64.
struct RnnCorrection {
  DType type;
  void* state;
  const void *by, *rest;
  double bound;
  int64_t n;
};

// One implementation of all of them. Stateless and safe to use from several threads at once.
class FusedKernels {
 public:
  virtual ~FusedKernels() = default;
  virtual std::string_view name() const = 0;

  virtual void rms_norm(const RmsNorm& args) const = 0;
  virtual void rms_norm_backward(const RmsNormBackward& args) const = 0;
  virtual void rotate(const Rotate& args) const = 0;
  virtual void swiglu(const Swiglu& args) const = 0;
  virtual void swiglu_backward(const SwigluBackward& args) const = 0;
  virtual void add(const AddRows& args) const = 0;
  virtual void log_sum_exp(const LogSumExp& args) const = 0;
  virtual void cross_entropy_backward(const CrossEntropyBackward& args) const = 0;
  virtual void adamw(const AdamWStep& args) const = 0;
  virtual RnnResidual rnn_step(const RnnStep& args) const = 0;
  virtual void rnn_backward(const RnnBackward& args) const = 0;
  virtual void rnn_correct(const RnnCorrection& args) const = 0;
};

// Plain loops in fp64, rounded once to the result's type.
const FusedKernels& reference_fused_kernels();

// The path that cpu_kernels() chooses, and one by name; Error(usage) as there.
const FusedKernels& fused_kernels();
const FusedKernels& fused_kernels(std::string_view path);

}  // namespace weft::kernels
