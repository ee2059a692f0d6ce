// Matrices of BlockOps that own their memory, and the operations on them by name. Private to this folder.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "weft/base/error.h"
#include "weft/kernels/block_ops.h"

namespace weft::kernels {

// A matrix whose rows are whole strips, aligned to a cache line; it only grows. What it holds is not kept when it is shaped anew.
template <typename T>
class BlockMatrix {
 public:
  void shape(int64_t rows, int64_t columns) {
    rows_ = rows, columns_ = columns;
    // An odd number of cache lines: else a strip of many rows would lie in few of the nearest cache's sets.
    stride_ = (columns + kBlockColumns - 1) / kBlockColumns * kBlockColumns + 64 / static_cast<int64_t>(sizeof(T));
    const size_t bytes = (static_cast<size_t>(rows * stride_ + kBlockColumns) * sizeof(T) + 63) / 64 * 64;
    if (bytes <= bytes_) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    bytes_ = bytes;
    for (size_t i = 0; i < bytes / sizeof(T); ++i) data_.get()[i] = T{0};
  }
  void shape_like(const BlockMatrix& other) { shape(other.rows_, other.columns_); }
  void copy(const BlockMatrix& other) {
    shape_like(other);
    std::copy_n(other.row(0), rows_ * stride_, row(0));
  }
  void zero() { std::fill_n(data_.get(), rows_ * stride_, T{0}); }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t stride() const { return stride_; }
  T* row(int64_t r) { return data_.get() + r * stride_; }
  const T* row(int64_t r) const { return data_.get() + r * stride_; }
  RowsOf<T> from_row(int64_t r) { return {row(r), stride_}; }
  RowsOf<const T> from_row(int64_t r) const { return {row(r), stride_}; }
  operator RowsOf<T>() { return from_row(0); }
  operator RowsOf<const T>() const { return from_row(0); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t bytes_ = 0;
  int64_t rows_ = 0, columns_ = 0, stride_ = 0;
};

// BlockOps on such matrices: shapes follow from the operands.
template <typename T>
class Blocks {
 public:
  using M = BlockMatrix<T>;
  using Part = typename Product<T>::Part;
  using Kept = typename Product<T>::Kept;
  explicit Blocks(const BlockOps<T>& of) : ops(of) {}

  // a b, shaped by the call.
  void product(const M& a, const M& b, M& to, T factor = 1, Part part = Part::all) const {
    to.shape(a.rows(), b.columns());
    multiply(rows_of(a), b, to, factor, part, Kept::nothing);
  }
  void add_product(const M& a, const M& b, M& to, T factor = 1, Part part = Part::all) const {
    multiply(rows_of(a), b, to, factor, part, Kept::everything);
  }
  // a^T b; `part` is of a^T.
  void transposed_product(const M& a, const M& b, M& to, T factor = 1, Part part = Part::all) const {
    to.shape(a.columns(), b.columns());
    multiply(columns_of(a), b, to, factor, part, Kept::nothing);
  }
  void add_transposed_product(const M& a, const M& b, M& to, T factor = 1, Part part = Part::all) const {
    multiply(columns_of(a), b, to, factor, part, Kept::everything);
  }
  // to = diag(kept) to + factor * a^T b.
  void decay_and_add(const T* kept, const M& a, const M& b, M& to, T factor = 1) const {
    multiply(columns_of(a), b, to, factor, Part::all, Kept::rows, kept);
  }
  void transpose(const M& from, M& to) const {
    to.shape(from.columns(), from.rows());
    ops.transpose(from, from.rows(), from.columns(), to);
  }
  void times(const M& from, RowsOf<const T> factors, M& to) const {
    to.shape_like(from);
    ops.times(from, factors, from.rows(), from.columns(), to);
  }
  void times_in_place(M& to, RowsOf<const T> factors) const { ops.times(to, factors, to.rows(), to.columns(), to); }
  void scale_rows(const M& from, const T* factors, M& to) const {
    to.shape_like(from);
    ops.scale_rows(from, factors, from.rows(), from.columns(), to);
  }
  void add(const M& from, M& to, T factor = 1) const { ops.add(from, factor, from.rows(), from.columns(), to); }

  const BlockOps<T>& ops;

 private:
  struct Left {
    const T* data;
    int64_t rows, columns, row, column;
  };
  static Left rows_of(const M& a) { return {a.row(0), a.rows(), a.columns(), a.stride(), 1}; }
  static Left columns_of(const M& a) { return {a.row(0), a.columns(), a.rows(), 1, a.stride()}; }
  void multiply(const Left& a, const M& b, M& to, T factor, Part part, Kept kept, const T* row_kept = nullptr) const {
    WEFT_CHECK(a.columns == b.rows() && to.rows() == a.rows && to.columns() == b.columns());
    ops.multiply({.m = a.rows,
                  .n = b.columns(),
                  .k = a.columns,
                  .a = a.data,
                  .a_row = a.row,
                  .a_column = a.column,
                  .b = b.row(0),
                  .b_row = b.stride(),
                  .to = to.row(0),
                  .to_row = to.stride(),
                  .part = part,
                  .factor = factor,
                  .kept = kept,
                  .row_kept = row_kept});
  }
};

}  // namespace weft::kernels
