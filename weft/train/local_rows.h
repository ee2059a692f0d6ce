// One rank's rows of a packed sequence, as tensors.
//
//   LocalRows rows(sequence, plan->token_indices(rank));
//   model.hidden(rows.ids, rows.positions, attention);
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "weft/data/packing.h"

namespace weft {

struct LocalRows {
  // Throws Error(internal) for an index outside the sequence.
  LocalRows(const PackedSequence& sequence, const std::vector<int64_t>& token_indices);

  at::Tensor ids, positions, labels;  // int64 [rows]
  int64_t label_count = 0;            // labels that are not kNoLabel
};

}  // namespace weft
