// Forward: online softmax of one tile of queries over a packed block of keys.
#pragma once

namespace weft::kernels {
namespace {

// S^T of key panels [first_panel, last_panel) for one strip, into t.scores, with the largest score
// per lane. Only panels that the band's edge crosses are masked.
WEFT_INLINE void score_strip(const ForwardTile& t, const float* q, int64_t first_query, KeyRange keys, Vec* largest) {
  Vec max0 = broadcast(-kInfinity), max1 = max0;
  float* scores = t.scores;
  for (int64_t key = keys.begin / kPanel * kPanel; key < keys.end; key += kPanel) {
    Tile c;
    clear(c);
    multiply(c, t.k + key * t.dim, q, t.dim);
    if (key < keys.full_begin || key + kPanel > keys.full_end) {
      WEFT_UNROLL
      for (int r = 0; r < kPanel; ++r) {
        const LaneMask mask = lane_mask(key + r, first_query, t.lo, t.hi, key + r < keys.end);
        c.row[r][0] = select(mask.low, c.row[r][0], broadcast(-kInfinity));
        c.row[r][1] = select(mask.high, c.row[r][1], broadcast(-kInfinity));
      }
    }
    store_tile(c, scores);
    WEFT_UNROLL
    for (int r = 0; r < kPanel; ++r) {
      max0 = max(max0, c.row[r][0]);
      max1 = max(max1, c.row[r][1]);
    }
    scores += kPanel * kStrip;
  }
  largest[0] = max0;
  largest[1] = max1;
}

// Where no key was seen yet the maximum is -inf; subtracting 0 instead keeps exp2(-inf - maximum)
// from being NaN.
WEFT_INLINE Vec finite(Vec maximum) { return select(maximum == broadcast(-kInfinity), Vec{}, maximum); }

// scores <- exp2(scores - maximum) for `count` keys; returns the sums.
WEFT_INLINE void exponentials(float* scores, int64_t count, Vec maximum0, Vec maximum1, Vec* sum) {
  Vec sum0 = {}, sum1 = {};
  for (int64_t i = 0; i < count; ++i) {
    const Vec p0 = exp2(load(scores) - maximum0), p1 = exp2(load(scores + kLanes) - maximum1);
    sum0 += p0;
    sum1 += p1;
    store(scores, p0);
    store(scores + kLanes, p1);
    scores += kStrip;
  }
  sum[0] = sum0;
  sum[1] = sum1;
}

WEFT_INLINE void rescale(float* o, int64_t rows, Vec factor0, Vec factor1) {
  for (int64_t i = 0; i < rows; ++i) {
    store(o, load(o) * factor0);
    store(o + kLanes, load(o + kLanes) * factor1);
    o += kStrip;
  }
}

static void forward_strip(const ForwardTile& t, int64_t strip, KeyRange keys) {
  const int64_t first_query = strip * kStrip, padded_v = round_up(t.dim_v, kPanel);
  float* maximum = t.maximum + first_query;
  float* sum = t.sum + first_query;
  float* o = t.o + first_query * padded_v;

  Vec largest[2], block_sum[2];
  score_strip(t, t.q + first_query * t.dim, first_query, keys, largest);
  const Vec old0 = load(maximum), old1 = load(maximum + kLanes);
  const Vec new0 = max(old0, largest[0]), new1 = max(old1, largest[1]);
  const Vec shift0 = finite(new0), shift1 = finite(new1);

  float* scores = t.scores + (keys.begin % kPanel) * kStrip;
  exponentials(scores, keys.end - keys.begin, shift0, shift1, block_sum);

  // Until the maximum rises, what was accumulated stays as it is.
  if (any((IVec)(new0 != old0) | (IVec)(new1 != old1))) {
    const Vec factor0 = exp2(old0 - shift0), factor1 = exp2(old1 - shift1);
    store(sum, load(sum) * factor0);
    store(sum + kLanes, load(sum + kLanes) * factor1);
    rescale(o, padded_v, factor0, factor1);
    store(maximum, new0);
    store(maximum + kLanes, new1);
  }
  store(sum, load(sum) + block_sum[0]);
  store(sum + kLanes, load(sum + kLanes) + block_sum[1]);

  for (int64_t column = 0; column < t.dim_v; column += kPanel) {
    Tile c;
    load_tile(c, o + column * kStrip);
    multiply(c, t.v + column * t.keys + keys.begin * kPanel, scores, keys.end - keys.begin);
    store_tile(c, o + column * kStrip);
  }
}

static void forward_tile(const ForwardTile& t) {
  const int64_t padded = round_up(t.queries, kStrip), padded_v = round_up(t.dim_v, kPanel);
  for (int64_t i = 0; i < padded; i += kLanes) {
    store(t.maximum + i, broadcast(-kInfinity));
    store(t.sum + i, Vec{});
  }
  for (int64_t i = 0; i < padded * padded_v; i += kLanes) store(t.o + i, Vec{});

  for (int64_t key = 0; key < t.keys; key += kForwardKeyTile) {
    for (int64_t strip = 0; strip * kStrip < t.queries; ++strip) {
      const int64_t first = strip * kStrip, last = smaller(first + kStrip, t.queries) - 1;
      const KeyRange keys = key_range(first, last, t.lo, t.hi, key, smaller(key + kForwardKeyTile, t.keys));
      if (keys.begin < keys.end) forward_strip(t, strip, keys);
    }
  }
}

static void finish_forward(const ForwardTile& t, const ForwardResult& result) {
  const int64_t padded_v = round_up(t.dim_v, kPanel);
  for (int64_t query = 0; query < t.queries; ++query) {
    const int64_t lane = query % kStrip;
    if (lane == 0) transpose_strip(t.o + query * padded_v, padded_v, result.scratch, padded_v);
    const float maximum = t.maximum[query], sum = t.sum[query];
    if (sum == 0) continue;  // no key; else the largest term alone is 1
    const float* from = result.scratch + lane * padded_v;
    float* o = result.o + query * result.o_stride;
    float* lse = result.lse + query * result.lse_stride;
    // Both sides in base 2. What the accumulator held counts only where it has seen a key.
    const double theirs = maximum + (double)__builtin_log2f(sum);
    if (*lse == -kInfinity) {
      *lse = (float)(theirs * kLn2);
      scale_add(o, 0, from, 1 / sum, t.dim_v);
      continue;
    }
    const double ours = *lse * kLog2E, top = ours > theirs ? ours : theirs;
    const float a = __builtin_exp2f((float)(ours - top)), b = __builtin_exp2f((float)(theirs - top));
    *lse = (float)((top + __builtin_log2f(a + b)) * kLn2);
    scale_add(o, a / (a + b), from, b / ((a + b) * sum), t.dim_v);
  }
}

}  // namespace
}  // namespace weft::kernels
