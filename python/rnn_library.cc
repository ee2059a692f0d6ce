// Nonlinear recurrent networks over a plan: an operator that is made of those of linear layers and token shift, and so is as
// differentiable as they are. How many of them run depends on numbers, so compiled models call it as it is.
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <optional>
#include <string>

#include "python/library.h"
#include "weft/torch/para_rnn.h"

namespace weft::rnn_operators {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

class PlannedSequence final : public RnnSequence {
 public:
  explicit PlannedSequence(int64_t number) : number_(number), plan_(plan_of(number)) {
    first_rows_ = rows_of_documents(true), last_rows_ = rows_of_documents(false);
  }
  AttentionPlan& plan() const { return *plan_; }
  Tensor before(const Tensor& states) const override {
    using Signature = Tensor(const Tensor&, const MaybeTensor&, const MaybeTensor&, int64_t);
    static const auto op = operator_of<Signature>("weft::short_convolution");
    return op.call(states.flatten(2), std::nullopt, std::nullopt, number_).view(states.sizes());
  }
  Tensor solve(const Tensor& v, const Tensor& jacobian) const override {
    using Signature = std::tuple<Tensor, Tensor>(
        const Tensor&, const Tensor&, const Tensor&, const MaybeTensor&, const MaybeTensor&, const MaybeTensor&,
        const MaybeTensor&, const MaybeTensor&, const MaybeTensor&, int64_t, double, bool, at::IntArrayRef);
    static const auto op = operator_of<Signature>("weft::linear_attention");
    const int64_t heads = plan_->spec().heads;
    const Tensor one = at::ones({v.size(0), v.size(1), heads, 1}, jacobian.options());
    const auto [out, state] =
        op.call(one, one, heads_of_rows(v, heads), std::nullopt, std::nullopt, heads_of_rows(jacobian, heads),
                std::nullopt, std::nullopt, std::nullopt, number_, 0.0, false, at::IntArrayRef());
    return rows_of_heads(out, v.size(-2));
  }
  double largest(double mine) const override { return plan_->largest_of_ranks(mine); }
  const Tensor& first_rows() const override { return first_rows_; }
  const Tensor& last_rows() const override { return last_rows_; }
  int64_t tokens() const override { return plan_->local_tokens(); }

 private:
  Tensor rows_of_documents(bool first) const {
    const std::vector<int64_t>& lengths = plan_->spec().documents.lengths;
    const IntervalSet& shard = plan_->layout().shard(plan_->rank());
    std::vector<int64_t> ends{0}, rows;
    for (const int64_t length : lengths) ends.push_back(ends.back() + length);
    for (const int64_t document : plan_->documents_at(plan_->rank(), first)) {
      const auto n = static_cast<size_t>(document);
      rows.push_back(shard.rank_of(first ? ends[n] : ends[n + 1] - 1));
    }
    return at::tensor(rows, at::TensorOptions().dtype(at::kLong));
  }

  int64_t number_;
  std::shared_ptr<AttentionPlan> plan_;
  Tensor first_rows_, last_rows_;
};

void require_plan(RnnCell cell, const Tensor& x, const PlanSpec& spec) {
  const Layer layer = cell == RnnCell::gru ? Layer::elementwise : Layer::pairwise;
  const int64_t columns = state_rows(cell) * x.size(-1);
  if (spec.layer == layer && spec.dim == 1 && spec.heads * spec.dim_v == columns) return;
  throw Error(ErrorCode::usage, std::string("weft.para_rnn: cell ") + name_of(cell) + " of " +
                                    std::to_string(x.size(-1)) + " channels needs a plan of layer " + name_of(layer) +
                                    " with head_dim 1 and heads * value_dim = " + std::to_string(columns) +
                                    "; this one is of layer " + name_of(spec.layer) + ", head_dim " +
                                    std::to_string(spec.dim) + ", heads " + std::to_string(spec.heads) +
                                    " and value_dim " + std::to_string(spec.dim_v) + ": make it with plan.with_layer");
}

std::tuple<Tensor, Tensor, int64_t> run(c10::string_view name, const Tensor& x, const Tensor& a,
                                        const MaybeTensor& peephole, const MaybeTensor& initial_state, int64_t plan,
                                        double tolerance, int64_t iterations) {
  return guarded([&] {
    const PlannedSequence ranks(plan);
    const RnnInputs inputs{
        .x = x, .parameters = {a, peephole.value_or(Tensor())}, .initial_state = initial_state.value_or(Tensor())};
    const NewtonOptions options{tolerance, static_cast<int>(iterations)};
    RnnCell cell = RnnCell::gru;
    ranks.plan().endpoint().begin_call();
    try {
      cell = rnn_cell_of(std::string_view(name.data(), name.size()));
      require_rnn("weft.para_rnn", cell, inputs, ranks, options);
      require_plan(cell, x, ranks.plan().spec());
    } catch (const Error& error) {
      ranks.plan().endpoint().refuse_call(error.what());
      throw;
    }
    const RnnResult result = para_rnn(cell, inputs, ranks, options);
    return std::tuple<Tensor, Tensor, int64_t>(result.out, result.final_state, result.iterations);
  });
}

}  // namespace
}  // namespace weft::rnn_operators

TORCH_LIBRARY_FRAGMENT(weft, m) {
  m.def(
      "para_rnn(str cell, Tensor x, Tensor a, Tensor? peephole, Tensor? initial_state, int plan, float tolerance, int "
      "iterations) -> (Tensor, Tensor, int)",
      &weft::rnn_operators::run);
}
