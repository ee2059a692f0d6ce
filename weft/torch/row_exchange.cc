#include "weft/torch/row_exchange.h"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "weft/base/digest.h"
#include "weft/torch/tensor_parts.h"

namespace weft {
namespace {

uint64_t label_of(const IntervalSet& tokens) {
  Digest digest;
  for (const Range range : tokens.ranges()) digest.add(range.begin).add(range.end);
  return digest.value();
}

}  // namespace

std::vector<RowPeer> row_peers(const std::vector<RowMessage>& messages) {
  std::vector<RowPeer> peers;
  int64_t rows = 0;
  for (const RowMessage& message : messages) {
    peers.push_back({message.peer, rows, message.tokens.size(), label_of(message.tokens)});
    rows += message.tokens.size();
  }
  return peers;
}

RowFlight post_rows(Endpoint& endpoint, const at::Tensor& leaving, const std::vector<RowPeer>& to, at::Tensor arriving,
                    const std::vector<RowPeer>& from) {
  RowFlight flight;
  flight.arriving_ = std::move(arriving);
  if (to.empty() && from.empty()) return flight;
  const uint64_t kind = Digest().add(leaving.element_size()).add(leaving.size(1)).value();
  Transfer transfer;
  for (const RowPeer& peer : to) {
    const at::Tensor rows = leaving.narrow(0, peer.begin, peer.count);
    transfer.send.push_back({.peer = peer.rank, .parts = {torch_internal::outgoing_tensor(rows, peer.label ^ kind)}});
  }
  for (const RowPeer& peer : from) {
    const at::Tensor rows = flight.arriving_.narrow(0, peer.begin, peer.count);
    transfer.receive.push_back(
        {.peer = peer.rank, .parts = {torch_internal::incoming_tensor(rows, peer.label ^ kind)}});
  }
  flight.pending_ = endpoint.post(std::move(transfer));
  return flight;
}

at::Tensor RowFlight::wait() {
  if (pending_) pending_->wait(Until::usable);
  pending_.reset();
  return arriving_;
}

at::Tensor row_indices(const std::vector<int64_t>& rows) {
  return at::tensor(rows, at::TensorOptions().dtype(at::kLong));
}

RowsByPosition::RowsByPosition(const std::vector<int64_t>& positions) {
  for (size_t row = 0; row < positions.size(); ++row) {
    if (runs_.empty() || runs_.back().position + runs_.back().count != positions[row] ||
        runs_.back().row + runs_.back().count != static_cast<int64_t>(row)) {
      runs_.push_back({positions[row], static_cast<int64_t>(row), 0});
    }
    ++runs_.back().count;
  }
  std::sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.position < b.position; });
}

int64_t RowsByPosition::row_of(int64_t position) const {
  const auto next =
      std::partition_point(runs_.begin(), runs_.end(), [&](const Run& run) { return run.position <= position; });
  if (next == runs_.begin()) return -1;
  const Run& run = *std::prev(next);
  return position < run.position + run.count ? run.row + position - run.position : -1;
}

}  // namespace weft
