// One rank's part of a change of layout (weft/layout/relayout.h) on torch tensors, a differentiable operation.
//
//   auto change = std::make_shared<RelayoutExchange>(verified, rank, endpoint);      // on every rank
//   at::Tensor y = relayout(x, change);        // [tokens here before, columns] -> [tokens here after, columns]
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "weft/layout/relayout.h"
#include "weft/torch/row_exchange.h"

namespace weft {

class RelayoutExchange {
 public:
  // `change` has been verified. The endpoint outlives this, and is used when the operation below and its backward run.
  RelayoutExchange(const Relayout& change, int rank, Endpoint& endpoint);

  int64_t tokens_before() const { return before_.tokens; }
  int64_t tokens_after() const { return after_.tokens; }
  Endpoint& endpoint() const { return endpoint_; }

  // x [tokens_before(), columns], contiguous; the result is [tokens_after(), columns]. While messages are under way, what stays is
  // copied.
  at::Tensor there(const at::Tensor& x) const { return move(x, before_, after_); }
  // The other way round.
  at::Tensor back(const at::Tensor& y) const { return move(y, after_, before_); }

 private:
  // The rows of one of the two layouts.
  struct Side {
    int64_t tokens;
    std::vector<RowPeer> peers;
    at::Tensor travelling, staying;  // rows
  };
  static Side side_of(const Layout& layout, int rank, const std::vector<RowMessage>& messages,
                      const IntervalSet& staying);
  at::Tensor move(const at::Tensor& rows, const Side& from, const Side& to) const;

  Endpoint& endpoint_;
  Side before_, after_;
};

// x [tokens before, columns] of a floating type on the CPU, any strides. Bit for bit. Every rank calls it, and its backward, equally
// often and in the same order. Throws Error(usage) for other shapes.
at::Tensor relayout(const at::Tensor& x, const std::shared_ptr<RelayoutExchange>& change);

}  // namespace weft
