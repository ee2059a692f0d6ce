// One rank's part of a halo (weft/layout/halo.h) on torch tensors: what travels, and what its tokens read of it.
//
//   HaloExchange halo(verified, rank, endpoint);
//   RowFlight flight = halo.send_rows(x);   // x [tokens, channels]
//   ...                                     // compute meanwhile
//   at::Tensor rows = flight.wait();        // [halo_rows, channels]
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "weft/layout/halo.h"
#include "weft/torch/row_exchange.h"

namespace weft {

class HaloExchange {
 public:
  // `halo` has been verified. The endpoint outlives this, and is used when the operations below and their backward run.
  HaloExchange(const Halo& halo, int rank, Endpoint& endpoint);

  int64_t width() const { return width_; }
  int64_t tokens() const { return tokens_; }
  Endpoint& endpoint() const { return endpoint_; }

  // The local rows that are *edges*: not all they read are the rows before them. Local rows and halo rows that edges
  // read are a table, with a row of zeros at its end; taps()[j] are the rows of the table that the edges read as their j-th.
  const at::Tensor& edges() const { return edges_; }
  const at::Tensor& table_rows() const { return table_rows_; }
  const std::vector<at::Tensor>& taps() const { return taps_; }
  int64_t halo_rows() const { return halo_rows_; }

  // Rows of x out; halo rows [halo_rows, channels] come.
  RowFlight send_rows(const at::Tensor& x) const;
  // Gradients of halo rows out; gradients of the rows that this rank had sent come, to be added at sent_rows().
  RowFlight send_home(const at::Tensor& halo_gradients) const;
  const at::Tensor& sent_rows() const { return sent_rows_; }

 private:
  void find_edges(const Halo& halo, int rank);

  int64_t width_, tokens_ = 0, halo_rows_ = 0;
  Endpoint& endpoint_;
  std::vector<RowPeer> send_, receive_;
  at::Tensor sent_rows_, edges_, table_rows_;
  std::vector<at::Tensor> taps_;
};

}  // namespace weft
