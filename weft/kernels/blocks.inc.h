// BlockOps of a path: products on operands as they lie in memory, and operations on rows.
#pragma once

#include "weft/kernels/block_ops.h"
#if defined(WEFT_AVX2_MICROKERNEL)
#include "weft/kernels/blocks_avx2.inc.h"
#endif

namespace weft::kernels {
namespace {

using BlockProduct = Product<float>;
using BlockIn = RowsOf<const float>;
using BlockOut = RowsOf<float>;
static_assert(kBlockColumns % kStrip == 0);

// Rows [row, row + kRows) of one strip of the result.
template <int kRows>
static void multiply_panel(const BlockProduct& p, int64_t row, int64_t column) {
  int64_t begin = 0, end = p.k;
  if (p.part == BlockProduct::Part::lower_a) end = smaller(end, row + kRows);
  if (p.part == BlockProduct::Part::upper_a) begin = smaller(end, row);
  const float *a = p.a + row * p.a_row + begin * p.a_column, *b = p.b + begin * p.b_row + column;
  int64_t depth = end - begin;
  TileRows<kRows> c;
#if defined(WEFT_AVX2_MICROKERNEL)
  if constexpr (kRows == kPanel) {
    multiply_fours(c, a, p.a_row, p.a_column, b, p.b_row, depth);
    depth %= 4;
  } else {
    c = {};
  }
#else
  c = {};
#endif
  multiply_rows(c, a, p.a_row, p.a_column, b, p.b_row, depth);
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float* const to = p.to + (row + r) * p.to_row + column;
    const Vec factor = broadcast(p.row_factors ? p.factor * p.row_factors[row + r] : p.factor);
    Vec low = factor * c.row[r][0], high = factor * c.row[r][1];
    if (p.kept == BlockProduct::Kept::everything) low += load(to), high += load(to + kLanes);
    if (p.kept == BlockProduct::Kept::rows) {
      const Vec kept = broadcast(p.row_kept[row + r]);
      low = fma(kept, load(to), low);
      high = fma(kept, load(to + kLanes), high);
    }
    store(to, low);
    store(to + kLanes, high);
  }
}

// The last rows, fewer than a panel.
template <int kRows>
static void multiply_last(const BlockProduct& p, int64_t row, int64_t column) {
  if constexpr (kRows > 0) {
    if (p.m - row == kRows) return multiply_panel<kRows>(p, row, column);
    multiply_last<kRows - 1>(p, row, column);
  }
}

static void multiply_blocks(const BlockProduct& p) {
  for (int64_t column = 0; column < p.n; column += kStrip) {
    // Rows that end before the strip have no part of a lower result in it.
    int64_t row = p.part == BlockProduct::Part::lower_result ? column / kPanel * kPanel : 0;
    for (; row + kPanel <= p.m; row += kPanel) multiply_panel<kPanel>(p, row, column);
    multiply_last<kPanel - 1>(p, row, column);
  }
}

static void transpose_rows(BlockIn from, int64_t rows, int64_t columns, BlockOut to) {
  for (int64_t row = 0; row < rows; row += kLanes) {
    const int64_t count = smaller(kLanes, rows - row);
    const Piece piece = {from.data + row * from.stride, from.stride};
    if (count == kLanes) {
      pack_piece(piece, kLanes, columns, to.stride, 1, to.data + row);
    } else {
      pack_piece(piece, count, columns, to.stride, 1, to.data + row);
    }
  }
}

static void read_rows(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns, int64_t ahead,
                      BlockOut to) {
  const int64_t size = type == DType::fp32 ? 4 : 2;
  for (int64_t r = 0; r < rows; ++r) {
    if (ahead != 0) prefetch_rows<2>(from, size, stride, r + ahead, r + ahead + 1, columns);
    to_float((const char*)from + r * stride * size, type, to.data + r * to.stride, columns);
  }
}

// Calls body(c, lanes, r) for the lanes of every row.
template <typename Body>
WEFT_INLINE void for_rows(int64_t rows, int64_t columns, Body body) {
  for (int64_t r = 0; r < rows; ++r) for_lanes(columns, [&](int64_t c, auto lanes) { body(c, lanes, r); });
}

static void exp_rows(BlockIn from, int64_t rows, int64_t columns, BlockOut to) {
  const Vec factor = broadcast((float)kLog2E);
  for_rows(rows, columns, [&](int64_t c, auto lanes, int64_t r) {
    write(to.data + r * to.stride, c, lanes, exp2(read(from.data + r * from.stride, c, lanes) * factor));
  });
}

static void scale_rows_of(BlockIn from, const float* factors, int64_t rows, int64_t columns, BlockOut to) {
  for_rows(rows, columns, [&](int64_t c, auto lanes, int64_t r) {
    write(to.data + r * to.stride, c, lanes, broadcast(factors[r]) * read(from.data + r * from.stride, c, lanes));
  });
}

static void times_rows(BlockIn from, BlockIn factors, int64_t rows, int64_t columns, BlockOut to) {
  for_rows(rows, columns, [&](int64_t c, auto lanes, int64_t r) {
    const Vec product = read(from.data + r * from.stride, c, lanes) * read(factors.data + r * factors.stride, c, lanes);
    write(to.data + r * to.stride, c, lanes, product);
  });
}

static void times_lower(BlockIn from, BlockIn factors, int64_t rows, BlockOut to) {
  const int64_t whole = round_up(rows, kBlockColumns);
  for (int64_t r = 0; r < rows; ++r) {
    const float *const x = from.data + r * from.stride, *const factor = factors.data + r * factors.stride;
    float* const y = to.data + r * to.stride;
    for_lanes(r + 1, [&](int64_t c, auto lanes) { write(y, c, lanes, read(x, c, lanes) * read(factor, c, lanes)); });
    for (int64_t c = r + 1; c < whole; ++c) y[c] = 0;
  }
}

static void add_block_rows(BlockIn from, float factor, int64_t rows, int64_t columns, BlockOut to) {
  for (int64_t r = 0; r < rows; ++r)
    scale_add(to.data + r * to.stride, 1, from.data + r * from.stride, factor, columns);
}

static void add_times_rows(BlockIn a, BlockIn b, float factor, int64_t rows, int64_t columns, BlockOut to) {
  const Vec by = broadcast(factor);
  for_rows(rows, columns, [&](int64_t c, auto lanes, int64_t r) {
    float* const sum = to.data + r * to.stride;
    const Vec x = by * read(a.data + r * a.stride, c, lanes);
    write(sum, c, lanes, fma(x, read(b.data + r * b.stride, c, lanes), read(sum, c, lanes)));
  });
}

static void dot_rows(BlockIn a, BlockIn b, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *const x = a.data + r * a.stride, *const y = b.data + r * b.stride;
    to[r] = sum_lanes(columns,
                      [&](int64_t c, auto lanes, Vec sum) { return fma(read(x, c, lanes), read(y, c, lanes), sum); });
  }
}

