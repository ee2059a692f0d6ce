// What the drivers (forward.cc, backward.cc, canonical_cpu.cc) share on the way from arguments to tiles.
#pragma once

#include <algorithm>

#include "weft/kernels/element.h"
#include "weft/kernels/scratch.h"
#include "weft/kernels/tile_ops.h"

namespace weft::kernels {

inline constexpr double kLog2E = 1.44269504088896341;

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline RowsIn rows_of(const ConstView& view, Range rows, int64_t head, int64_t columns) {
  return {address(view, rows.begin, head), view.type, view.row_stride, rows.size(), columns};
}

inline float* zeros(ScratchBuffer& buffer, int64_t count) {
  float* data = buffer.get(count);
  std::fill(data, data + count, 0.0f);
  return data;
}

// Whether some pair of the rectangle does not count.
inline bool has_edge(const BandRectangle& band) {
  return band.lo > band.k.begin - (band.q.end - 1) || band.hi < band.k.end - 1 - band.q.begin;
}

}  // namespace weft::kernels
