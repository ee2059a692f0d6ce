// Packing bf16 rows into row tiles and pair tiles (matrix_ops.h says which form is which).
#pragma once

namespace weft::kernels {
namespace {

static_assert(kLanes == 16);  // a row of a tile is one vector of 16 words, a word two elements

typedef int32_t UnalignedIVec __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));

// Elements [column, column + 32) of a row as 16 words; zeros where there is nothing.
WEFT_INLINE IVec words_of_row(const MatrixRows& from, int64_t row, int64_t column) {
  if (row >= from.rows) return IVec{};
  const uint16_t* at = from.data + row * from.stride + column;
  if (column + 32 <= from.columns) return *(const UnalignedIVec*)at;
  uint16_t rest[32] = {};
  for (int64_t i = 0; i < from.columns - column; ++i) rest[i] = at[i];
  return *(const UnalignedIVec*)rest;
}

WEFT_INLINE void store_words(uint16_t* to, const IVec* words) {
  WEFT_UNROLL
  for (int i = 0; i < 16; ++i) *(UnalignedIVec*)(to + 32 * i) = words[i];
}

// Calls tile(row, column, to) for all tiles of 16 rows and 32 columns, in the order [rows / 16][columns / 32].
template <typename Tile>
WEFT_INLINE void for_row_tiles(const MatrixRows& from, uint16_t* to, Tile tile) {
  for (int64_t row = 0; row < round_up(from.rows, kMatrixBlock); row += 16) {
    for (int64_t column = 0; column < from.columns; column += 32, to += kMatrixTile) tile(row, column, to);
  }
}
// The same for tiles of 32 rows and 16 columns, in the order [columns / 16][rows / 32].
template <typename Tile>
WEFT_INLINE void for_column_tiles(const MatrixRows& from, uint16_t* to, Tile tile) {
  for (int64_t column = 0; column < round_up(from.columns, kMatrixBlock); column += 16) {
    for (int64_t row = 0; row < from.rows; row += 32, to += kMatrixTile) tile(row, column, to);
  }
}

static void matrix_pack_rows(const MatrixRows& from, uint16_t* to) {
  for_row_tiles(from, to, [&](int64_t row, int64_t column, uint16_t* tile) {
    IVec words[16];
    for (int i = 0; i < 16; ++i) words[i] = words_of_row(from, row + i, column);
    store_words(tile, words);
  });
}

// A row of X becomes a column of words: pairs of neighbouring elements stay together.
static void matrix_pack_rows_pairs(const MatrixRows& from, uint16_t* to) {
  for_row_tiles(from, to, [&](int64_t row, int64_t column, uint16_t* tile) {
    Vec words[16];
    for (int i = 0; i < 16; ++i) words[i] = (Vec)words_of_row(from, row + i, column);
    transpose(words);
    store_words(tile, (const IVec*)words);
  });
}

// Elements [column, column + 16) of rows row and row + 1, the two of a column side by side.
WEFT_INLINE IVec words_of_two_rows(const MatrixRows& from, int64_t row, int64_t column) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  typedef uint16_t UnalignedHalves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
  Halves halves[2] = {};
  for (int i = 0; i < 2; ++i) {
    if (row + i >= from.rows) continue;
    const uint16_t* at = from.data + (row + i) * from.stride + column;
    if (column + 16 <= from.columns) {
      halves[i] = *(const UnalignedHalves*)at;
    } else {
      for (int64_t c = 0; c < from.columns - column; ++c) halves[i][c] = at[c];
    }
  }
  return __builtin_convertvector(halves[0], IVec) | __builtin_convertvector(halves[1], IVec) << 16;
}

static void matrix_pack_columns_pairs(const MatrixRows& from, uint16_t* to) {
  for_column_tiles(from, to, [&](int64_t row, int64_t column, uint16_t* tile) {
    IVec words[16];
    for (int i = 0; i < 16; ++i) words[i] = words_of_two_rows(from, row + 2 * i, column);
    store_words(tile, words);
  });
}

static void matrix_pack_columns(const MatrixRows& from, uint16_t* to) {
  for_column_tiles(from, to, [&](int64_t row, int64_t column, uint16_t* tile) {
    Vec words[16];
    for (int i = 0; i < 16; ++i) words[i] = (Vec)words_of_two_rows(from, row + 2 * i, column);
    transpose(words);
    store_words(tile, (const IVec*)words);
  });
}

// An exponent of all ones carries, when one is added, into the place of the sign. n is that of whole tiles.
static bool matrix_all_finite(const uint16_t* x, int64_t n) {
  typedef uint32_t UnalignedWords __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
  UnalignedWords carries = {};
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    carries |= (*(const UnalignedWords*)(x + i) & 0x7f807f80u) + 0x00800080u;
  }
  return !any((IVec)(carries & 0x80008000u));
}

}  // namespace
}  // namespace weft::kernels
