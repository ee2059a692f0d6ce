// Tensors as executors take them. The caller has seen to rows that are contiguous in themselves.
#pragma once

#include <ATen/core/Tensor.h>

#include "weft/execute/executor.h"

namespace weft {

// Null where there are no rows.
inline ConstTensor view_of(const at::Tensor& rows) {
  if (rows.numel() == 0) return {};
  return {rows.const_data_ptr(), rows.stride(0)};
}
inline void* data_of(const at::Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); }

}  // namespace weft
