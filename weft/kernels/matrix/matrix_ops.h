// The contract between the drivers for processors that multiply bf16 by hardware (forward.cc, backward.cc in this folder) and
// the arithmetic on tiles, which is compiled once per engine (path_*.cc): AMX, the dot products of AVX512-BF16, and an
// emulation for every other processor, so that all but the few lines of the engine itself is tested everywhere.
//
// Inputs are bf16. A matrix unit multiplies a *row tile* (left: 16 rows of 32 elements, 1 KiB) by a *pair tile* (right: 16
// pairs of rows, 16 columns, the two elements of a pair side by side) into 16 x 16 sums in fp32. Four products at a time
// share their operands: 32 x 32 sums.
//
// Orientation, as everywhere in the CPU kernels: scores are kept transposed, S^T[key][query]. So
//
//   S^T = K Q^T      K in row tiles, Q in pair tiles        dP^T = V dO^T   the same
//   O^T = V^T P^T    V^T in row tiles; two rows of P^T, as they leave the exponential, are a row of a pair tile
//   dV  = P^T dO     P^T in row tiles, dO in pair tiles       dK = dS^T Q     the same
//   dQ^T = K^T dS^T  as O^T
//
// and no product needs a shuffle but the merging of two rows. Scores are exact sums of bf16 products in fp32, scaled after;
// P and dS are rounded to bf16 for the products that they enter, as in every implementation with matrix units, while the
// row sums behind lse are of unrounded weights.
//
// Packed forms of X[rows][columns], all padded with zeros to multiples of kMatrixBlock:
//   rows          left operand, rows of X in its rows:       [rows / 16][columns / 32] row tiles
//   rows_pairs    right operand, rows of X in its columns:    [rows / 16][columns / 32] pair tiles
//   columns       left operand, columns of X in its rows:     [columns / 16][rows / 32] row tiles
//   columns_pairs right operand, columns of X in its columns: [columns / 16][rows / 32] pair tiles
#pragma once

#include <cstdint>

#include "weft/kernels/tile_ops.h"

namespace weft::kernels {

inline constexpr int64_t kMatrixBlock = 32;      // rows and columns of sums that one call of the engine covers
inline constexpr int64_t kMatrixTile = 16 * 32;  // elements of a packed tile
// Keys whose weights are held at once, and queries that share them from the nearest caches.
inline constexpr int64_t kMatrixForwardKeyTile = 512;
inline constexpr int64_t kMatrixForwardQueryTile = 128;
inline constexpr int64_t kMatrixBackwardKeyTile = 256;
inline constexpr int64_t kMatrixBackwardQueryTile = 256;
// Keys packed at once, and then used by all queries of all heads of a group.
inline constexpr int64_t kMatrixForwardKeyBlock = 4096;
inline constexpr int64_t kMatrixBackwardKeyBlock = 1024;
// Blocks of at most so many queries and so many keys are converted to fp32 and not cut into tiles, which is faster there than
// products of bf16 (measured with AVX512-BF16).
inline constexpr int64_t kMatrixShort = 128;
// Queries that threads share the work by.
inline constexpr int64_t kMatrixQueryBlock = 2048;

// Rows of bf16 in memory.
struct MatrixRows {
  const uint16_t* data;
  int64_t stride;  // elements between rows
  int64_t rows;
  int64_t columns;
};

// Queries against one packed block of keys. Pair (q, k) counts when lo <= k - q <= hi, in row numbers of the tile.
struct MatrixForwardTile {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  float factor;       // of scores: scale * log2(e)
  const uint16_t* q;  // rows_pairs
  const uint16_t* k;  // rows
  const uint16_t* v;  // columns, key tile after key tile
  // State: running maximum (base 2) and sum per query, and O^T unnormalised.
  float* maximum;     // [queries up to kMatrixBlock]
  float* sum;         // the same
  float* o;           // [query blocks][dim_v up to kMatrixBlock][kMatrixBlock]
  uint16_t* weights;  // scratch: kMatrixForwardQueryTile * kMatrixForwardKeyTile
  float* scores;      // scratch: kMatrixBlock * kMatrixForwardKeyTile
};

struct MatrixBackwardTile {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  float factor;                  // of scores: scale * log2(e)
  const uint16_t* q;             // rows_pairs
  const uint16_t* dout;          // rows_pairs
  const uint16_t* q_columns;     // columns_pairs; null: dk is not wanted
  const uint16_t* dout_columns;  // columns_pairs; null: dv is not wanted
  const float* lse;              // [queries up to kMatrixBlock], base 2, +inf for rows that contribute nothing
  const float* delta;            // the same, 0 for those rows
  const uint16_t* k;             // rows
  const uint16_t* v;             // rows
  const uint16_t* k_columns;     // columns; null: dq is not wanted
  float* dq;           // added to: [query blocks][dim up to kMatrixBlock][kMatrixBlock], without the factor scale
  float* dk;           // added to: [keys up to kMatrixBlock][dim up to kMatrixBlock], without the factor scale
  float* dv;           // added to: [keys up to kMatrixBlock][dim_v up to kMatrixBlock]
  uint16_t* p;         // scratch, each kMatrixBackwardQueryTile * kMatrixBackwardKeyTile:
  uint16_t* ds;        //   weights and gradients of scores in row tiles
  uint16_t* ds_pairs;  //   and the latter in pair tiles
};

// One engine's arithmetic. Free of allocation and of state between calls.
struct MatrixOps {
  void (*pack_rows)(const MatrixRows& from, uint16_t* to);
  void (*pack_rows_pairs)(const MatrixRows& from, uint16_t* to);
  void (*pack_columns)(const MatrixRows& from, uint16_t* to);
  void (*pack_columns_pairs)(const MatrixRows& from, uint16_t* to);
  bool (*all_finite)(const uint16_t* x, int64_t n);  // of something packed

  void (*forward)(const MatrixForwardTile& tile);
  void (*backward)(const MatrixBackwardTile& tile);
};

const MatrixOps& amx_ops();       // x86-64 only: AVX-512 with BF16, AMX-TILE and AMX-BF16, lent by the system
const MatrixOps& dot_ops();       // x86-64 only: AVX-512 with BF16
const MatrixOps& emulated_ops();  // x86-64 only: AVX2 and FMA

}  // namespace weft::kernels
