// Backward on a matrix unit: the five products of one tile of queries with a packed block of keys.
//
//   S^T = K Q^T,  P^T = exp2(S^T - lse),  dP^T = V dO^T,  dS^T = P^T * (dP^T - delta)
//   dV += P^T dO,  dK += dS^T Q,  dQ^T += K^T dS^T
#pragma once

namespace weft::kernels {
namespace {

inline constexpr int64_t kMatrixQueryStrips = kMatrixBackwardQueryTile / kMatrixBlock;

// Where the row tile of 16 keys and one strip of queries lies in p and ds, and the pair tiles of 32 keys in ds_pairs; keys
// count from the tile's first.
WEFT_INLINE int64_t row_tile_at(int64_t key, int64_t strip) {
  return (key / 16 * kMatrixQueryStrips + strip) * kMatrixTile;
}
WEFT_INLINE int64_t pair_tiles_at(int64_t key, int64_t strip) {
  return (strip * kMatrixBackwardKeyTile + key) * kMatrixBlock;
}

// P^T and dS^T of a panel of keys with one strip of queries, rounded to bf16 in the forms that the products take.
static void matrix_panel_gradients(const MatrixBackwardTile& t, const Engine& engine, int64_t strip, int64_t key,
                                   KeyRange keys, int64_t tile_begin) {
  const int64_t padded = round_up(t.dim, kMatrixBlock), padded_v = round_up(t.dim_v, kMatrixBlock);
  const int64_t first_query = strip * kMatrixBlock;
  alignas(64) float scores[kMatrixBlock * kMatrixBlock], dp[kMatrixBlock * kMatrixBlock];
  product_of_rows(engine, t.k + key * padded, t.q + first_query * padded, padded, scores);
  product_of_rows(engine, t.v + key * padded_v, t.dout + first_query * padded_v, padded_v, dp);
  mask_block(scores, key, first_query, t.lo, t.hi, keys);
  const Lanes lse = load_lanes(t.lse + first_query), delta = load_lanes(t.delta + first_query);
  const Vec scale = broadcast(t.factor);
  uint16_t* const pairs = t.ds_pairs + pair_tiles_at(key - tile_begin, strip);
  for (int r = 0; r < kMatrixBlock; r += 2) {
    const int64_t at = row_tile_at(key - tile_begin + r, strip) + r % 16 * 32;
    Lanes ds[2];
    WEFT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Lanes score = load_lanes(scores + (r + i) * kMatrixBlock), by = load_lanes(dp + (r + i) * kMatrixBlock);
      const Vec p0 = exp2(fma(score.low, scale, -lse.low)), p1 = exp2(fma(score.high, scale, -lse.high));
      ds[i] = {p0 * (by.low - delta.low), p1 * (by.high - delta.high)};
      store_narrow(t.p + at + i * 32, p0, p1);
      store_narrow(t.ds + at + i * 32, ds[i].low, ds[i].high);
    }
    store_pairs(pairs + r * 16, ds[0].low, ds[1].low);
    store_pairs(pairs + kMatrixTile + r * 16, ds[0].high, ds[1].high);
  }
}

// X[key][column] += sum over queries of weights^T[key][query] * Y[query][column]: dV from P and dO, dK from dS and Q.
static void matrix_accumulate_keys(const MatrixBackwardTile& t, const Engine& engine, const uint16_t* weights,
                                   const uint16_t* y, int64_t columns, int64_t tile_begin, int64_t tile_end, float* x) {
  const int64_t padded = round_up(columns, kMatrixBlock), padded_queries = round_up(t.queries, kMatrixBlock);
  for (int64_t column = 0; column < padded; column += kMatrixBlock) {
    for (int64_t key = tile_begin; key < tile_end; key += kMatrixBlock) {
      // Strips in which some query sees some key of the panel.
      const int64_t last_key = smaller(key + kMatrixBlock, t.keys) - 1;
      const int64_t first = larger(key - t.hi, 0), last = smaller(last_key - t.lo, t.queries - 1);
      if (first > last) continue;
      const int64_t begin = first / kMatrixBlock, end = last / kMatrixBlock + 1;
      const uint16_t* const a[2] = {weights + row_tile_at(key - tile_begin, begin),
                                    weights + row_tile_at(key - tile_begin + 16, begin)};
      const uint16_t* const b[2] = {y + column * padded_queries + begin * kMatrixTile,
                                    y + (column + 16) * padded_queries + begin * kMatrixTile};
      engine.multiply(x + key * padded + column, padded, true, a, kMatrixTile, b, kMatrixTile, end - begin);
    }
  }
}

// dQ^T of one strip += K^T dS^T.
static void matrix_accumulate_queries(const MatrixBackwardTile& t, const Engine& engine, int64_t strip, KeyRange keys,
                                      int64_t tile_begin) {
  const int64_t padded = round_up(t.dim, kMatrixBlock), padded_keys = round_up(t.keys, kMatrixBlock);
  const int64_t begin = round_down(keys.begin, kMatrixBlock), end = round_up(keys.end, kMatrixBlock);
  const uint16_t* const pairs = t.ds_pairs + pair_tiles_at(begin - tile_begin, strip);
  const uint16_t* const b[2] = {pairs, pairs + kMatrixTile};
  for (int64_t column = 0; column < padded; column += kMatrixBlock) {
    const uint16_t* const a[2] = {t.k_columns + column * padded_keys + begin * 16,
                                  t.k_columns + (column + 16) * padded_keys + begin * 16};
    engine.multiply(t.dq + (strip * padded + column) * kMatrixBlock, kMatrixBlock, true, a, kMatrixTile, b,
                    2 * kMatrixTile, (end - begin) / kMatrixBlock);
  }
}

static void matrix_backward(const MatrixBackwardTile& t) {
  const Engine engine;
  for (int64_t begin = 0; begin < t.keys; begin += kMatrixBackwardKeyTile) {
    const int64_t end = smaller(begin + kMatrixBackwardKeyTile, t.keys);
    for (int64_t strip = 0; strip * kMatrixBlock < t.queries; ++strip) {
      const int64_t first = strip * kMatrixBlock, last = smaller(first + kMatrixBlock, t.queries) - 1;
      const KeyRange keys = key_range(first, last, t.lo, t.hi, begin, end);
      if (keys.begin >= keys.end) continue;
      for (int64_t key = round_down(keys.begin, kMatrixBlock); key < keys.end; key += kMatrixBlock) {
        matrix_panel_gradients(t, engine, strip, key, keys, begin);
      }
      if (t.k_columns) matrix_accumulate_queries(t, engine, strip, keys, begin);
    }
    if (t.dout_columns) matrix_accumulate_keys(t, engine, t.p, t.dout_columns, t.dim_v, begin, end, t.dv);
    if (t.q_columns) matrix_accumulate_keys(t, engine, t.ds, t.q_columns, t.dim, begin, end, t.dk);
  }
}

}  // namespace
}  // namespace weft::kernels
