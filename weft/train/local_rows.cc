#include "weft/train/local_rows.h"

#include <ATen/ops/empty.h>

#include "weft/base/error.h"

namespace weft {

LocalRows::LocalRows(const PackedSequence& sequence, const std::vector<int64_t>& token_indices) {
  const int64_t rows = static_cast<int64_t>(token_indices.size());
  ids = at::empty({rows}, at::kLong);
  positions = at::empty({rows}, at::kLong);
  labels = at::empty({rows}, at::kLong);
  int64_t* id = ids.mutable_data_ptr<int64_t>();
  int64_t* position = positions.mutable_data_ptr<int64_t>();
  int64_t* label = labels.mutable_data_ptr<int64_t>();
  for (const int64_t index : token_indices) {
    WEFT_CHECK(0 <= index && index < static_cast<int64_t>(sequence.ids.size()));
    const size_t at = static_cast<size_t>(index);
    *id++ = sequence.ids[at];
    *position++ = sequence.positions[at];
    *label++ = sequence.labels[at];
    label_count += sequence.labels[at] != kNoLabel;
  }
}

}  // namespace weft
