// Forward on a matrix unit: online softmax of one tile of queries over a packed block of keys.
#pragma once

namespace weft::kernels {
namespace {

// Keys [begin, end) of one tile of keys that a strip of kMatrixBlock queries sees, by whole panels of kMatrixBlock keys.
struct MatrixStrip {
  int64_t first_query;
  KeyRange keys;
  const uint16_t* q;
  float *maximum, *sum, *o;
  uint16_t* weights;  // pair tiles [keys of the tile / 32][2], of the tile's first key

  bool empty() const { return keys.begin >= keys.end; }
};
WEFT_INLINE MatrixStrip matrix_strip(const MatrixForwardTile& t, int64_t strip, int64_t tile_begin, int64_t tile_end) {
  const int64_t first = strip * kMatrixBlock, last = smaller(first + kMatrixBlock, t.queries) - 1;
  const int64_t padded = round_up(t.dim, kMatrixBlock), padded_v = round_up(t.dim_v, kMatrixBlock);
  return {first,
          key_range(first, last, t.lo, t.hi, tile_begin, tile_end),
          t.q + first * padded,
          t.maximum + first,
          t.sum + first,
          t.o + first * padded_v,
          t.weights + first * kMatrixForwardKeyTile};
}

WEFT_INLINE int64_t round_down(int64_t n, int64_t unit) { return n / unit * unit; }

// Entries of c[kMatrixBlock keys][kMatrixBlock queries] that the band excludes, and those of keys from keys.end on,
// become -inf.
WEFT_INLINE void mask_block(float* c, int64_t key, int64_t first_query, int64_t lo, int64_t hi, KeyRange keys) {
  if (key >= keys.full_begin && key + kMatrixBlock <= keys.full_end) return;
  for (int r = 0; r < kMatrixBlock; ++r) {
    const LaneMask mask = lane_mask(key + r, first_query, lo, hi, key + r < keys.end);
    store(c + r * kMatrixBlock, select(mask.low, load(c + r * kMatrixBlock), broadcast(-kInfinity)));
    store(c + r * kMatrixBlock + kLanes, select(mask.high, load(c + r * kMatrixBlock + kLanes), broadcast(-kInfinity)));
  }
}

// c[key][query] = K Q^T of a panel of keys, where padded is the depth of both.
WEFT_INLINE void product_of_rows(const Engine& engine, const uint16_t* k, const uint16_t* q, int64_t padded, float* c) {
  const uint16_t* const a[2] = {k, k + 16 * padded};
  const uint16_t* const b[2] = {q, q + 16 * padded};
  engine.multiply(c, kMatrixBlock, false, a, kMatrixTile, b, kMatrixTile, padded / 32);
}

WEFT_INLINE void panel_scores(const MatrixForwardTile& t, const Engine& engine, const MatrixStrip& s, int64_t key,
                              float* c) {
  const int64_t padded = round_up(t.dim, kMatrixBlock);
  product_of_rows(engine, t.k + key * padded, s.q, padded, c);
  mask_block(c, key, s.first_query, t.lo, t.hi, s.keys);
}

struct Lanes {
  Vec low, high;
};
WEFT_INLINE Lanes load_lanes(const float* p) { return {load(p), load(p + kLanes)}; }
WEFT_INLINE void store_lanes(float* p, Lanes x) {
  store(p, x.low);
  store(p + kLanes, x.high);
}

// Weights of a panel, exp2(factor * c - maximum), as two rows of pair tiles for every two keys; added to sum, and the
// largest exponent to top.
WEFT_INLINE void panel_weights(const float* c, float factor, Lanes maximum, uint16_t* to, Lanes& sum, Lanes& top) {
  const Vec scale = broadcast(factor);
  for (int r = 0; r < kMatrixBlock; r += 2) {
    Vec p[2][2];
    WEFT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Lanes score = load_lanes(c + (r + i) * kMatrixBlock);
      const Vec x0 = fma(score.low, scale, -maximum.low), x1 = fma(score.high, scale, -maximum.high);
      top.low = max(top.low, x0);
      top.high = max(top.high, x1);
      p[i][0] = exp2(x0);
      p[i][1] = exp2(x1);
      sum.low += p[i][0];
      sum.high += p[i][1];
    }
    store_pairs(to + r * 16, p[0][0], p[1][0]);
    store_pairs(to + kMatrixTile + r * 16, p[0][1], p[1][1]);
  }
}

WEFT_INLINE uint16_t* weights_at(const MatrixStrip& s, int64_t key, int64_t tile_begin) {
  return s.weights + (key - tile_begin) * kMatrixBlock;
}

// The weights of a strip with its maximum raised first, and what was summed up to now rescaled.
static void weights_with_new_maximum(const MatrixForwardTile& t, const Engine& engine, const MatrixStrip& s,
                                     int64_t tile_begin) {
  const int64_t begin = round_down(s.keys.begin, kMatrixBlock);
  Lanes largest = {broadcast(-kInfinity), broadcast(-kInfinity)};
  for (int64_t key = begin; key < s.keys.end; key += kMatrixBlock) {
    float* const c = t.scores + (key - begin) * kMatrixBlock;
    panel_scores(t, engine, s, key, c);
    for (int r = 0; r < kMatrixBlock; ++r) {
      largest.low = max(largest.low, load(c + r * kMatrixBlock));
      largest.high = max(largest.high, load(c + r * kMatrixBlock + kLanes));
    }
  }
  const Vec scale = broadcast(t.factor);
  const Lanes old = load_lanes(s.maximum);
  const Lanes raised = {max(old.low, largest.low * scale), max(old.high, largest.high * scale)};
  const Lanes shift = {finite(raised.low), finite(raised.high)};
  const Lanes by = {exp2(old.low - shift.low), exp2(old.high - shift.high)};
  const Lanes before = load_lanes(s.sum);
  Lanes sum = {}, top = {};
  for (int64_t key = begin; key < s.keys.end; key += kMatrixBlock) {
    panel_weights(t.scores + (key - begin) * kMatrixBlock, t.factor, shift, weights_at(s, key, tile_begin), sum, top);
  }
  store_lanes(s.sum, {fma(before.low, by.low, sum.low), fma(before.high, by.high, sum.high)});
  store_lanes(s.maximum, raised);
  if (any((IVec)(raised.low != old.low) | (IVec)(raised.high != old.high))) {
    rescale(s.o, round_up(t.dim_v, kMatrixBlock), by.low, by.high);
  }
}

inline constexpr int64_t kMatrixStrips = kMatrixForwardQueryTile / kMatrixBlock;

// Weights of all strips for the keys of one tile. A panel of keys meets all strips while it is near; strips whose maximum
// stays take part, the others are done again.
static void matrix_weights(const MatrixForwardTile& t, const Engine& engine, const MatrixStrip* strips, int64_t count,
                           int64_t tile_begin, int64_t tile_end) {
  Lanes sum[kMatrixStrips] = {}, top[kMatrixStrips] = {};
  bool stays[kMatrixStrips];
  for (int64_t i = 0; i < count; ++i) {
    const Lanes maximum = load_lanes(strips[i].maximum);
    stays[i] = !strips[i].empty() && !any_is(maximum.low, maximum.high, -kInfinity);
  }
  for (int64_t key = tile_begin; key < tile_end; key += kMatrixBlock) {
    for (int64_t i = 0; i < count; ++i) {
      const MatrixStrip& s = strips[i];
      if (!stays[i] || key + kMatrixBlock <= s.keys.begin || key >= s.keys.end) continue;
      alignas(64) float c[kMatrixBlock * kMatrixBlock];
      panel_scores(t, engine, s, key, c);
      panel_weights(c, t.factor, load_lanes(s.maximum), weights_at(s, key, tile_begin), sum[i], top[i]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const MatrixStrip& s = strips[i];
    if (s.empty()) continue;
    stays[i] = stays[i] && !any((IVec)(max(top[i].low, top[i].high) > broadcast(kSlack)));
    if (stays[i]) {
      const Lanes before = load_lanes(s.sum);
      store_lanes(s.sum, {before.low + sum[i].low, before.high + sum[i].high});
    } else {
      weights_with_new_maximum(t, engine, s, tile_begin);
    }
  }
}

// O^T += V^T P^T for the keys of one tile.
static void matrix_outputs(const MatrixForwardTile& t, const Engine& engine, const MatrixStrip* strips, int64_t count,
                           int64_t tile_begin, int64_t tile_end) {
  const int64_t padded_v = round_up(t.dim_v, kMatrixBlock), padded_keys = round_up(tile_end - tile_begin, kMatrixBlock);
  const uint16_t* const v = t.v + tile_begin * padded_v;
  for (int64_t column = 0; column < padded_v; column += kMatrixBlock) {
    for (int64_t i = 0; i < count; ++i) {
      const MatrixStrip& s = strips[i];
      if (s.empty()) continue;
      const int64_t begin = round_down(s.keys.begin, kMatrixBlock) - tile_begin;
      const int64_t end = round_up(s.keys.end - tile_begin, kMatrixBlock);
      const uint16_t* const a[2] = {v + column * padded_keys + begin * 16,
                                    v + (column + 16) * padded_keys + begin * 16};
      const uint16_t* const b[2] = {s.weights + begin * kMatrixBlock, s.weights + begin * kMatrixBlock + kMatrixTile};
      engine.multiply(s.o + column * kMatrixBlock, kMatrixBlock, true, a, kMatrixTile, b, 2 * kMatrixTile,
                      (end - begin) / kMatrixBlock);
    }
  }
}

static void matrix_forward(const MatrixForwardTile& t) {
  const int64_t padded = round_up(t.queries, kMatrixBlock), padded_v = round_up(t.dim_v, kMatrixBlock);
  for (int64_t i = 0; i < padded; i += kLanes) {
    store(t.maximum + i, broadcast(-kInfinity));
    store(t.sum + i, Vec{});
  }
  for (int64_t i = 0; i < padded * padded_v; i += kLanes) store(t.o + i, Vec{});

  const Engine engine;
  const int64_t count = padded / kMatrixBlock;
  MatrixStrip strips[kMatrixStrips];
  for (int64_t key = 0; key < t.keys; key += kMatrixForwardKeyTile) {
    const int64_t end = smaller(key + kMatrixForwardKeyTile, t.keys);
    for (int64_t i = 0; i < count; ++i) strips[i] = matrix_strip(t, i, key, end);
    matrix_weights(t, engine, strips, count, key, end);
    matrix_outputs(t, engine, strips, count, key, end);
  }
}

}  // namespace
}  // namespace weft::kernels
