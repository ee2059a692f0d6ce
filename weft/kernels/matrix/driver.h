// What the drivers of matrix paths share on the way from arguments to tiles.
#pragma once

#include "weft/kernels/driver.h"
#include "weft/kernels/matrix/drivers.h"

namespace weft::kernels {

// Room for `count` 16-bit numbers.
inline uint16_t* halves(ScratchBuffer& buffer, int64_t count) {
  return reinterpret_cast<uint16_t*>(buffer.get((count + 1) / 2));
}
// Room for a packed operand.
inline uint16_t* packed(ScratchBuffer& buffer, int64_t rows, int64_t columns) {
  return halves(buffer, round_up(rows, kMatrixBlock) * round_up(columns, kMatrixBlock));
}

inline MatrixRows matrix_rows_of(const ConstView& view, Range rows, int64_t head, int64_t columns) {
  return {static_cast<const uint16_t*>(address(view, rows.begin, head)), view.row_stride, rows.size(), columns};
}

}  // namespace weft::kernels
