// One exchange of rows of torch tensors between ranks, as weft/layout/row_messages.h lists them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "weft/layout/row_messages.h"
#include "weft/transport/transport.h"

namespace weft {

// A message: neighbouring rows of the tensor that leaves, or that arrives.
struct RowPeer {
  int rank;
  int64_t begin, count;
  uint64_t label;  // of its tokens, which both ends know
};
// Of messages whose rows lie one behind the other.
std::vector<RowPeer> row_peers(const std::vector<RowMessage>& messages);

// An exchange under way; `wait` gives what has arrived.
class RowFlight {
 public:
  at::Tensor wait();

 private:
  friend RowFlight post_rows(Endpoint&, const at::Tensor&, const std::vector<RowPeer>&, at::Tensor,
                             const std::vector<RowPeer>&);
  std::unique_ptr<Pending> pending_;
  at::Tensor arriving_;
};
// leaving, arriving: [rows, columns], contiguous, in main memory. The endpoint outlives the flight.
RowFlight post_rows(Endpoint& endpoint, const at::Tensor& leaving, const std::vector<RowPeer>& to, at::Tensor arriving,
                    const std::vector<RowPeer>& from);

at::Tensor row_indices(const std::vector<int64_t>& rows);

// Local rows by the positions of their tokens.
class RowsByPosition {
 public:
  // positions[row] is that of a row's token.
  explicit RowsByPosition(const std::vector<int64_t>& positions);
  // -1: not here.
  int64_t row_of(int64_t position) const;

 private:
  struct Run {  // neighbouring positions in neighbouring rows
    int64_t position, row, count;
  };
  std::vector<Run> runs_;
};

}  // namespace weft
