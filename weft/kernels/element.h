// Reading and writing single elements of any type: for reference kernels and rare paths, where
// speed is no concern.
#pragma once

#include "weft/kernels/kernels.h"

namespace weft::kernels {

inline int64_t offset_of(int64_t row_stride, int64_t head_stride, int64_t row, int64_t head, int64_t column) {
  return row * row_stride + head * head_stride + column;
}

inline double load_element(const void* data, DType type, int64_t index) {
  switch (type) {
    case DType::fp64: return static_cast<const double*>(data)[index];
    case DType::fp32: return static_cast<const float*>(data)[index];
    case DType::bf16: return bf16_to_float(static_cast<const uint16_t*>(data)[index]);
    case DType::fp16: return fp16_to_float(static_cast<const uint16_t*>(data)[index]);
    default: break;
  }
  WEFT_CHECK(false);  // no element
  return 0;
}

// 16-bit types round twice, through float: a result can be one unit off only where the double lies
// within 2^-29 of a tie.
inline void store_element(void* data, DType type, int64_t index, double value) {
  switch (type) {
    case DType::fp64: static_cast<double*>(data)[index] = value; break;
    case DType::fp32: static_cast<float*>(data)[index] = static_cast<float>(value); break;
    case DType::bf16: static_cast<uint16_t*>(data)[index] = float_to_bf16(static_cast<float>(value)); break;
    case DType::fp16: static_cast<uint16_t*>(data)[index] = float_to_fp16(static_cast<float>(value)); break;
    default: WEFT_CHECK(false);  // no element
  }
}

inline double load(const ConstView& view, int64_t row, int64_t head, int64_t column) {
  return load_element(view.data, view.type, offset_of(view.row_stride, view.head_stride, row, head, column));
}
inline void store(const View& view, int64_t row, int64_t head, int64_t column, double value) {
  store_element(view.data, view.type, offset_of(view.row_stride, view.head_stride, row, head, column), value);
}

// Start of (row, head) in bytes.
inline const void* address(const ConstView& view, int64_t row, int64_t head) {
  return static_cast<const char*>(view.data) + size_of(view.type) * (row * view.row_stride + head * view.head_stride);
}
inline void* address(const View& view, int64_t row, int64_t head) {
  return static_cast<char*>(view.data) + size_of(view.type) * (row * view.row_stride + head * view.head_stride);
}

}  // namespace weft::kernels
