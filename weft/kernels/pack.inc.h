// Packing operands into strip and column form, and unpacking results (the forms are defined in
// tile_ops.h). These cost little beside the products as long as they stay near one cycle per
// element, hence transposes in registers.
#pragma once

namespace weft::kernels {
namespace {

// A piece of the input as floats: kLanes rows or fewer, and kChunk columns or fewer.
inline constexpr int64_t kChunk = 128;
struct Piece {
  const float* data;
  int64_t stride;
};
WEFT_INLINE Piece piece(const RowsIn& from, int64_t row, int64_t rows, int64_t column, int64_t columns, float* chunk) {
  if (from.type == DType::fp32) return {(const float*)from.data + row * from.stride + column, from.stride};
  for (int64_t r = 0; r < rows; ++r) {
    to_float((const uint16_t*)from.data + (row + r) * from.stride + column, from.type, chunk + r * kChunk, columns);
  }
  return {chunk, kChunk};
}

// Rows further down, which the processor does not foresee where other heads lie between: they are wanted in a moment, or with
// kLocality 2 later, from the second cache.
inline constexpr int64_t kAhead = 16;
template <int kLocality = 3>
WEFT_INLINE void prefetch_rows(const void* data, int64_t size, int64_t stride, int64_t begin, int64_t end,
                               int64_t columns) {
  for (int64_t row = begin; row < end; ++row) {
    const char* at = (const char*)data + row * stride * size;
    for (int64_t byte = 0; byte < columns * size; byte += 64) __builtin_prefetch(at + byte, 0, kLocality);
  }
}
WEFT_INLINE void prefetch_ahead(const RowsIn& from, int64_t row, int64_t count) {
  prefetch_rows(from.data, from.type == DType::fp32 ? 4 : 2, from.stride, smaller(row + kAhead, from.rows),
                smaller(row + kAhead + count, from.rows), from.columns);
}
WEFT_INLINE void prefetch_ahead(const float* to, int64_t stride, int64_t row, int64_t rows, int64_t columns) {
  if (row + kAhead < rows) prefetch_rows(to, sizeof(float), stride, row + kAhead, row + kAhead + 1, columns);
}

// Transposes `rows` rows into to[column * width + row]. Stores whole vectors: where the rows are
// fewer than kLanes, zeros follow them, which the next column or panel overwrites and for which
// scratch buffers have room at their end.
WEFT_INLINE void pack_piece(Piece from, int64_t rows, int64_t columns, int64_t width, float factor, float* to) {
  const Vec scale = broadcast(factor);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    Vec v[kLanes];
    WEFT_UNROLL
    for (int r = 0; r < kLanes; ++r) v[r] = r < rows ? load(from.data + r * from.stride + c) * scale : Vec{};
    transpose(v);
    WEFT_UNROLL
    for (int j = 0; j < kLanes; ++j) store(to + (c + j) * width, v[j]);
  }
  for (; c < columns; ++c) {
    Vec v = {};
    for (int r = 0; r < rows; ++r) v[r] = from.data[r * from.stride + c] * factor;
    store(to + c * width, v);
  }
}

static void pack_rows(const RowsIn& from, int64_t width, float factor, float* to) {
  float chunk[kLanes * kChunk];
  for (int64_t base = 0; base < from.rows; base += width) {
    prefetch_ahead(from, base, width);
    for (int64_t r = 0; r < width; r += kLanes) {
      // Panels lower than a vector are one piece; strips are two, the second perhaps without any
      // row.
      const int64_t rows = larger(0, smaller(smaller(kLanes, width - r), from.rows - base - r));
      for (int64_t column = 0; column < from.columns; column += kChunk) {
        const int64_t n = smaller(kChunk, from.columns - column);
        float* target = to + base * from.columns + column * width + r;
        if (rows == kLanes) {
          pack_piece(piece(from, base + r, kLanes, column, n, chunk), kLanes, n, width, factor, target);
        } else if (rows == kPanel) {
          pack_piece(piece(from, base + r, kPanel, column, n, chunk), kPanel, n, width, factor, target);
        } else {
          pack_piece(piece(from, base + r, rows, column, n, chunk), rows, n, width, factor, target);
        }
      }
    }
  }
}

// Copies one group of `width` columns of some rows; fewer columns are followed by zeros.
WEFT_INLINE void copy_group(Piece from, int64_t rows, int64_t columns, int64_t width, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) to[r * width + c] = c < columns ? from.data[r * from.stride + c] : 0.0f;
  }
}

