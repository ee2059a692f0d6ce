#include "weft/torch/para_rnn.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/torch/attention.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/short_convolution.h"
#include "weft/torch/types.h"
#include "weft/transport/largest.h"

namespace weft {
namespace {

double largest_size(const at::Tensor& t) { return t.numel() == 0 ? 0 : t.abs().max().item<double>(); }

// The system of one call, in the type in which it is solved.
class NewtonSystem {
 public:
  NewtonSystem(RnnCell cell, const RnnInputs& inputs, const RnnSequence& ranks)
      : cell_(cell), ranks_(ranks), type_(inputs.x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat) {
    const auto wide = [&](const at::Tensor& t) { return t.defined() ? t.to(type_) : t; };
    x_ = wide(inputs.x), initial_ = wide(inputs.initial_state);
    parameters_ = {wide(inputs.parameters.a), wide(inputs.parameters.peephole)};
    if (initial_.defined()) bound_ = std::max(1.0, ranks_.largest(largest_size(initial_.detach())));
  }

  // All states, differentiable.
  std::pair<at::Tensor, int> solve(const NewtonOptions& options) const {
    const double tolerance = options.tolerance > 0 ? options.tolerance : type_ == at::kDouble ? 1e-11 : 1e-5;
    at::Tensor states, before;
    RnnStep step;
    int iterations = 0;
    {
      const at::NoGradGuard no_gradients;
      states = rnn_step(cell_, x_, without_past(), {}, parameters_).rest;
      for (;; ++iterations) {
        before = with_initial(ranks_.before(states)).contiguous();
        step = rnn_step(cell_, x_, before, states, parameters_);
        // NaN comes from inputs of its document: it is left out here, and goes on to all later tokens in the last correction.
        const RnnStep known = step.finite ? step : without_nan(step);
        const double residual = ranks_.largest(known.largest);
        if (residual <= tolerance) break;
        if (iterations == options.iterations) refuse(residual, tolerance, iterations);
        rnn_correct(states, ranks_.solve(known.rest, known.jacobian), known.rest, bound_);
      }
    }
    const at::Tensor rest = differentiable_rest(cell_, step, x_, before, parameters_, initial_, ranks_.first_rows());
    return {states.add(ranks_.solve(rest, step.jacobian)), iterations};
  }

 private:
  at::Tensor without_past() const {
    std::vector<int64_t> sizes = x_.sizes().vec();
    sizes[sizes.size() - 2] = state_rows(cell_);
    return with_initial(at::zeros(sizes, x_.options().requires_grad(false)));
  }
  at::Tensor with_initial(const at::Tensor& shifted) const {
    return initial_.defined() ? shifted.index_copy(kTokenDim, ranks_.first_rows(), initial_) : shifted;
  }
  static RnnStep without_nan(const RnnStep& step) {
    const at::Tensor rest = step.rest.nan_to_num(0.0);
    return {.rest = rest, .jacobian = step.jacobian.nan_to_num(0.0), .largest = largest_size(rest)};
  }
  [[noreturn]] void refuse(double residual, double tolerance, int iterations) const {
    throw Error(ErrorCode::wrong,
                "para_rnn: after " + std::to_string(iterations) +
                    " iterations of Newton's method |f(h_{t-1}, x_t) - h_t| is still " + format_double(residual) +
                    ", and " + format_double(tolerance) +
                    " is allowed; allow more iterations (as many as the longest document has tokens are "
                    "enough), a larger tolerance, or make the cell's hidden weights smaller");
  }

