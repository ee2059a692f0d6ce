// Packing operands into strip and column form, and unpacking results (the forms are defined in tile_ops.h).
#pragma once

namespace weft::kernels {
namespace {

// Columns converted at once through the stack.
inline constexpr int64_t kChunk = 512;

static void to_float(const void* from, DType type, float* to, int64_t n) {
  int64_t i = 0;
  if (type == DType::fp32) {
    const float* source = (const float*)from;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(source + i));
    for (; i < n; ++i) to[i] = source[i];
    return;
  }
  const uint16_t* source = (const uint16_t*)from;
  if (type == DType::bf16) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load_bf16(source + i));
  } else {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load_fp16(source + i));
  }
  if (i == n) return;
  uint16_t rest[kLanes] = {};
  float values[kLanes];
  for (int64_t j = 0; j < n - i; ++j) rest[j] = source[i + j];
  store(values, type == DType::bf16 ? load_bf16(rest) : load_fp16(rest));
  for (int64_t j = 0; j < n - i; ++j) to[i + j] = values[j];
}

// Round to nearest even; NaN stays NaN.
WEFT_INLINE uint16_t bf16_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static void from_float(const float* from, DType type, void* to, int64_t n) {
  int64_t i = 0;
  if (type == DType::fp32) {
    to_float(from, type, (float*)to, n);
    return;
  }
  uint16_t* target = (uint16_t*)to;
  if (type == DType::bf16) {
    for (; i < n; ++i) target[i] = bf16_of(from[i]);
    return;
  }
  for (; i + kLanes <= n; i += kLanes) store_fp16(target + i, load(from + i));
  if (i == n) return;
  float rest[kLanes] = {};
  uint16_t values[kLanes];
  for (int64_t j = 0; j < n - i; ++j) rest[j] = from[i + j];
  store_fp16(values, load(rest));
  for (int64_t j = 0; j < n - i; ++j) target[i + j] = values[j];
}

// Columns [column, column + n) of a row as floats: in place for fp32, else converted into `chunk`.
WEFT_INLINE const float* row_chunk(const RowsIn& from, int64_t row, int64_t column, int64_t n, float* chunk) {
  const int64_t offset = row * from.stride + column;
  if (from.type == DType::fp32) return (const float*)from.data + offset;
  to_float((const uint16_t*)from.data + offset, from.type, chunk, n);
  return chunk;
}

static void pack_rows(const RowsIn& from, int64_t width, float factor, float* to) {
  float chunk[kChunk];
  for (int64_t base = 0; base < from.rows; base += width) {
    float* strip = to + base * from.columns;
    for (int64_t r = 0; r < width; ++r) {
      if (base + r >= from.rows) {
        for (int64_t c = 0; c < from.columns; ++c) strip[c * width + r] = 0;
        continue;
      }
      for (int64_t column = 0; column < from.columns; column += kChunk) {
        const int64_t n = smaller(kChunk, from.columns - column);
        const float* row = row_chunk(from, base + r, column, n, chunk);
        float* target = strip + column * width + r;
        for (int64_t c = 0; c < n; ++c) target[c * width] = row[c] * factor;
      }
    }
  }
}

static void pack_columns(const RowsIn& from, int64_t width, int64_t rows, float* to) {
  float chunk[kChunk];
  const int64_t unit = kChunk / width * width;  // whole groups of columns per chunk
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t column = 0; column < from.columns; column += unit) {
      const int64_t n = smaller(unit, from.columns - column);
      const float* row = r < from.rows ? row_chunk(from, r, column, n, chunk) : nullptr;
      for (int64_t c = 0; c < n; c += width) {
        float* target = to + ((column + c) * rows) + r * width;
        for (int64_t j = 0; j < width; ++j) target[j] = row && c + j < n ? row[c + j] : 0.0f;
      }
    }
  }
}

// rows[lane][column] = strip[column][lane].
static void transpose_strip(const float* strip, int64_t columns, float* rows, int64_t stride) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int lane = 0; lane < kStrip; ++lane) rows[lane * stride + c] = strip[c * kStrip + lane];
  }
}

static void add_strips(const float* from, int64_t padded, float factor, int64_t rows, int64_t columns, float* to,
                       int64_t to_stride, float* scratch) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t lane = row % kStrip;
    if (lane == 0) transpose_strip(from + row * padded, padded, scratch, padded);
    float* target = to + row * to_stride;
    const float* source = scratch + lane * padded;
    for (int64_t c = 0; c < columns; ++c) target[c] += factor * source[c];
  }
}

static void add_panels(const float* from, float factor, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  const int64_t padded = round_up(columns, kStrip);
  for (int64_t row = 0; row < rows; ++row) {
    const float* panel = from + row / kPanel * kPanel * padded + row % kPanel * kStrip;
    float* target = to + row * to_stride;
    for (int64_t c = 0; c < columns; ++c) target[c] += factor * panel[c / kStrip * kPanel * kStrip + c % kStrip];
  }
}

}  // namespace
}  // namespace weft::kernels
