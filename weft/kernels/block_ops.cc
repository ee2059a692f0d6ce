// BlockOps as plain loops: in fp64, and in fp32 for the reference.
#include "weft/kernels/block_ops.h"

#include <algorithm>
#include <cmath>

#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

template <typename T>
struct PlainBlocks {
  using Part = typename Product<T>::Part;
  using Kept = typename Product<T>::Kept;
  using In = RowsOf<const T>;
  using Out = RowsOf<T>;

  // Calls f(row of a, row of b, row of c) for every row.
  template <typename A, typename B, typename C, typename F>
  static void each_row(A a, B b, C c, int64_t rows, F&& f) {
    for (int64_t r = 0; r < rows; ++r) f(a.data + r * a.stride, b.data + r * b.stride, c.data + r * c.stride);
  }

  static void multiply(const Product<T>& p) {
    for (int64_t i = 0; i < p.m; ++i) {
      T* const to = p.to + i * p.to_row;
      const int64_t n = p.part == Part::lower_result ? std::min(p.n, i + 1) : p.n;
      for (int64_t j = 0; j < n; ++j) to[j] *= p.kept == Kept::rows ? p.row_kept[i] : T{1};
      if (p.kept == Kept::nothing) std::fill_n(to, n, T{0});
      const T factor = p.factor * (p.row_factors ? p.row_factors[i] : T{1});
      const int64_t begin = p.part == Part::upper_a ? i : 0, end = p.part == Part::lower_a ? std::min(p.k, i + 1) : p.k;
      for (int64_t l = begin; l < end; ++l) {
        const T a = factor * p.a[i * p.a_row + l * p.a_column];
        const T* const b = p.b + l * p.b_row;
        for (int64_t j = 0; j < n; ++j) to[j] += a * b[j];
      }
    }
  }
  static void transpose(In from, int64_t rows, int64_t columns, Out to) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) to.data[c * to.stride + r] = from.data[r * from.stride + c];
    }
  }
  static void read(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns, int64_t, Out to) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c)
        to.data[r * to.stride + c] = static_cast<T>(load_element(from, type, r * stride + c));
    }
  }
  static void exponentials(In from, int64_t rows, int64_t columns, Out to) {
    each_row(from, from, to, rows, [&](const T* x, const T*, T* y) {
      for (int64_t c = 0; c < columns; ++c) y[c] = std::exp(x[c]);
    });
  }
  static void scale_rows(In from, const T* factors, int64_t rows, int64_t columns, Out to) {
    each_row(from, In{factors, 1}, to, rows, [&](const T* x, const T* factor, T* y) {
      for (int64_t c = 0; c < columns; ++c) y[c] = *factor * x[c];
    });
  }
  static void times(In from, In factors, int64_t rows, int64_t columns, Out to) {
    each_row(from, factors, to, rows, [&](const T* x, const T* factor, T* y) {
      for (int64_t c = 0; c < columns; ++c) y[c] = x[c] * factor[c];
    });
  }
  static void times_lower(In from, In factors, int64_t rows, Out to) {
    const int64_t whole = (rows + kBlockColumns - 1) / kBlockColumns * kBlockColumns;
    int64_t r = 0;
    each_row(from, factors, to, rows, [&](const T* x, const T* factor, T* y) {
      ++r;
      for (int64_t c = 0; c < r; ++c) y[c] = x[c] * factor[c];
      std::fill(y + r, y + whole, T{0});
    });
  }
  static void add(In from, T factor, int64_t rows, int64_t columns, Out to) {
    each_row(from, from, to, rows, [&](const T* x, const T*, T* y) {
      for (int64_t c = 0; c < columns; ++c) y[c] += factor * x[c];
    });
  }
  static void add_times(In a, In b, T factor, int64_t rows, int64_t columns, Out to) {
    each_row(a, b, to, rows, [&](const T* x, const T* y, T* z) {
      for (int64_t c = 0; c < columns; ++c) z[c] += factor * x[c] * y[c];
    });
  }
  static T dot(const T* a, const T* b, int64_t n) {
    constexpr int64_t kLanes = 8;
    T lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    }
    T sum = 0;
    for (; i < n; ++i) sum += a[i] * b[i];
    for (const T lane : lanes) sum += lane;
    return sum;
  }
  static void dots(In a, In b, int64_t rows, int64_t columns, T* to) {
    each_row(a, b, Out{to, 1}, rows, [&](const T* x, const T* y, T* sum) { *sum = dot(x, y, columns); });
  }
  static void step_columns(const ColumnStep<T>& s) {
    const int64_t width = s.columns / s.parts;
    for (int64_t r = 0; r < s.rows; ++r) {
      const T* const from = row(s.from, r);
      T* const to = s.to.data + r * s.to.stride;
      for (int64_t c = 0; c < width; ++c) {
        T next[2] = {};
        for (int64_t i = 0; i < s.parts; ++i) {
          if (s.factors) next[i] = s.factors[r] * s.added[i * width + c];
          for (int64_t j = 0; j < s.parts; ++j) {
            next[i] += s.a[(s.transposed ? j * s.parts + i : i * s.parts + j) * width + c] * from[j * width + c];
          }
        }
        for (int64_t i = 0; i < s.parts; ++i) to[i * width + c] = next[i];
      }
    }
  }
  static const T* row(In rows, int64_t r) { return rows.data + r * rows.stride; }
  static void pair_scores(const DecayedPairs<T>& p, Out to) {
    for (int64_t j = 0; j + 1 < p.tokens; ++j) {
      std::copy_n(row(p.y, j), p.columns, p.scratch);
      for (int64_t i = j + 1; i < p.tokens; ++i) {
        T& score = to.data[i * to.stride + j];
        if (p.before) score = dot(row(p.x, i), p.scratch, p.columns);
        for (int64_t c = 0; c < p.columns; ++c) p.scratch[c] *= row(p.decay, i)[c];
        if (!p.before) score = dot(row(p.x, i), p.scratch, p.columns);
      }
    }
  }
  static void pair_gradients(const DecayedPairs<T>& p, In dscores, Out dx, Out dy) {
    for (int64_t j = 0; j + 1 < p.tokens; ++j) {
      std::fill_n(p.scratch, p.columns, T{1});
      T* const to_y = dy.data + j * dy.stride;
      for (int64_t i = j + 1; i < p.tokens; ++i) {
        const T *const decay = row(p.decay, i), *const x = row(p.x, i), *const y = row(p.y, j);
        T* const to_x = dx.data + i * dx.stride;
        const T dscore = row(dscores, i)[j];
        for (int64_t c = 0; c < p.columns; ++c) {
          const T passed = p.before ? p.scratch[c] : p.scratch[c] * decay[c];
          to_x[c] += dscore * passed * y[c];
          to_y[c] += dscore * passed * x[c];
          p.scratch[c] *= decay[c];
        }
      }
    }
  }
};

}  // namespace

template <typename T>
const BlockOps<T>& plain_block_ops() {
  using Plain = PlainBlocks<T>;
  static constexpr BlockOps<T> kOps = {Plain::multiply,    Plain::transpose, Plain::read,        Plain::exponentials,
                                       Plain::scale_rows,  Plain::times,     Plain::times_lower, Plain::add,
                                       Plain::add_times,   Plain::dots,      Plain::pair_scores, Plain::pair_gradients,
                                       Plain::step_columns};
  return kOps;
}

const BlockOps<float>& KernelSet::blocks() const { return plain_block_ops<float>(); }

template const BlockOps<float>& plain_block_ops<float>();
template const BlockOps<double>& plain_block_ops<double>();

}  // namespace weft::kernels
