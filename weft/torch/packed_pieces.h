// The blocks of a kernel call as few calls of packed attention. Private to this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "weft/kernels/kernels.h"
#include "weft/torch/block_attention.h"

namespace weft::torch_internal {

// The rows of one operand that a call takes, in its order.
struct PackedRows {
  int64_t begin = 0, end = 0;  // of the operand's rows: those from `begin` on, or, with an index, rows before `end`
  at::Tensor index;            // undefined where the rows lie one after the other
  std::vector<int64_t> ends;   // of the pieces, counted in the call's rows

  // [rows of the call, ...] of an operand that holds rows 0 .. end: itself where that can be, else a copy.
  at::Tensor select(const at::Tensor& all) const {
    return index.defined() ? all.index_select(0, index) : all.narrow(0, begin, end - begin);
  }
  // Back to where they came from, after they were changed.
  void put(const at::Tensor& all, const at::Tensor& rows) const {
    if (index.defined()) at::Tensor(all).index_copy_(0, index, rows);
  }
};

// Pieces of one shape whose rows do not meet: no row is written twice.
struct PieceCall {
  bool triangles = false;  // squares, causal in the order of the rows here
  PackedRows q, k;         // of the inputs
  PackedRows out;          // of o and lse, or dq
  PackedRows bundle;       // of dout, lse and delta; backward only
  PackedRows grad;         // of dk and dv; backward only
};

std::vector<PieceCall> piece_calls(std::span<const kernels::Block> blocks, c10::Device device, bool backward);

}  // namespace weft::torch_internal
