// The contract between the drivers (forward.cc, backward.cc, elementwise.cc: compiled once, for any
// processor) and the arithmetic on tiles that is compiled once per instruction set (path_*.cc).
//
// Everything here is plain data and raw pointers on purpose. A path's file is compiled with
// instructions that this processor may lack, so it must not emit an inline function that the linker
// could share with the rest of the program.
//
// Orientation: scores are kept transposed, S^T[key][query], with queries side by side in vector
// lanes. Maximum, sum and masking over keys are then vertical vector operations without any
// shuffle, and every product of attention but two becomes the same micro-kernel: a packed `panel`
// of a few rows, broadcast, times a packed `strip` of lanes.
//
//   strip form of X[rows][columns], rows in lanes (pack_rows):
//     [ceil(rows / width)][columns][width]
//   column form of X[rows][columns], columns in lanes (pack_columns):
//     [ceil(columns / width)][rows][width]
//
// Width is `strip` for right operands and `panel` for left operands; missing rows and columns are
// zero.
#pragma once

#include <cstdint>

#include "weft/base/dtype.h"
#include "weft/kernels/block_ops.h"
#include "weft/kernels/canonical/exact_bins.h"
#include "weft/kernels/fused/fused_ops.h"

namespace weft::kernels {

// Keys whose scores are held at once, a multiple of every panel height; sized so that the scores of
// one strip (forward) or of one query tile (backward) stay in the nearest caches.
inline constexpr int64_t kForwardKeyTile = 192;
inline constexpr int64_t kBackwardKeyTile = 96;
// Queries per tile, a multiple of every strip width.
inline constexpr int64_t kForwardQueryTile = 384;
inline constexpr int64_t kBackwardQueryTile = 256;
// Queries that threads share the work by; keys are packed once for all of them.
inline constexpr int64_t kForwardQueryBlock = 8 * kForwardQueryTile;
// Keys packed at once and then used by these queries, of all heads of a group.
inline constexpr int64_t kForwardKeyBlock = 2304;
inline constexpr int64_t kBackwardKeyBlock = 768;
// Tiles of canonical results have at most as many positions.
inline constexpr int64_t kMostTileOfKeys = 128;

// Blocks of at most so many queries do without packing: see few_rows.inc.h. Their keys are taken in steps of kFewKeys, and
// cut into chunks whose results are merged.
inline constexpr int64_t kFewQueries = 8;
inline constexpr int64_t kFewKeys = 16;
inline constexpr int64_t kFewChunk = 128;
inline constexpr int64_t kFewRowsMultiple = 4;

// Contiguous columns of some rows in memory, of any 16-bit or fp32 type.
struct RowsIn {
  const void* data;
  DType type;
  int64_t stride;  // elements between rows
  int64_t rows;
  int64_t columns;
};

// Queries against one packed block of keys. Pair (q, k) counts when lo <= k - q <= hi, in row
// numbers of the tile.
struct ForwardTile {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  const float* q;  // strip form, strip wide, multiplied by scale * log2(e)
  const float* k;  // strip form, panel wide
  const float* v;  // column form, panel wide, `keys` rows
  // State, all strips of the tile: running maximum (base 2) and sum per query, and O^T
  // unnormalised.
  float* maximum;  // [strips * strip]
  float* sum;      // [strips * strip]
  float* o;        // [strips][dim_v rounded up to panel][strip]
  float* scores;   // scratch: (kForwardKeyTile + panel) * strip
};

// Where a finished forward tile goes: rows of o (stride in floats) and of lse.
struct ForwardResult {
  float* o;
  int64_t o_stride;
  float* lse;
  int64_t lse_stride;
  float* scratch;  // strip * (dim_v rounded up to panel)
};

// A few rows of queries against all `k.rows` keys, of one kv head.
struct FewRows {
  int64_t rows;
  RowsIn k, v;
  RowsIn next_k, next_v;  // asked of memory meanwhile: a share of the next keys
  const float*
      q;  // [rows][q_stride], multiplied by scale * log2(e); zeros up to multiples of kFewRowsMultiple and strip
  int64_t q_stride;
  const int64_t *begin, *end;  // [rows] the keys that each row sees
  float *maximum, *sum;        // results, as in ForwardTile: [rows]
  float* o;                    // [rows][o_stride], o_stride a multiple of strip
  int64_t o_stride;
  float* scratch;  // kFewKeys * (q_stride + o_stride + rows up to the multiple)
};

struct BackwardTile {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  const float* q;             // strip form, strip wide, multiplied by scale * log2(e)
  const float* dout;          // strip form, strip wide
  const float* q_columns;     // column form, strip wide, rows = strips * strip; null: dk is not wanted
  const float* dout_columns;  // the same of dout; null: dv is not wanted
  const float* lse;           // [strips * strip], base 2, +inf for rows that contribute nothing
  const float* delta;         // [strips * strip], 0 for those rows
  const float* k;             // strip form, panel wide
  const float* v;             // strip form, panel wide
  const float* k_columns;     // column form, panel wide, `keys` rows; null: dq is not wanted
  float* dq;                  // added to: [strips][dim rounded up to panel][strip], without the factor scale
  float* dk;                  // added to: [key panels][ceil(dim / strip)][panel][strip], without the factor scale
  float* dv;                  // added to: [key panels][ceil(dim_v / strip)][panel][strip]
  float* p;                   // scratch: kBackwardQueryTile * kBackwardKeyTile
  float* ds;                  // scratch: the same
};

// Addresses; behind the last one follow as many more as one product has steps, of whatever is harmless to ask for.
struct CacheLines {
  const void* const* begin;
  const void* const* end;
};

// A whole block of few queries and keys, of one head: operands are rows as they lie in memory, and of K and V also the
// transposes. Rows that are read with their columns in the lanes (*) have room for whole vectors behind the last column.
// A group is a few queries whose scores are held at once.
inline constexpr int64_t kMostOfGroup = 8;
struct ShortForward {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  RowsOf<const float> q;
  RowsOf<const float> k_columns;  // K^T, multiplied by scale * log2(e); zeros behind the keys up to whole vectors (*)
  RowsOf<const float> v;          // (*)
  RowsOf<float> o;                // merged with
  RowsOf<float> lse;              // of one column
  float* scores;                  // scratch: kMostOfGroup * (keys up to whole vectors)
  CacheLines next;                // asked of memory meanwhile
};

struct ShortBackward {
  int64_t queries, keys, dim, dim_v;
  int64_t lo, hi;
  float scale;
  RowsOf<const float> q;          // (*)
  RowsOf<const float> k;          // (*)
  RowsOf<const float> dout;       // (*)
  RowsOf<const float> k_columns;  // as in ShortForward
  RowsOf<const float> v_columns;  // V^T, likewise without a factor
  const float* lse;               // [queries], base 2, +inf for rows that contribute nothing
  const float* delta;             // [queries], 0 for those rows
  RowsOf<float> dq, dk, dv;       // added to; without data: not wanted
  float* p;                       // scratch: queries * (keys up to whole vectors)
  float* ds;                      // scratch: the same
  CacheLines next;                // asked of memory meanwhile
};

// One instruction set's arithmetic. Every function is free of allocation and of state.
struct TileOps {
  const char* name;
  int64_t strip;
  int64_t panel;
  // Blocks of at most so many queries and so many keys are not cut into tiles.
  int64_t short_forward;
  int64_t short_backward;