// The same for whole strips and panels. Panels move as whole vectors where both sides have room for
// one: the input has columns to spare, and what a row spoils of the next is written after it (so
// not in the last row).
WEFT_INLINE void copy_strip(Piece from, int64_t rows, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = from.data + r * from.stride;
    const Vec low = load(row), high = load(row + kLanes);
    store(to + r * kStrip, low);
    store(to + r * kStrip + kLanes, high);
  }
}
WEFT_INLINE void copy_panel(Piece from, int64_t rows, bool spare_columns, float* to) {
  const int64_t whole = spare_columns ? rows - 1 : 0;
  for (int64_t r = 0; r < whole; ++r) store(to + r * kPanel, load(from.data + r * from.stride));
  copy_group({from.data + whole * from.stride, from.stride}, rows - whole, kPanel, kPanel, to + whole * kPanel);
}

static void pack_columns(const RowsIn& from, int64_t width, int64_t rows, float* to) {
  float chunk[kLanes * kChunk];
  const int64_t unit = kChunk / width * width;  // whole groups of columns per chunk
  for (int64_t row = 0; row < from.rows; row += kLanes) {
    const int64_t count = smaller(kLanes, from.rows - row);
    prefetch_ahead(from, row, kLanes);
    for (int64_t column = 0; column < from.columns; column += unit) {
      const int64_t n = smaller(unit, from.columns - column);
      const Piece in = piece(from, row, count, column, n, chunk);
      for (int64_t c = 0; c < n; c += width) {
        const Piece group = {in.data + c, in.stride};
        float* target = to + (column + c) * rows + row * width;
        if (c + width > n) {
          copy_group(group, count, n - c, width, target);
        } else if (width == kStrip) {
          copy_strip(group, count, target);
        } else {
          copy_panel(group, count, c + kLanes <= n, target);
        }
      }
    }
  }
  for (int64_t column = 0; column < from.columns; column += width) {
    float* rest = to + column * rows + from.rows * width;
    for (int64_t i = 0; i < (rows - from.rows) * width; ++i) rest[i] = 0;
  }
}

// rows[lane][column] = strip[column][lane].
static void transpose_strip(const float* strip, int64_t columns, float* rows, int64_t stride) {
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    for (int half = 0; half < kStrip; half += kLanes) {
      Vec v[kLanes];
      WEFT_UNROLL
      for (int j = 0; j < kLanes; ++j) v[j] = load(strip + (c + j) * kStrip + half);
      transpose(v);
      WEFT_UNROLL
      for (int r = 0; r < kLanes; ++r) store(rows + (half + r) * stride + c, v[r]);
    }
  }
  for (; c < columns; ++c) {
    for (int lane = 0; lane < kStrip; ++lane) rows[lane * stride + c] = strip[c * kStrip + lane];
  }
}

static void add_strips(const float* from, int64_t padded, float factor, int64_t rows, int64_t columns, float* to,
                       int64_t to_stride, float* scratch) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t lane = row % kStrip;
    prefetch_ahead(to, to_stride, row, rows, columns);
    if (lane == 0) transpose_strip(from + row * padded, padded, scratch, padded);
    scale_add(to + row * to_stride, 1, scratch + lane * padded, factor, columns);
  }
}

static void add_row(float* to, const float* from, float factor, int64_t n) { scale_add(to, 1, from, factor, n); }

static void add_panels(const float* from, float factor, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  const int64_t padded = round_up(columns, kStrip);
  for (int64_t row = 0; row < rows; ++row) {
    prefetch_ahead(to, to_stride, row, rows, columns);
    const float* panel = from + row / kPanel * kPanel * padded + row % kPanel * kStrip;
    for (int64_t c = 0; c < columns; c += kStrip) {
      scale_add(to + row * to_stride + c, 1, panel + c * kPanel, factor, smaller(kStrip, columns - c));
    }
  }
}

}  // namespace
}  // namespace weft::kernels
