#include "weft/torch/relayout_exchange.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/layout/token_owners.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/tensor_parts.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

class RelayoutNode : public torch::autograd::Function<RelayoutNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const std::shared_ptr<RelayoutExchange>& change) {
    context->saved_data["change"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(change));
    return change->there(x.detach().contiguous());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(context->saved_data["change"].toCapsule());
    return {kept->change->back(grads[0].detach().contiguous()), at::Tensor()};
  }

 private:
  struct Kept : torch::CustomClassHolder {
    explicit Kept(std::shared_ptr<RelayoutExchange> c) : change(std::move(c)) {}
    std::shared_ptr<RelayoutExchange> change;
  };
};

}  // namespace

RelayoutExchange::RelayoutExchange(const Relayout& change, int rank, Endpoint& endpoint) : endpoint_(endpoint) {
  const RowMessages& here = change.ranks[static_cast<size_t>(rank)];
  const IntervalSet staying =
      intersect(positions_held(change.from, change.from.shard(rank)), positions_held(change.to, change.to.shard(rank)));
  before_ = side_of(change.from, rank, here.send, staying);
  after_ = side_of(change.to, rank, here.receive, staying);
}

RelayoutExchange::Side RelayoutExchange::side_of(const Layout& layout, int rank,
                                                 const std::vector<RowMessage>& messages, const IntervalSet& staying) {
  const RowsByPosition rows(layout.positions(rank));
  const auto append = [&](std::vector<int64_t>& to, const IntervalSet& positions) {
    for (const Range range : positions.ranges()) {
      for (int64_t position = range.begin; position < range.end; ++position) to.push_back(rows.row_of(position));
    }
  };
  std::vector<int64_t> travels, stays;
  for (const RowMessage& message : messages) append(travels, message.tokens);
  append(stays, staying);
  return {layout.tokens_of(rank), row_peers(messages), row_indices(travels), row_indices(stays)};
}

at::Tensor RelayoutExchange::move(const at::Tensor& rows, const Side& from, const Side& to) const {
  return torch_internal::stopping_all(endpoint_, [&] {
    const auto empty = [&](int64_t count) { return at::empty({count, rows.size(1)}, rows.options()); };
    RowFlight flight =
        post_rows(endpoint_, rows.index_select(0, from.travelling), from.peers, empty(to.travelling.size(0)), to.peers);
    const at::Tensor result = empty(to.tokens);
    result.index_copy_(0, to.staying, rows.index_select(0, from.staying));
    return result.index_copy_(0, to.travelling, flight.wait());
  });
}

at::Tensor relayout(const at::Tensor& x, const std::shared_ptr<RelayoutExchange>& change) {
  if (x.dim() != 2 || x.size(0) != change->tokens_before() || !dtype_of(x.scalar_type()) || !x.device().is_cpu()) {
    throw Error(ErrorCode::usage, "relayout: x is " + text_of(x.sizes()) + " of " + toString(x.scalar_type()) +
                                      "; this rank has [" + std::to_string(change->tokens_before()) +
                                      ", columns] of a floating type on the CPU");
  }
  return RelayoutNode::apply(x, change);
}

}  // namespace weft
