// Backward: the five products of one tile of queries with a packed block of keys.
//
//   S^T = K Q^T,  P^T = exp2(S^T - lse),  dP^T = V dO^T,  dS^T = P^T * (dP^T - delta)
//   dV += P^T dO,  dK += dS^T Q,  dQ^T += K^T dS^T
#pragma once

namespace weft::kernels {
namespace {

// P^T and dS^T of one strip of queries and the keys it sees in this key tile; what the band
// excludes is 0.
static void backward_scores(const BackwardTile& t, int64_t strip, KeyRange keys, int64_t tile_begin) {
  const int64_t first_query = strip * kStrip;
  const float* q = t.q + first_query * t.dim;
  const float* dout = t.dout + first_query * t.dim_v;
  const Vec lse0 = load(t.lse + first_query), lse1 = load(t.lse + first_query + kLanes);
  const Vec delta0 = load(t.delta + first_query), delta1 = load(t.delta + first_query + kLanes);
  for (int64_t key = keys.begin / kPanel * kPanel; key < keys.end; key += kPanel) {
    const int64_t at = (strip * kBackwardKeyTile + key - tile_begin) * kStrip;
    float* p = t.p + at;
    float* ds = t.ds + at;
    Tile c;
    clear(c);
    multiply(c, t.k + key * t.dim, q, t.dim);
    const bool masked = key < keys.full_begin || key + kPanel > keys.full_end;
    if (masked) mask_tile(c, key, first_query, t.lo, t.hi, keys.end);
    WEFT_UNROLL
    for (int r = 0; r < kPanel; ++r) {
      store(p + r * kStrip, exp2(c.row[r][0] - lse0));
      store(p + r * kStrip + kLanes, exp2(c.row[r][1] - lse1));
    }
    clear(c);
    multiply(c, t.v + key * t.dim_v, dout, t.dim_v);
    WEFT_UNROLL
    for (int r = 0; r < kPanel; ++r) {
      c.row[r][0] = load(p + r * kStrip) * (c.row[r][0] - delta0);
      c.row[r][1] = load(p + r * kStrip + kLanes) * (c.row[r][1] - delta1);
    }
    store_tile(c, ds);
  }
}

// Strips [begin, end) in which some query sees some key of the panel at `key`.
struct StripRange {
  int64_t begin, end;
};
WEFT_INLINE StripRange strips_of_panel(const BackwardTile& t, int64_t key) {
  const int64_t last_key = smaller(key + kPanel, t.keys) - 1;
  const int64_t first = larger(key - t.hi, 0), last = smaller(last_key - t.lo, t.queries - 1);
  if (first > last) return {0, 0};
  return {first / kStrip, last / kStrip + 1};
}

// X[key][column] += sum over queries of weights^T[key][query] * Y[query][column] for the keys of
// one tile: dV from P and dO, dK from dS and Q. Columns outside, so that a strip of Y stays in the
// nearest cache.
static void accumulate_keys(const BackwardTile& t, const float* weights, const float* y, int64_t columns,
                            int64_t tile_begin, int64_t tile_end, float* x) {
  const int64_t padded_queries = round_up(t.queries, kStrip), padded = round_up(columns, kStrip);
  for (int64_t column = 0; column < columns; column += kStrip) {
    const float* y_strip = y + column * padded_queries;
    for (int64_t key = tile_begin; key < tile_end; key += kPanel) {
      const StripRange strips = strips_of_panel(t, key);
      if (strips.begin >= strips.end) continue;
      float* target = x + key * padded + column * kPanel;
      Tile c;
      load_tile(c, target);
      for (int64_t strip = strips.begin; strip < strips.end; ++strip) {
        multiply_lanes(c, weights + (strip * kBackwardKeyTile + key - tile_begin) * kStrip,
                       y_strip + strip * kStrip * kStrip);
      }
      store_tile(c, target);
    }
  }
}

static void accumulate_queries(const BackwardTile& t, int64_t strip, KeyRange keys, int64_t tile_begin) {
  float* dq = t.dq + strip * kStrip * round_up(t.dim, kPanel);
  const float* ds = t.ds + (strip * kBackwardKeyTile + keys.begin - tile_begin) * kStrip;
  for (int64_t column = 0; column < t.dim; column += kPanel) {
    add_product(dq + column * kStrip, t.k_columns + column * t.keys + keys.begin * kPanel, ds, keys.end - keys.begin,
                t.dim - column);
  }
}

static void backward_tile(const BackwardTile& t) {
  for (int64_t begin = 0; begin < t.keys; begin += kBackwardKeyTile) {
    const int64_t end = smaller(begin + kBackwardKeyTile, t.keys);
    for (int64_t strip = 0; strip * kStrip < t.queries; ++strip) {
      const int64_t first = strip * kStrip, last = smaller(first + kStrip, t.queries) - 1;
      const KeyRange keys = key_range(first, last, t.lo, t.hi, begin, end);
      if (keys.begin >= keys.end) continue;
      backward_scores(t, strip, keys, begin);
      if (t.k_columns) accumulate_queries(t, strip, keys, begin);
    }
    if (t.dout_columns) accumulate_keys(t, t.p, t.dout_columns, t.dim_v, begin, end, t.dv);
    if (t.q_columns) accumulate_keys(t, t.ds, t.q_columns, t.dim, begin, end, t.dk);
  }
}

}  // namespace
}  // namespace weft::kernels
