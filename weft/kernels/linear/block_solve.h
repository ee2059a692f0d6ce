// Unit lower triangular systems, block by block: the blocks on the diagonal are inverted, what lies below them is products.
// Private to this folder.
#pragma once

#include "weft/kernels/linear/block_matrix.h"

namespace weft::kernels {

// x = (I - l)^-1 b, l strictly lower triangular.
template <typename T>
class UnitLower {
 public:
  using M = BlockMatrix<T>;
  explicit UnitLower(const Blocks<T>& blocks) : blocks_(blocks) {}

  // `l` must live as long as it is solved with.
  void load(const M& l) {
    l_ = &l;
    inverse_.shape(l.rows(), kBlock);
    inverse_.zero();
    for (int64_t begin = 0; begin < l.rows(); begin += kBlock) {
      for (int64_t i = 0; i < size_at(begin); ++i) {
        T* const row = inverse_.row(begin + i);
        row[i] = 1;
        for (int64_t j = 0; j < i; ++j) {
          const T factor = l.row(begin + i)[begin + j], *const earlier = inverse_.row(begin + j);
          for (int64_t c = 0; c <= j; ++c) row[c] += factor * earlier[c];
        }
      }
    }
  }
  // The right hand side is spoilt.
  void solve(M& b, M& x) const {
    x.shape_like(b);
    for (int64_t begin = 0; begin < b.rows(); begin += kBlock) {
      const int64_t rows = size_at(begin);
      const Left row = {l_->row(begin), l_->stride(), 1}, inverse = {inverse_.row(begin), inverse_.stride(), 1};
      if (begin > 0) multiply(row, rows, begin, x, 0, b, begin, Part::all, Kept::everything);
      multiply(inverse, rows, rows, b, begin, x, begin, Part::lower_a, Kept::nothing);
    }
  }
  // x = (I - l)^-T b
  void solve_transposed(M& b, M& x) const {
    x.shape_like(b);
    for (int64_t begin = (b.rows() - 1) / kBlock * kBlock; begin >= 0; begin -= kBlock) {
      const int64_t rows = size_at(begin), end = begin + rows;
      const Left inverse = {inverse_.row(begin), 1, inverse_.stride()};
      if (end < b.rows()) {
        const Left column = {l_->row(end) + begin, 1, l_->stride()};
        multiply(column, rows, b.rows() - end, x, end, b, begin, Part::all, Kept::everything);
      }
      multiply(inverse, rows, rows, b, begin, x, begin, Part::upper_a, Kept::nothing);
    }
  }

 private:
  static constexpr int64_t kBlock = 16;
  using Part = typename Product<T>::Part;
  using Kept = typename Product<T>::Kept;
  struct Left {
    const T* data;
    int64_t row, column;
  };

  int64_t size_at(int64_t begin) const { return std::min(kBlock, l_->rows() - begin); }
  void multiply(const Left& a, int64_t m, int64_t k, const M& b, int64_t b_begin, M& to, int64_t to_begin, Part part,
                Kept kept) const {
    blocks_.ops.multiply({.m = m,
                          .n = b.columns(),
                          .k = k,
                          .a = a.data,
                          .a_row = a.row,
                          .a_column = a.column,
                          .b = b.row(b_begin),
                          .b_row = b.stride(),
                          .to = to.row(to_begin),
                          .to_row = to.stride(),
                          .part = part,
                          .kept = kept});
  }

  const Blocks<T> blocks_;
  const M* l_ = nullptr;
  M inverse_;
};

}  // namespace weft::kernels
