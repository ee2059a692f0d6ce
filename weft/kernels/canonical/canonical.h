// Canonical kernels: the same bits however attention was cut and in whatever order its pieces were put together.
//
// Two things make them so.
//   - A row of queries meets keys tile by tile; tiles are fixed ranges of positions in the sequence (AttendArgs::tile). The
//     contribution of one tile to one row (for dk and dv: of one tile of queries to one key) depends on nothing else: not on
//     what other rows, tiles or heads are in the call. A tile that several rectangles of the mask cut counts once for each.
//   - Contributions are added in exact sums (exact_sum.h), where order and grouping leave no trace.
//
// o is sum over tiles of e^m p.v and lse the sum of e^m p, numerator and denominator apart, with 2^(32 * reference) taken out
// of both: `reference`, the largest that any tile had, is the first word of a DType::expsum2 or expsum3, its sum the rest.
// Since 2^k of every tile's weight is taken out with k whole, no weight is rounded on the way. The empty partial is all
// zeros, as are empty sums.
//
// Whoever calls sees to it that a block has, for each of its rows, all the keys of its tile that the same rectangle of
// the mask allows, and for dk and dv the other way round.
#pragma once

#include <memory>

#include "weft/kernels/kernels.h"
#include "weft/kernels/tile_ops.h"

namespace weft::kernels {

// Canonical kernels on top of others: with their name and their prepare_backward, and their arithmetic if `ops` is not null;
// else in plain fp64 loops. Both must live as long.
std::unique_ptr<KernelSet> make_canonical(const KernelSet& base, const TileOps* ops);

// ---- for the files that implement it

// Words of a row of `columns` sums at (row, head).
inline int64_t* words_at(const View& view, int64_t row, int64_t head) {
  return static_cast<int64_t*>(view.data) + size_of(view.type) / 8 * (row * view.row_stride + head * view.head_stride);
}
inline const int64_t* words_at(const ConstView& view, int64_t row, int64_t head) {
  return words_at(View{const_cast<void*>(view.data), view.type, view.row_stride, view.head_stride}, row, head);
}

// A tile's weight e^m as 2^(32 * reference) * factor, with whole `reference` and 1/2 < factor < 2^32.
struct TileWeight {
  double reference = 0;
  double factor = 1;
};
// Of 2^log2, finite.
TileWeight weight_of(double log2);

// Makes room in a row's partial for a tile of this reference, and returns how many bins down from the row's own reference
// it then is: 0 or less.
int64_t raise_reference(int64_t* o, int64_t* expsum, DType sum_type, int64_t columns, double reference);

// Adds a tile whose scores are not finite: the row is NaN from now on.
void add_nan(int64_t* o, int64_t* expsum, DType sum_type, int64_t columns);

// Calls f(Range) for the pieces of `rows` that tiles cut; `position` is that of rows.begin.
template <typename F>
void for_each_tile(Range rows, int64_t position, int64_t tile, F&& f) {
  for (int64_t begin = rows.begin; begin < rows.end;) {
    const int64_t end = begin + tile - (position + begin - rows.begin) % tile;
    f(Range{begin, end < rows.end ? end : rows.end});
    begin = end;
  }
}

void canonical_reference_attend(const AttendArgs& args);
void canonical_reference_attend_backward(const AttendBackwardArgs& args);
void canonical_cpu_attend(const TileOps& ops, const AttendArgs& args);
void canonical_cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args);

}  // namespace weft::kernels
