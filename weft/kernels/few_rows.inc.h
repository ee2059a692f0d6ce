// Forward of a few query rows against many keys (decode): memory bounds it, so keys and values are read where they lie,
// once for all rows, with columns in the lanes.
#pragma once

namespace weft::kernels {
namespace {

static_assert(kFewKeys % kLanes == 0 && kFewRowsMultiple % (kLanes / 4) == 0);

// The keys of one step that a row sees.
struct KeySpan {
  int64_t begin, end;
};
WEFT_INLINE KeySpan few_range(const FewRows& t, int64_t row, int64_t key, int64_t count) {
  return {larger(0, t.begin[row] - key), smaller(count, t.end[row] - key)};
}

// kFewKeys rows as floats with whole vectors of columns, in place where they are; else copied, followed by zeros.
WEFT_INLINE Piece few_keys(const RowsIn& from, int64_t row, int64_t count, float* scratch) {
  const int64_t stride = round_up(from.columns, kLanes);
  if (from.type == DType::fp32 && from.columns == stride && count == kFewKeys) {
    return {(const float*)from.data + row * from.stride, from.stride};
  }
  const int64_t size = from.type == DType::fp32 ? 4 : 2;
  for (int64_t r = 0; r < kFewKeys; ++r) {
    float* to = scratch + r * stride;
    if (r < count) to_float((const char*)from.data + (row + r) * from.stride * size, from.type, to, from.columns);
    for (int64_t c = r < count ? from.columns : 0; c < stride; ++c) to[c] = 0;
  }
  return {scratch, stride};
}

// Rows whose scores with four keys fill the lanes of one vector.
inline constexpr int kTogether = kLanes / 4;

// scores[row][key] = q[row] . k[key] for kTogether rows.
WEFT_INLINE void few_scores(Piece k, int64_t columns, const float* q, int64_t q_stride, float* scores) {
  for (int64_t key = 0; key < kFewKeys; key += 4) {
    Vec sum[kLanes];
    WEFT_UNROLL
    for (int j = 0; j < kLanes; ++j) sum[j] = Vec{};
    for (int64_t c = 0; c < columns; c += kLanes) {
      WEFT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const Vec x = load(k.data + (key + j) * k.stride + c);
        WEFT_UNROLL
        for (int r = 0; r < kTogether; ++r) sum[4 * r + j] = fma(x, load(q + r * q_stride + c), sum[4 * r + j]);
      }
    }
    transpose(sum);
    WEFT_UNROLL
    for (int half = kLanes / 2; half > 0; half /= 2) {
      WEFT_UNROLL
      for (int j = 0; j < half; ++j) sum[j] += sum[j + half];
    }
    float lanes[kLanes];
    store(lanes, sum[0]);
    for (int r = 0; r < kTogether; ++r) {
      for (int j = 0; j < 4; ++j) scores[r * kFewKeys + key + j] = lanes[4 * r + j];
    }
  }
}

// scores <- exp2(scores - maximum), with the maximum raised to them and what was summed up to now rescaled.
WEFT_INLINE void few_weights(float* scores, int64_t begin, int64_t end, float& maximum, float& sum, float* o,
                             int64_t columns) {
  for (int64_t j = 0; j < begin; ++j) scores[j] = -kInfinity;
  for (int64_t j = end; j < kFewKeys; ++j) scores[j] = -kInfinity;
  float largest = maximum;
  for (int64_t j = begin; j < end; ++j) largest = scores[j] > largest ? scores[j] : largest;
  const float shift = largest == -kInfinity ? 0 : largest;
  Vec added = {};
  for (int64_t j = 0; j < kFewKeys; j += kLanes) {
    const Vec p = exp2(load(scores + j) - broadcast(shift));
    added += p;
    store(scores + j, p);
  }
  if (largest != maximum) {
    const Vec factor = exp2(broadcast(maximum - shift));
    sum *= factor[0];
    for (int64_t c = 0; c < columns; c += kLanes) store(o + c, load(o + c) * factor);
    maximum = largest;
  }
  sum += sum_of_lanes(added);
}

// o += sum over keys [begin, end) of weights[key] * v[key], for kRows rows and kVecs vectors of columns.
template <int kRows, int kVecs>
WEFT_INLINE void few_outputs(Piece v, const float* weights, KeySpan keys, int64_t column, float* o, int64_t o_stride) {
  Vec sum[kRows][kVecs];
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL
    for (int i = 0; i < kVecs; ++i) sum[r][i] = load(o + r * o_stride + column + i * kLanes);
  }
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    const float* row = v.data + key * v.stride + column;
    WEFT_UNROLL
    for (int i = 0; i < kVecs; ++i) {
      const Vec x = load(row + i * kLanes);
      WEFT_UNROLL
      for (int r = 0; r < kRows; ++r) sum[r][i] = fma(broadcast(weights[r * kFewKeys + key]), x, sum[r][i]);
    }
  }
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL
    for (int i = 0; i < kVecs; ++i) store(o + r * o_stride + column + i * kLanes, sum[r][i]);
  }
}