  void (*pack_rows)(const RowsIn& from, int64_t width, float factor, float* to);
  // `rows` of the result may exceed from.rows; the rest is zero.
  void (*pack_columns)(const RowsIn& from, int64_t width, int64_t rows, float* to);

  void (*forward)(const ForwardTile& tile);
  // Merges the tile's state into the accumulators. Queries without keys are left alone.
  void (*finish_forward)(const ForwardTile& tile, const ForwardResult& result);

  void (*forward_few)(const FewRows& rows);
  // (o, lse) <- merge with an unnormalised row `from` whose weights are relative to 2^maximum.
  void (*merge_row)(float* o, float* lse, const float* from, float maximum, float sum, int64_t n);

  void (*backward)(const BackwardTile& tile);
  // to[row][c] += factor * X[row][c], X in strip form, `padded` columns per strip.
  void (*add_strips)(const float* from, int64_t padded, float factor, int64_t rows, int64_t columns, float* to,
                     int64_t to_stride, float* scratch);
  // The same for X as BackwardTile::dk.
  void (*add_panels)(const float* from, float factor, int64_t rows, int64_t columns, float* to, int64_t to_stride);

  void (*forward_short)(const ShortForward& block);
  void (*backward_short)(const ShortBackward& block);
  bool (*rows_finite)(RowsOf<const float> from, int64_t rows, int64_t columns);

  // to += factor * from, one row of n.
  void (*add_row)(float* to, const float* from, float factor, int64_t n);

  // Single rows: conversion between fp32 and any 16-bit type.
  void (*to_float)(const void* from, DType type, float* to, int64_t n);
  void (*from_float)(const float* from, DType type, void* to, int64_t n);

  // rows[lane][c] = strip[c][lane], row_stride floats from lane to lane: one strip of X in strip form as rows.
  void (*rows_of_strip)(const float* strip, int64_t columns, float* rows, int64_t row_stride);
  bool (*all_finite)(const float* x, int64_t n);
  // Row of n exact sums of two bins: sums[i] += from[i] * factor * 2^(32 * bins), bins <= 0, all finite.
  void (*add_exactly)(const float* from, double factor, int64_t bins, int64_t* sums, int64_t n);

  const FusedOps* fused;
  const BlockOps<float>* blocks;
};

// ExactSum<2>::add for sum `sums[0]` of a row of n. Not inline, as the paths need it.
void add_one_exactly(double x, int64_t bins, int64_t* sums, int64_t n);

const TileOps& portable_tile_ops();
const TileOps& avx2_tile_ops();    // x86-64 only
const TileOps& avx512_tile_ops();  // x86-64 only
const TileOps& wide_tile_ops();    // x86-64 only: the shapes of AVX-512 in AVX2, FMA and F16C, for tests

}  // namespace weft::kernels
