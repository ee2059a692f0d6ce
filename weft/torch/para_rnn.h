// Nonlinear recurrent networks over the whole sequence at once, and over ranks (ParaRNN, Danieli et al. 2025): h_t = f(h_{t-1}, x_t)
// for all tokens is one system of equations, and Newton's method solves it by a few linear recurrences.
//
//   ScheduledSequence ranks(executor, halo);                       // of layer elementwise (gru) or pairwise (lstm), halo of width 2
//   RnnResult got = para_rnn(RnnCell::gru, {.x = x, .parameters = {.a = a}}, ranks);     // on every rank
//   got.out                                                        // [tokens, channels], differentiable
//
// From h = f(0, x) on, each iteration
//
//   takes the states before all tokens (one row from another rank where a shard begins inside a document), c_t = f(h_{t-1}, x_t)
//   and J_t = df/dh there; ends when |c - h| is at most the tolerance everywhere, which all ranks find out together; and else
//   solves d_t = J_t d_{t-1} + c_t - h_t, a linear layer over the ranks by any of its methods, and adds d to h.
//
// The last correction is differentiable: by the implicit function theorem the gradient of c is that of the linear recurrence,
// so backward is one scan against time, however many iterations there were. Iterates stay within the bounds that the cells
// have (rnn_cell.h), where the solution is, so none overflows, and after as many iterations as the longest document has tokens
// all is exact. What is not solved within the iterations allowed is refused.
#pragma once

#include <memory>

#include "weft/execute/executor.h"
#include "weft/torch/halo_exchange.h"
#include "weft/torch/rnn_cell.h"

namespace weft {

// What Newton's method asks of the other ranks; every rank calls each of these equally often and in the same order. Tensors
// have tokens in dimension -3, and -2 has the rows of a state.
class RnnSequence {
 public:
  virtual ~RnnSequence() = default;
  // Row t becomes that of the token before t in its document, 0 for the first.
  virtual at::Tensor before(const at::Tensor& states) const = 0;
  // y_t = J_t y_{t-1} + v_t in each document, differentiable in v; v [.., tokens, rows, channels], J as RnnStep has it.
  virtual at::Tensor solve(const at::Tensor& v, const at::Tensor& jacobian) const = 0;
  // Of all ranks.
  virtual double largest(double mine) const = 0;
  // Local rows at which documents begin, and at which they end: int64, in the order of the documents.
  virtual const at::Tensor& first_rows() const = 0;
  virtual const at::Tensor& last_rows() const = 0;
  virtual int64_t tokens() const = 0;
};

// Over a schedule. The executor's problem has key-dim 1 and heads * value-dim = rows of a state * channels: heads are groups of
// channels, for methods that cut by heads.
class ScheduledSequence final : public RnnSequence {
 public:
  // Throws Error(usage) for a schedule of another layer or key-dim, or with states of documents, and for a halo of another width.
  ScheduledSequence(std::shared_ptr<Executor> executor, std::shared_ptr<HaloExchange> halo);
  at::Tensor before(const at::Tensor& states) const override;
  at::Tensor solve(const at::Tensor& v, const at::Tensor& jacobian) const override;
  double largest(double mine) const override;
  const at::Tensor& first_rows() const override { return first_rows_; }
  const at::Tensor& last_rows() const override { return last_rows_; }
  int64_t tokens() const override { return halo_->tokens(); }

 private:
  std::shared_ptr<Executor> executor_;
  std::shared_ptr<HaloExchange> halo_;
  at::Tensor first_rows_, last_rows_;
};

// [.., rows, channels] as [.., heads, rows * channels / heads]: each head has its channels of every row; and back.
at::Tensor heads_of_rows(const at::Tensor& t, int64_t heads);
at::Tensor rows_of_heads(const at::Tensor& t, int64_t rows);

struct RnnInputs {
  at::Tensor x;  // [.., tokens, 3, channels], a floating type
  RnnParameters parameters;
  at::Tensor initial_state =
      {};  // [.., documents that begin here, rows, channels]; undefined: 0. All ranks give one or none does
};
struct NewtonOptions {
  double tolerance = 0;  // of |f(h_{t-1}, x_t) - h_t| before the last correction; 0: 1e-5, 1e-11 for fp64
  int iterations = 64;   // at most
};
struct RnnResult {
  at::Tensor out;          // h: [.., tokens, channels], of the type of x
  at::Tensor final_state;  // [.., documents that end here, rows, channels], fp32 (fp64 for fp64)
  int iterations = 0;
};

// Throws Error(usage) for tensors that do not fit.
void require_rnn(const char* who, RnnCell cell, const RnnInputs& inputs, const RnnSequence& ranks,
                 const NewtonOptions& options);

// Computed in fp32, fp64 for fp64. Gradients of the parameters are this rank's share, to be summed over the ranks. NaN stays in
// its document. Every rank calls it, and its backward, equally often and in the same order. Throws Error(wrong), on all ranks,
// for what does not converge.
RnnResult para_rnn(RnnCell cell, const RnnInputs& inputs, const RnnSequence& ranks, const NewtonOptions& options = {});

}  // namespace weft