  const RnnCell cell_;
  const RnnSequence& ranks_;
  const at::ScalarType type_;
  at::Tensor x_, initial_;
  RnnParameters parameters_;
  double bound_ = 1;
};

at::Tensor rows_of_ends(const Problem& problem, int rank, Problem::End end) {
  const IntervalSet& shard = problem.query_layout.shard(rank);
  std::vector<int64_t> rows;
  const IntervalSet tokens = problem.ends_of_documents(shard, end);
  for (const Range range : tokens.ranges()) {
    for (int64_t token = range.begin; token < range.end; ++token) rows.push_back(shard.rank_of(token));
  }
  return at::tensor(rows, at::TensorOptions().dtype(at::kLong));
}

}  // namespace

at::Tensor heads_of_rows(const at::Tensor& t, int64_t heads) {
  return t.unflatten(-1, {heads, t.size(-1) / heads}).transpose(-3, -2).flatten(-2);
}
at::Tensor rows_of_heads(const at::Tensor& t, int64_t rows) {
  return t.unflatten(-1, {rows, t.size(-1) / rows}).transpose(-3, -2).flatten(-2);
}

ScheduledSequence::ScheduledSequence(std::shared_ptr<Executor> executor, std::shared_ptr<HaloExchange> halo)
    : executor_(std::move(executor)), halo_(std::move(halo)) {
  const Problem& problem = executor_->problem();
  if (column_blocks(problem.layer) == 0 || problem.dim != 1 || problem.initial_states || problem.gives_states() ||
      halo_->width() != 2) {
    throw Error(ErrorCode::usage, std::string("para_rnn: a schedule of layer ") + name_of(problem.layer) +
                                      ", key-dim " + std::to_string(problem.dim) + " and a halo of width " +
                                      std::to_string(halo_->width()) +
                                      "; give layer elementwise (gru) or pairwise (lstm), key-dim 1, no states of "
                                      "documents, and width 2");
  }
  first_rows_ = rows_of_ends(problem, executor_->rank(), Problem::End::first);
  last_rows_ = rows_of_ends(problem, executor_->rank(), Problem::End::last);
}

at::Tensor ScheduledSequence::before(const at::Tensor& states) const {
  return token_shift(states.flatten(1), halo_).view(states.sizes());
}

at::Tensor ScheduledSequence::solve(const at::Tensor& v, const at::Tensor& jacobian) const {
  const int64_t heads = executor_->problem().heads;
  const at::Tensor one = at::ones({v.size(0), heads, 1}, jacobian.options());
  const LinearInputs inputs{
      .q = one, .k = one, .v = heads_of_rows(v, heads), .a = heads_of_rows(jacobian, heads).contiguous()};
  return rows_of_heads(linear_attention(inputs, executor_).out, v.size(-2));
}

double ScheduledSequence::largest(double mine) const { return largest_of_ranks(halo_->endpoint(), mine); }

void require_rnn(const char* who, RnnCell cell, const RnnInputs& inputs, const RnnSequence& ranks,
                 const NewtonOptions& options) {
  const auto refuse = [&](const std::string& text) { throw Error(ErrorCode::usage, who + (": " + text)); };
  const auto shape_of = [](const at::Tensor& t) { return t.defined() ? text_of(t.sizes()) : std::string("missing"); };
  const at::Tensor &x = inputs.x, &a = inputs.parameters.a, &peephole = inputs.parameters.peephole;
  if (!dtype_of(x.scalar_type()) || !x.device().is_cpu()) {
    refuse(std::string("x is of ") + toString(x.scalar_type()) + " on " + x.device().str() +
           "; give float64, float32, bfloat16 or float16 on the CPU");
  }
  if (x.dim() < 3 || x.size(kTokenDim) != ranks.tokens() || x.size(-2) != kGates || x.size(-1) < 1) {
    refuse("x is " + shape_of(x) + "; this rank's plan needs [.., " + std::to_string(ranks.tokens()) +
           ", 3, channels]: local tokens, gates, channels");
  }
  const int64_t channels = x.size(-1), rows = state_rows(cell);
  const auto require = [&](const char* name, const at::Tensor& t, std::vector<int64_t> sizes) {
    if (t.defined() && t.sizes() == at::IntArrayRef(sizes)) return;
    refuse(std::string(name) + " is " + shape_of(t) + "; for this x and cell " + name_of(cell) + " it is " +
           text_of(sizes));
  };
  require("a", a, {kGates, channels});
  if (cell == RnnCell::lstm) require("peephole", peephole, {2, channels});
  if (cell == RnnCell::gru && peephole.defined()) refuse("cell gru has no peephole; leave it out");
  if (inputs.initial_state.defined()) {
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes[sizes.size() - 3] = ranks.first_rows().size(0), sizes[sizes.size() - 2] = rows;
    require("initial_state", inputs.initial_state, sizes);
  }
  if (options.tolerance < 0 || options.iterations < 0) {
    refuse("tolerance " + format_double(options.tolerance) + ", iterations " + std::to_string(options.iterations) +
           "; give numbers of at least 0");
  }
}

RnnResult para_rnn(RnnCell cell, const RnnInputs& inputs, const RnnSequence& ranks, const NewtonOptions& options) {
  require_rnn("para_rnn", cell, inputs, ranks, options);
  const auto [states, iterations] = NewtonSystem(cell, inputs, ranks).solve(options);
  return {states.select(-2, state_rows(cell) - 1).to(inputs.x.scalar_type()),
          states.index_select(kTokenDim, ranks.last_rows()), iterations};
}

}  // namespace weft
