// Transitions that act on columns of the state: blocks x blocks diagonals. Private to this folder.
#pragma once

#include <cstdint>

namespace weft::kernels::recurrence_internal {

template <typename T>
void add_products(const T* __restrict a, const T* __restrict b, int64_t count, T* __restrict to) {
  for (int64_t c = 0; c < count; ++c) to[c] += a[c] * b[c];
}

// A of Mixing::columns, for rows of a state: y_i = sum over j of a_ij * x_j, where x and y have `blocks` parts of `width` numbers.
template <typename T>
struct ColumnMap {
  const T* a;
  int64_t blocks, width;

  const T* diagonal(int64_t i, int64_t j) const { return a + (i * blocks + j) * width; }
  // y += A x, and y += A^T x.
  void add(const T* x, T* y) const {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t j = 0; j < blocks; ++j) add_products(diagonal(i, j), x + j * width, width, y + i * width);
    }
  }
  void add_transposed(const T* x, T* y) const {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t j = 0; j < blocks; ++j) add_products(diagonal(i, j), x + i * width, width, y + j * width);
    }
  }
  // to += A first, for the map that comes before this one.
  void add_after(const T* first, T* to) const {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t l = 0; l < blocks; ++l) {
        for (int64_t j = 0; j < blocks; ++j) {
          add_products(diagonal(i, l), first + (l * blocks + j) * width, width, to + (i * blocks + j) * width);
        }
      }
    }
  }
};

}  // namespace weft::kernels::recurrence_internal
