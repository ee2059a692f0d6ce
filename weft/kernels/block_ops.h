// The products and row operations of which the local work of linear layers is made: plain data and raw pointers, compiled
// once per instruction set like tile_ops.h, and as plain loops for fp64 and for the reference.
//
// Operands lie in memory row by row. A matrix that is the right operand or the result of a product has room for whole
// strips in each row, a multiple of kBlockColumns; what lies behind its columns never counts. Nothing is packed: these matrices are a chunk of tokens by a head's columns, and stay in the nearest caches.
#pragma once

#include <cstdint>

#include "weft/base/dtype.h"

namespace weft::kernels {

inline constexpr int64_t kBlockColumns = 32;  // a multiple of the strip of every path

// to(i, j) = row_kept(i) * to(i, j) + factor * row_factors(i) * sum over l of a(i, l) b(l, j).
template <typename T>
struct Product {
  // Which part of a is there, or of the result is wanted: other terms are left out, in whole panels of rows; so of a, what
  // is not there must be 0 near the diagonal, and of the result, something is written there.
  enum class Part { all, lower_a, upper_a, lower_result };
  enum class Kept { nothing, everything, rows };

  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t a_row = 0, a_column = 0;  // a(i, l) = a[i * a_row + l * a_column]; one of the two is 1
  const T* b = nullptr;
  int64_t b_row = 0;
  T* to = nullptr;
  int64_t to_row = 0;
  Part part = Part::all;
  T factor = 1;
  const T* row_factors = nullptr;  // null: 1
  Kept kept = Kept::nothing;
  const T* row_kept = nullptr;
};

// A matrix to read or write in row operations: rows of any length, `stride` apart; 0 repeats one row.
template <typename T>
struct RowsOf {
  T* data;
  int64_t stride;
  operator RowsOf<const T>() const { return {data, stride}; }  // to read what may be written; not for the paths' files
};

// The pairs of a few neighbouring tokens with a decay for each column: token i reads by x what an earlier token j wrote by
// y, and on the way it has passed the decays of the tokens after j up to i; or before i where `before`.
template <typename T>
struct DecayedPairs {
  int64_t tokens, columns;
  RowsOf<const T> x, y;
  RowsOf<const T> decay;  // exp g of every token
  bool before;
  T* scratch;  // columns, with room for whole strips
};

// Rows of a state, each multiplied by columns: to(r) = A from(r) + factors(r) * added, with A of `parts` x `parts` diagonals of
// columns / parts numbers, row by row, 1 or 2 parts; transposed: by A^T. `to` may be `from`.
template <typename T>
struct ColumnStep {
  const T* a;
  int64_t parts, rows, columns;
  bool transposed;
  RowsOf<const T> from;
  const T* factors;  // null: nothing is added
  const T* added;    // [columns]
  RowsOf<T> to;
};

template <typename T>
struct BlockOps {
  void (*multiply)(const Product<T>& product);
  // to(c, r) = from(r, c). Columns of `to` behind `rows` up to whole vectors are spoilt.
  void (*transpose)(RowsOf<const T> from, int64_t rows, int64_t columns, RowsOf<T> to);
  // to = from, as T. The rows that lie `ahead` rows further are read next, and asked of memory meanwhile; 0: none.
  void (*read)(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns, int64_t ahead,
               RowsOf<T> to);
  // to = exp(from) for from <= 0. In fp32 0 below -87, within 2e-7.
  void (*exponentials)(RowsOf<const T> from, int64_t rows, int64_t columns, RowsOf<T> to);
  // to(r, c) = factors(r) * from(r, c)
  void (*scale_rows)(RowsOf<const T> from, const T* factors, int64_t rows, int64_t columns, RowsOf<T> to);
  // to(r, c) = from(r, c) * factors(r, c)
  void (*times)(RowsOf<const T> from, RowsOf<const T> factors, int64_t rows, int64_t columns, RowsOf<T> to);
  // The same for columns up to r; 0 behind them, up to whole strips.
  void (*times_lower)(RowsOf<const T> from, RowsOf<const T> factors, int64_t rows, RowsOf<T> to);
  // to(r, c) += factor * from(r, c)
  void (*add)(RowsOf<const T> from, T factor, int64_t rows, int64_t columns, RowsOf<T> to);
  // to(r, c) += factor * a(r, c) * b(r, c)
  void (*add_times)(RowsOf<const T> a, RowsOf<const T> b, T factor, int64_t rows, int64_t columns, RowsOf<T> to);
  // to(r) = sum over c of a(r, c) b(r, c)
  void (*dots)(RowsOf<const T> a, RowsOf<const T> b, int64_t rows, int64_t columns, T* to);
  // to(i, j) = sum over columns of x(i) y(j) and the decays between them, j < i.
  void (*pair_scores)(const DecayedPairs<T>& pairs, RowsOf<T> to);
  // From gradients of these: dx and dy are added to.
  void (*pair_gradients)(const DecayedPairs<T>& pairs, RowsOf<const T> dscores, RowsOf<T> dx, RowsOf<T> dy);
  void (*step_columns)(const ColumnStep<T>& step);
};

// Plain loops in T: float or double.
template <typename T>
const BlockOps<T>& plain_block_ops();

}  // namespace weft::kernels
