#include "weft/torch/halo_exchange.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace weft {
namespace {

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

}  // namespace

HaloExchange::HaloExchange(const Halo& halo, int rank, Endpoint& endpoint)
    : width_(halo.width), tokens_(halo.layout.tokens_of(rank)), endpoint_(endpoint) {
  const RowMessages& here = halo.ranks[static_cast<size_t>(rank)];
  const IntervalSet& shard = halo.layout.shard(rank);
  std::vector<int64_t> sent;
  for (const RowMessage& message : here.send) {
    for (const Range range : message.tokens.ranges()) {
      const int64_t row = shard.rank_of(range.begin);
      for (int64_t i = 0; i < range.size(); ++i) sent.push_back(row + i);
    }
  }
  sent_rows_ = row_indices(sent);
  send_ = row_peers(here.send), receive_ = row_peers(here.receive);
  for (const RowPeer& peer : receive_) halo_rows_ += peer.count;
  find_edges(halo, rank);
}

void HaloExchange::find_edges(const Halo& halo, int rank) {
  const std::vector<int64_t> positions = halo.layout.positions(rank);
  const std::vector<int64_t> begins = document_begins(positions, halo.documents);
  std::unordered_map<int64_t, int64_t> halo_row;
  for (const RowMessage& message : halo.ranks[static_cast<size_t>(rank)].receive) {
    for (const int64_t position : positions_in_order(halo.layout.axis(), message.tokens)) {
      halo_row.emplace(position, static_cast<int64_t>(halo_row.size()));
    }
  }
  const RowsByPosition runs(positions);
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
    taps_.push_back(row_indices(tap));
  }
  edges_ = row_indices(edges), table_rows_ = row_indices(table);
}

RowFlight HaloExchange::send_rows(const at::Tensor& x) const {
  return post_rows(endpoint_, x.index_select(0, sent_rows_), send_, at::empty({halo_rows_, x.size(1)}, x.options()),
                   receive_);
}

RowFlight HaloExchange::send_home(const at::Tensor& halo_gradients) const {
  return post_rows(endpoint_, halo_gradients, receive_,
                   at::empty({sent_rows_.size(0), halo_gradients.size(1)}, halo_gradients.options()), send_);
}

}  // namespace weft