template <int kRows>
WEFT_INLINE void few_outputs(Piece v, int64_t columns, const float* weights, KeySpan keys, float* o, int64_t o_stride) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes) few_outputs<kRows, 4>(v, weights, keys, c, o, o_stride);
  for (; c < columns; c += kLanes) few_outputs<kRows, 1>(v, weights, keys, c, o, o_stride);
}

// Asks for the part of `rows` that steps [begin, end) of `steps` have.
WEFT_INLINE void fetch_share(const RowsIn& rows, int64_t begin, int64_t end, int64_t steps) {
  prefetch_rows<2>(rows.data, rows.type == DType::fp32 ? 4 : 2, rows.stride, rows.rows * begin / steps,
                   rows.rows * end / steps, rows.columns);
}

static void forward_few(const FewRows& t) {
  const int64_t dim = round_up(t.k.columns, kLanes), dim_v = round_up(t.v.columns, kLanes);
  float *const k_scratch = t.scratch, *const v_scratch = k_scratch + kFewKeys * dim;
  float* const scores = v_scratch + kFewKeys * dim_v;
  for (int64_t r = 0; r < t.rows; ++r) {
    t.maximum[r] = -kInfinity;
    t.sum[r] = 0;
    for (int64_t c = 0; c < t.o_stride; c += kLanes) store(t.o + r * t.o_stride + c, Vec{});
  }
  for (int64_t key = 0; key < t.k.rows; key += kFewKeys) {
    const int64_t count = smaller(kFewKeys, t.k.rows - key);
    fetch_share(t.next_k, key, key + count, t.k.rows);
    fetch_share(t.next_v, key, key + count, t.k.rows);
    const Piece k = few_keys(t.k, key, count, k_scratch), v = few_keys(t.v, key, count, v_scratch);
    for (int64_t r = 0; r < t.rows; r += kTogether) {
      few_scores(k, dim, t.q + r * t.q_stride, t.q_stride, scores + r * kFewKeys);
    }
    for (int64_t r = 0; r < t.rows; ++r) {
      const KeySpan keys = few_range(t, r, key, count);
      if (keys.begin >= keys.end) continue;
      few_weights(scores + r * kFewKeys, keys.begin, keys.end, t.maximum[r], t.sum[r], t.o + r * t.o_stride, dim_v);
    }
    for (int64_t r = 0; r < t.rows; ++r) {
      const KeySpan keys = few_range(t, r, key, count);
      const KeySpan next = r + 1 < t.rows ? few_range(t, r + 1, key, count) : KeySpan{0, 0};
      if (keys.begin >= keys.end) continue;
      const float* weights = scores + r * kFewKeys;
      float* o = t.o + r * t.o_stride;
      if (next.begin == keys.begin && next.end == keys.end) {
        few_outputs<2>(v, dim_v, weights, keys, o, t.o_stride);
        ++r;
      } else {
        few_outputs<1>(v, dim_v, weights, keys, o, t.o_stride);
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
