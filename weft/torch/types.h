// Element types in torch's words and in ours.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

#include "weft/base/dtype.h"

namespace weft {

// Nothing for types that are not the elements of queries, keys and values.
inline std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return DType::fp64;
    case at::kFloat: return DType::fp32;
    case at::kBFloat16: return DType::bf16;
    case at::kHalf: return DType::fp16;
    default: return std::nullopt;
  }
}

// Of an element type: not of the sums that only accumulators hold.
inline at::ScalarType torch_type(DType type) {
  for (const at::ScalarType candidate : {at::kDouble, at::kBFloat16, at::kHalf}) {
    if (dtype_of(candidate) == type) return candidate;
  }
  return at::kFloat;
}

}  // namespace weft
