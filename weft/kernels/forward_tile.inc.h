// Forward: online softmax of one tile of queries over a packed block of keys.
#pragma once

namespace weft::kernels {
namespace {

// One strip of queries and its running state.
struct ForwardStrip {
  int64_t first_query;
  const float* q;
  float *maximum, *sum, *o;
};
WEFT_INLINE ForwardStrip forward_strip_of(const ForwardTile& t, int64_t strip) {
  const int64_t first = strip * kStrip;
  return {first, t.q + first * t.dim, t.maximum + first, t.sum + first, t.o + first * round_up(t.dim_v, kPanel)};
}

// S^T of one panel of keys. Only panels that the band's edge crosses are masked.
WEFT_INLINE void panel_scores(const ForwardTile& t, const ForwardStrip& s, KeyRange keys, int64_t key, Tile& c) {
  clear(c);
  multiply(c, t.k + key * t.dim, s.q, t.dim);
  if (key < keys.full_begin || key + kPanel > keys.full_end) mask_tile(c, key, s.first_query, t.lo, t.hi, keys.end);
}

WEFT_INLINE bool any_is(Vec a, Vec b, float x) { return any((IVec)(a == broadcast(x)) | (IVec)(b == broadcast(x))); }

// Scores may exceed what is subtracted from them by this much, in base 2, before the running maximum is raised: weights
// up to 2^16 cost no precision, and raising it costs a pass.
inline constexpr float kSlack = 16;

// t.scores <- exp2(S^T - maximum) with the maximum as earlier keys left it, and their sums. False, and nothing is done,
// where some lane has seen no key, or some score is too far above its maximum.
WEFT_INLINE bool weights_in_one_pass(const ForwardTile& t, const ForwardStrip& s, KeyRange keys, Vec* added) {
  const Vec maximum0 = load(s.maximum), maximum1 = load(s.maximum + kLanes);
  if (any_is(maximum0, maximum1, -kInfinity)) return false;
  Vec top0 = {}, top1 = {}, sum0 = {}, sum1 = {};
  float* p = t.scores;
  for (int64_t key = keys.begin / kPanel * kPanel; key < keys.end; key += kPanel) {
    Tile c;
    panel_scores(t, s, keys, key, c);
    WEFT_UNROLL
    for (int r = 0; r < kPanel; ++r) {
      const Vec x0 = c.row[r][0] - maximum0, x1 = c.row[r][1] - maximum1;
      top0 = max(top0, x0);
      top1 = max(top1, x1);
      const Vec p0 = exp2(x0), p1 = exp2(x1);
      sum0 += p0;
      sum1 += p1;
      store(p + r * kStrip, p0);
      store(p + r * kStrip + kLanes, p1);
    }
    p += kPanel * kStrip;
  }
  if (any((IVec)(max(top0, top1) > broadcast(kSlack)))) return false;
  added[0] = sum0;
  added[1] = sum1;
  return true;
}

// S^T into t.scores, with the largest score per lane.
WEFT_INLINE void score_strip(const ForwardTile& t, const ForwardStrip& s, KeyRange keys, Vec* largest) {
  Vec max0 = broadcast(-kInfinity), max1 = max0;
  float* scores = t.scores;
  for (int64_t key = keys.begin / kPanel * kPanel; key < keys.end; key += kPanel) {
    Tile c;
    panel_scores(t, s, keys, key, c);
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

// The same, raising the maximum first, and rescaling what was summed up to now.
WEFT_INLINE void weights_in_two_passes(const ForwardTile& t, const ForwardStrip& s, KeyRange keys, Vec* added) {
  Vec largest[2];
  score_strip(t, s, keys, largest);
  const Vec old0 = load(s.maximum), old1 = load(s.maximum + kLanes);
  const Vec new0 = max(old0, largest[0]), new1 = max(old1, largest[1]);
  const Vec shift0 = finite(new0), shift1 = finite(new1);
  exponentials(t.scores + keys.begin % kPanel * kStrip, keys.end - keys.begin, shift0, shift1, added);
  if (!any((IVec)(new0 != old0) | (IVec)(new1 != old1))) return;
  const Vec factor0 = exp2(old0 - shift0), factor1 = exp2(old1 - shift1);
  store(s.sum, load(s.sum) * factor0);
  store(s.sum + kLanes, load(s.sum + kLanes) * factor1);
  rescale(s.o, round_up(t.dim_v, kPanel), factor0, factor1);
  store(s.maximum, new0);
  store(s.maximum + kLanes, new1);
}

static void forward_strip(const ForwardTile& t, int64_t strip, KeyRange keys, int64_t tile_begin, int64_t tile_end) {
  const ForwardStrip s = forward_strip_of(t, strip);
  Vec added[2];
  if (!weights_in_one_pass(t, s, keys, added)) weights_in_two_passes(t, s, keys, added);
  store(s.sum, load(s.sum) + added[0]);
  store(s.sum + kLanes, load(s.sum + kLanes) + added[1]);

  const float* weights = t.scores + keys.begin % kPanel * kStrip;
  const float* v = t.v + tile_begin * round_up(t.dim_v, kPanel) + (keys.begin - tile_begin) * kPanel;
  for (int64_t column = 0; column < t.dim_v; column += kPanel) {
    add_product(s.o + column * kStrip, v + column * (tile_end - tile_begin), weights, keys.end - keys.begin,
                t.dim_v - column);
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
    const int64_t end = smaller(key + kForwardKeyTile, t.keys);
    for (int64_t strip = 0; strip * kStrip < t.queries; ++strip) {
      const int64_t first = strip * kStrip, last = smaller(first + kStrip, t.queries) - 1;
      const KeyRange keys = key_range(first, last, t.lo, t.hi, key, end);
      if (keys.begin < keys.end) forward_strip(t, strip, keys, key, end);
    }
  }
}

// What an accumulated row and an unnormalised sum over more keys are multiplied by before they are added; `kept` is 0 where
// the accumulator has seen no key, and may hold anything.
struct MergeFactors {
  float kept, added;
};
// Raises *lse by the keys of the sum, whose weights are relative to 2^maximum.
WEFT_INLINE MergeFactors merge_lse(float* lse, float maximum, float sum) {
  if (sum == 0) return {1, 0};  // no key; else the largest term alone is 1
  // Both sides in base 2. What the accumulator held counts only where it has seen a key.
  const double theirs = maximum + (double)__builtin_log2f(sum);
  if (*lse == -kInfinity) {
    *lse = (float)(theirs * kLn2);
    return {0, 1 / sum};
  }
  const double ours = *lse * kLog2E, top = ours > theirs ? ours : theirs;
  const float a = __builtin_exp2f((float)(ours - top)), b = __builtin_exp2f((float)(theirs - top));
  *lse = (float)((top + __builtin_log2f(a + b)) * kLn2);
  return {a / (a + b), b / ((a + b) * sum)};
}

// Merges a row's unnormalised sum over some keys into its accumulator; without a key nothing happens.
static void merge_row(float* o, float* lse, const float* from, float maximum, float sum, int64_t n) {
  if (sum == 0) return;
  const MergeFactors by = merge_lse(lse, maximum, sum);
  scale_add(o, by.kept, from, by.added, n);
}

static void finish_forward(const ForwardTile& t, const ForwardResult& result) {
  const int64_t padded_v = round_up(t.dim_v, kPanel);
  for (int64_t query = 0; query < t.queries; ++query) {
    const int64_t lane = query % kStrip;
    prefetch_ahead(result.o, result.o_stride, query, t.queries, t.dim_v);
    if (lane == 0) transpose_strip(t.o + query * padded_v, padded_v, result.scratch, padded_v);
    merge_row(result.o + query * result.o_stride, result.lse + query * result.lse_stride,
              result.scratch + lane * padded_v, t.maximum[query], t.sum[query], t.dim_v);
  }
}

}  // namespace
}  // namespace weft::kernels
