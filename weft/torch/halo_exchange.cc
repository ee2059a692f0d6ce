#include "weft/torch/halo_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "weft/base/digest.h"
#include "weft/base/error.h"
#include "weft/torch/tensor_parts.h"

namespace weft {
namespace {

at::Tensor indices(const std::vector<int64_t>& list) { return at::tensor(list, at::TensorOptions().dtype(at::kLong)); }

// Neighbouring positions in neighbouring local rows, found by position.
class LocalRuns {
 public:
  explicit LocalRuns(const std::vector<int64_t>& positions) {
    for (size_t row = 0; row < positions.size(); ++row) {
      if (runs_.empty() || runs_.back().position + runs_.back().count != positions[row] ||
          runs_.back().row + runs_.back().count != static_cast<int64_t>(row)) {
        runs_.push_back({positions[row], static_cast<int64_t>(row), 0});
      }
      ++runs_.back().count;
    }
    std::sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.position < b.position; });
  }
  // -1: not here.
  int64_t row_of(int64_t position) const {
    const auto next =
        std::partition_point(runs_.begin(), runs_.end(), [&](const Run& run) { return run.position <= position; });
    if (next == runs_.begin()) return -1;
    const Run& run = *std::prev(next);
    return position < run.position + run.count ? run.row + position - run.position : -1;
  }

 private:
  struct Run {
    int64_t position, row, count;
  };
  std::vector<Run> runs_;
};

// The position at which the document of each of these begins.
std::vector<int64_t> document_begins(const std::vector<int64_t>& positions, const std::vector<int64_t>& documents) {
  std::vector<int64_t> begins{0};
  for (const int64_t length : documents) begins.push_back(begins.back() + length);
  std::vector<int64_t> of;
  of.reserve(positions.size());
  for (const int64_t position : positions) {
    of.push_back(*std::prev(std::upper_bound(begins.begin(), begins.end(), position)));
  }
  return of;
}

std::vector<int64_t> positions_in_order(const Axis& axis, const IntervalSet& slots) {
  std::vector<int64_t> positions;
  for (const Range range : slots.ranges()) {
    axis.for_each_run(range, [&](Range, Run run) {
      for (int64_t i = 0; i < run.count; ++i) positions.push_back(run.base + i * run.stride);
    });
  }
  return positions;
}

uint64_t label_of(const IntervalSet& tokens) {
  Digest digest;
  for (const Range range : tokens.ranges()) digest.add(range.begin).add(range.end);
  return digest.value();
}

}  // namespace

HaloExchange::HaloExchange(const Halo& halo, int rank, Endpoint& endpoint)
    : width_(halo.width), tokens_(halo.layout.tokens_of(rank)), endpoint_(endpoint) {
  const Halo::Rank& here = halo.ranks[static_cast<size_t>(rank)];
  const IntervalSet& shard = halo.layout.shard(rank);
  std::vector<int64_t> sent;
  for (const HaloMessage& message : here.send) {
    send_.push_back({message.peer, static_cast<int64_t>(sent.size()), message.tokens.size(), label_of(message.tokens)});
    for (const Range range : message.tokens.ranges()) {
      const int64_t row = shard.rank_of(range.begin);
      for (int64_t i = 0; i < range.size(); ++i) sent.push_back(row + i);
    }
  }
  sent_rows_ = indices(sent);
  for (const HaloMessage& message : here.receive) {
    receive_.push_back({message.peer, halo_rows_, message.tokens.size(), label_of(message.tokens)});
    halo_rows_ += message.tokens.size();
  }
  find_edges(halo, rank);
}

void HaloExchange::find_edges(const Halo& halo, int rank) {
  const std::vector<int64_t> positions = halo.layout.positions(rank);
  const std::vector<int64_t> begins = document_begins(positions, halo.documents);
  std::unordered_map<int64_t, int64_t> halo_row;
  for (const HaloMessage& message : halo.ranks[static_cast<size_t>(rank)].receive) {
    for (const int64_t position : positions_in_order(halo.layout.axis(), message.tokens)) {
      halo_row.emplace(position, static_cast<int64_t>(halo_row.size()));
    }
  }
  const LocalRuns runs(positions);
  std::vector<int64_t> edges, table;
  std::unordered_map<int64_t, int64_t> place;  // in the table, of a local row
  // Of the taps of an edge: a place in the table, -1 for zeros, -2 - n for row n of the halo.
  std::vector<std::vector<int64_t>> taps(static_cast<size_t>(width_));
  int64_t run = 0;  // tokens of the same document in the rows up to this one
  for (size_t row = 0; row < positions.size(); ++row) {
    const int64_t position = positions[row];
    const bool follows = row > 0 && positions[row - 1] + 1 == position && begins[row] < position;
    run = follows ? run + 1 : 1;
    if (run >= width_) continue;
    edges.push_back(static_cast<int64_t>(row));
    for (int64_t j = 0; j < width_; ++j) {
      const int64_t read = position - width_ + 1 + j;
      int64_t entry = -1;
      if (read >= begins[row]) {
        const int64_t local = runs.row_of(read);
        if (local >= 0) {
          const auto [found, added] = place.emplace(local, static_cast<int64_t>(table.size()));
          if (added) table.push_back(local);
          entry = found->second;
        } else {
          entry = -2 - halo_row.at(read);
        }
      }
      taps[static_cast<size_t>(j)].push_back(entry);
    }
  }
  const int64_t locals = static_cast<int64_t>(table.size());
  for (std::vector<int64_t>& tap : taps) {
    for (int64_t& entry : tap) {
      if (entry < 0) entry = locals + (entry == -1 ? halo_rows_ : -2 - entry);
    }
    taps_.push_back(indices(tap));
  }
  edges_ = indices(edges), table_rows_ = indices(table);
}

HaloExchange::Flight HaloExchange::post(const at::Tensor& leaving, const std::vector<Peer>& to, at::Tensor arriving,
                                        const std::vector<Peer>& from) const {
  Flight flight;
  flight.arriving_ = std::move(arriving);
  flight.endpoint_ = &endpoint_;
  if (to.empty() && from.empty()) return flight;
  const uint64_t kind = Digest().add(leaving.element_size()).add(leaving.size(1)).value();
  Transfer transfer;
  for (const Peer& peer : to) {
    const at::Tensor rows = leaving.narrow(0, peer.begin, peer.count);
    transfer.send.push_back({.peer = peer.rank, .parts = {torch_internal::outgoing_tensor(rows, peer.label ^ kind)}});
  }
  for (const Peer& peer : from) {
    const at::Tensor rows = flight.arriving_.narrow(0, peer.begin, peer.count);
    transfer.receive.push_back(
        {.peer = peer.rank, .parts = {torch_internal::incoming_tensor(rows, peer.label ^ kind)}});
  }
  flight.pending_ = endpoint_.post(std::move(transfer));
  return flight;
}

at::Tensor HaloExchange::Flight::wait() {
  if (pending_) pending_->wait(Until::usable);
  pending_.reset();
  return arriving_;
}

HaloExchange::Flight HaloExchange::send_rows(const at::Tensor& x) const {
  return post(x.index_select(0, sent_rows_), send_, at::empty({halo_rows_, x.size(1)}, x.options()), receive_);
}

HaloExchange::Flight HaloExchange::send_home(const at::Tensor& halo_gradients) const {
  return post(halo_gradients, receive_,
              at::empty({sent_rows_.size(0), halo_gradients.size(1)}, halo_gradients.options()), send_);
}

}  // namespace weft