static void pair_scores(const DecayedPairs<float>& p, BlockOut to) {
  for (int64_t j = 0; j + 1 < p.tokens; ++j) {
    to_float(p.y.data + j * p.y.stride, DType::fp32, p.scratch, p.columns);
    for (int64_t i = j + 1; i < p.tokens; ++i) {
      const float *const x = p.x.data + i * p.x.stride, *const decay = p.decay.data + i * p.decay.stride;
      to.data[i * to.stride + j] = sum_lanes(p.columns, [&](int64_t c, auto lanes, Vec sum) {
        const Vec old = read(p.scratch, c, lanes), passed = old * read(decay, c, lanes);
        write(p.scratch, c, lanes, passed);
        return fma(read(x, c, lanes), p.before ? old : passed, sum);
      });
    }
  }
}

static void pair_gradients(const DecayedPairs<float>& p, BlockIn dscores, BlockOut dx, BlockOut dy) {
  for (int64_t j = 0; j + 1 < p.tokens; ++j) {
    const float* const y = p.y.data + j * p.y.stride;
    float* const to_y = dy.data + j * dy.stride;
    for_lanes(p.columns, [&](int64_t c, auto lanes) {
      const Vec written = read(y, c, lanes);
      Vec decay = broadcast(1), sum = read(to_y, c, lanes);
      for (int64_t i = j + 1; i < p.tokens; ++i) {
        const Vec next = decay * read(p.decay.data + i * p.decay.stride, c, lanes);
        const Vec passed = broadcast(dscores.data[i * dscores.stride + j]) * (p.before ? decay : next);
        float* const to_x = dx.data + i * dx.stride;
        write(to_x, c, lanes, fma(passed, written, read(to_x, c, lanes)));
        sum = fma(passed, read(p.x.data + i * p.x.stride, c, lanes), sum);
        decay = next;
      }
      write(to_y, c, lanes, sum);
    });
  }
}

template <int kParts>
static void step_columns_of(const ColumnStep<float>& s) {
  const int64_t width = s.columns / kParts;
  for (int64_t r = 0; r < s.rows; ++r) {
    const float* const from = s.from.data + r * s.from.stride;
    float* const to = s.to.data + r * s.to.stride;
    const Vec factor = broadcast(s.factors ? s.factors[r] : 0.0f);
    for_lanes(width, [&](int64_t c, auto lanes) {
      Vec before[kParts], next[kParts];
      WEFT_UNROLL
      for (int i = 0; i < kParts; ++i) {
        before[i] = read(from + i * width, c, lanes);
        next[i] = s.factors ? factor * read(s.added + i * width, c, lanes) : Vec{};
      }
      WEFT_UNROLL
      for (int i = 0; i < kParts; ++i) {
        WEFT_UNROLL
        for (int j = 0; j < kParts; ++j) {
          const int64_t diagonal = s.transposed ? j * kParts + i : i * kParts + j;
          next[i] = fma(read(s.a + diagonal * width, c, lanes), before[j], next[i]);
        }
      }
      WEFT_UNROLL
      for (int i = 0; i < kParts; ++i) write(to + i * width, c, lanes, next[i]);
    });
  }
}

static void step_columns(const ColumnStep<float>& s) { s.parts == 1 ? step_columns_of<1>(s) : step_columns_of<2>(s); }

constexpr BlockOps<float> kBlockOps = {multiply_blocks, transpose_rows, read_rows,      exp_rows,       scale_rows_of,
                                       times_rows,      times_lower,    add_block_rows, add_times_rows, dot_rows,
                                       pair_scores,     pair_gradients, step_columns};

}  // namespace
}  // namespace weft::kernels
