// Attention of whole blocks of few queries and keys: short documents, whose tiles would be padding for the most part.
//
// Scores are not transposed here: S[query][key], a few queries at a time with just the keys that they see, keys in the lanes.
// Then every product reads one operand as scalars and the other as vectors, both as they lie in memory, but K (and V in
// backward), which must be transposed; sums stay in registers over all keys and leave them once, finished.
#pragma once

namespace weft::kernels {
namespace {

inline constexpr int kShortVecs = kLanes == 16 ? 4 : 2;  // vectors of columns, and
inline constexpr int kGroup = 2 * kPanel / kShortVecs;   // rows that one pass over the depth sums
static_assert(kGroup <= kMostOfGroup);

// As long as it is faster than tiles, measured with 64 and 128 columns on AVX-512 and AVX2.
inline constexpr int64_t kShortForward = kLanes == 16 ? 640 : 384;
inline constexpr int64_t kShortBackward = kLanes == 16 ? 512 : 256;

// to(i, j) = kept[i] * to(i, j) + factors[i] * sum over t < depth of a(i, t) b(t, j) for some rows.
struct ShortProduct {
  const float* a;
  int64_t a_row, a_step;  // a(i, t) = a[i * a_row + t * a_step]
  RowsOf<const float> b;
  int64_t depth;
  RowsOf<float> to;
  int64_t columns;
  const float* factors = nullptr;  // null: 1, and `to` is not read
  const float* kept = nullptr;     // null: `to` is not read
  CacheLines* lines;               // one is asked for in every step: many at once would wait for one another
};

// Calls put(row, vector) for all of them.
template <int kRows, int kVecs, typename Put>
WEFT_INLINE void for_vectors(Put put) {
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL
    for (int i = 0; i < kVecs; ++i) put(r, i);
  }
}

// The sums go to columns that end before the last vector does.
template <int kRows, int kVecs>
static void put_some_columns(const ShortProduct& p, int64_t column, const float* sums) {
  for (int r = 0; r < kRows; ++r) {
    float* const to = p.to.data + r * p.to.stride + column;
    for (int64_t c = 0; c < p.columns - column; ++c) {
      const float sum = (p.factors ? p.factors[r] : 1) * sums[r * kVecs * kLanes + c];
      to[c] = p.kept ? p.kept[r] * to[c] + sum : sum;
    }
  }
}

template <int kRows, int kVecs>
static void short_columns(const ShortProduct& p, int64_t column) {
  TileRows<kRows, kVecs> c;
  for_vectors<kRows, kVecs>([&](int r, int i) { c.row[r][i] = Vec{}; });
  const float *a = p.a, *b = p.b.data + column;
  const void* const* const lines = p.lines->begin;
  p.lines->begin = lines + smaller(p.depth, p.lines->end - lines);
  for (int64_t t = 0; t < p.depth; ++t) {
    __builtin_prefetch(lines[t], 0, 2);
    multiply_rows(c, a, p.a_row, 1, b, 1, 1);
    a += p.a_step;
    b += p.b.stride;
  }
  if (column + kVecs * kLanes > p.columns) {
    float sums[kRows * kVecs * kLanes];
    for_vectors<kRows, kVecs>([&](int r, int i) { store(sums + (r * kVecs + i) * kLanes, c.row[r][i]); });
    return put_some_columns<kRows, kVecs>(p, column, sums);
  }
  const auto at = [to = p.to.data + column, stride = p.to.stride](int r, int i) {
    return to + r * stride + i * kLanes;
  };
  if (!p.factors) return for_vectors<kRows, kVecs>([&](int r, int i) { store(at(r, i), c.row[r][i]); });
  Vec factor[kRows], kept[kRows];
  for_vectors<kRows, 1>([&](int r, int) { factor[r] = broadcast(p.factors[r]); });
  if (!p.kept) return for_vectors<kRows, kVecs>([&](int r, int i) { store(at(r, i), factor[r] * c.row[r][i]); });
  for_vectors<kRows, 1>([&](int r, int) { kept[r] = broadcast(p.kept[r]); });
  for_vectors<kRows, kVecs>(
      [&](int r, int i) { store(at(r, i), fma(kept[r], load(at(r, i)), factor[r] * c.row[r][i])); });
}

template <int kRows, int kVecs>
WEFT_INLINE void short_last_columns(const ShortProduct& p, int64_t column) {
  if constexpr (kVecs > 0) {
    if (p.columns - column > (kVecs - 1) * kLanes) return short_columns<kRows, kVecs>(p, column);
    short_last_columns<kRows, kVecs - 1>(p, column);
  }
}

template <int kRows>
static void short_product(const ShortProduct& p) {
  int64_t column = 0;
  for (; column + kShortVecs * kLanes <= p.columns; column += kShortVecs * kLanes) {
    short_columns<kRows, kShortVecs>(p, column);
  }
  short_last_columns<kRows, kShortVecs>(p, column);
}

// One number for every row.
struct RowFactors {
  float value[kGroup];
  constexpr explicit RowFactors(float x) : value() {
    for (float& v : value) v = x;
  }
};
inline constexpr RowFactors kOnes{1};

// kLanes times all bits, then as many zeros.
struct LaneBits {
  int32_t value[2 * kLanes];
  constexpr LaneBits() : value() {
    for (int i = 0; i < kLanes; ++i) value[i] = -1;
  }
};
inline constexpr LaneBits kLaneBits;
WEFT_INLINE IVec first_lanes(int64_t n) {
  return (IVec)load((const float*)kLaneBits.value + kLanes - larger(0, smaller(n, kLanes)));
}

// Some queries, and the whole vectors of keys [begin, end) of which one of them sees some.
struct QueryGroup {
  int64_t first, lo, hi, keys;
  KeyRange seen;
  int64_t begin, end;

  // Scores of a query with the keys from `key` on, -inf for keys that it does not see.
  Vec mask(Vec scores, int64_t query, int64_t key) const {
    const IVec in = first_lanes(smaller(query + hi + 1, keys) - key) & ~first_lanes(query + lo - key);
    return select(in, scores, broadcast(-kInfinity));
  }
  bool has_edge(int64_t key) const { return key < seen.full_begin || key + kLanes > seen.full_end; }
};
template <typename Block>
WEFT_INLINE QueryGroup query_group(const Block& t, int64_t first, int64_t rows) {
  const KeyRange seen = key_range(first, first + rows - 1, t.lo, t.hi, 0, t.keys);
  return {first, t.lo, t.hi, t.keys, seen, seen.begin / kLanes * kLanes, round_up(seen.end, kLanes)};
}

// scores(query of the group, key) for the group's vectors of keys: A B^T, where b holds B^T.
template <int kRows>
WEFT_INLINE void group_scores(const QueryGroup& g, RowsOf<const float> a, RowsOf<const float> b, int64_t depth,
                              RowsOf<float> scores, CacheLines& lines) {
  short_product<kRows>({.a = a.data + g.first * a.stride,
                        .a_row = a.stride,
                        .a_step = 1,
                        .b = {b.data + g.begin, b.stride},
                        .depth = depth,
                        .to = scores,
                        .columns = g.end - g.begin,
                        .lines = &lines});
}

// Lane r of the result: the lanes of rows[r] taken together by `join`.
template <int kBlock, int kRows, typename Join>
WEFT_INLINE Vec join_lanes(Vec* rows, Join join) {
  if constexpr (kBlock == kLanes) {
    return rows[0];
  } else {
    constexpr int kHalf = kRows == 1 ? 1 : kRows / 2;
    WEFT_UNROLL
    for (int r = 0; r < kHalf; ++r) {
      Vec a = rows[kRows == 1 ? 0 : 2 * r], b = rows[kRows == 1 ? 0 : 2 * r + 1];
      swap_blocks<kBlock>(a, b, std::make_integer_sequence<int, kLanes>());
      rows[r] = join(a, b);
    }
    return join_lanes<2 * kBlock, kHalf>(rows, join);
  }
}
inline constexpr int kJoined = kLanes < kMostOfGroup ? kLanes : kMostOfGroup;  // rows that are joined at once
static_assert(kGroup <= kJoined);

// Scores of a group become weights relative to their rows' maxima.
template <int kRows>
WEFT_INLINE void group_weights(const QueryGroup& g, RowsOf<float> scores, float* maximum, float* sum) {
  Vec rows[kJoined] = {};
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) rows[r] = broadcast(-kInfinity);
  for (int64_t key = g.begin; key < g.end; key += kLanes) {
    float* const at = scores.data + key - g.begin;
    if (g.has_edge(key)) {
      WEFT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        store(at + r * scores.stride, g.mask(load(at + r * scores.stride), g.first + r, key));
      }
    }
    WEFT_UNROLL
    for (int r = 0; r < kRows; ++r) rows[r] = max(rows[r], load(at + r * scores.stride));
  }
  store(maximum, join_lanes<1, kJoined>(rows, [](Vec a, Vec b) { return max(a, b); }));
  Vec shift[kRows];
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) shift[r] = finite(broadcast(maximum[r])), rows[r] = Vec{};
  for (int64_t key = 0; key < g.end - g.begin; key += kLanes) {
    WEFT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float* const at = scores.data + r * scores.stride + key;
      const Vec p = exp2(load(at) - shift[r]);
      store(at, p);
      rows[r] += p;
    }
  }
  store(sum, join_lanes<1, kJoined>(rows, [](Vec a, Vec b) { return a + b; }));
}

// Rows from `first` on, kRows or fewer.
template <int kRows = kGroup>
static void forward_group(const ShortForward& t, int64_t first, CacheLines& lines) {
  if constexpr (kRows > 0) {
    if (first + kRows > t.queries) return forward_group<kRows - 1>(t, first, lines);
    const QueryGroup g = query_group(t, first, kRows);
    const RowsOf<float> scores = {t.scores, g.end - g.begin};
    float maximum[kLanes], sum[kLanes], kept[kRows], added[kRows];
    group_scores<kRows>(g, t.q, t.k_columns, t.dim, scores, lines);
    group_weights<kRows>(g, scores, maximum, sum);
    bool merges = false;
    for (int r = 0; r < kRows; ++r) {
      const MergeFactors by = merge_lse(t.lse.data + (first + r) * t.lse.stride, maximum[r], sum[r]);
      kept[r] = by.kept, added[r] = by.added;
      merges = merges || by.kept != 0;
    }
    for (int r = 0; merges && r < kRows; ++r) {
      if (kept[r] != 0) continue;
      float* const o = t.o.data + (first + r) * t.o.stride;  // may hold anything
      for (int64_t c = 0; c < t.dim_v; ++c) o[c] = 0;
    }
    short_product<kRows>({.a = t.scores + g.seen.begin - g.begin,
                          .a_row = scores.stride,
                          .a_step = 1,
                          .b = {t.v.data + g.seen.begin * t.v.stride, t.v.stride},
                          .depth = g.seen.end - g.seen.begin,
                          .to = {t.o.data + first * t.o.stride, t.o.stride},
                          .columns = t.dim_v,
                          .factors = added,
                          .kept = merges ? kept : nullptr,
                          .lines = &lines});
  }
}

WEFT_INLINE void fetch_rest(const CacheLines& lines) {
  for (const void* const* line = lines.begin; line < lines.end; ++line) __builtin_prefetch(*line, 0, 2);
}

static void forward_short(const ShortForward& t) {
  CacheLines lines = t.next;
  for (int64_t first = 0; first < t.queries; first += kGroup) forward_group(t, first, lines);
  fetch_rest(lines);
}

// P and dS of a group, from S and dP; 0 for pairs that do not count, and in the vectors beside the group's that a few keys
// which reach over its border share with it.
template <int kRows>
WEFT_INLINE void group_gradients(const ShortBackward& t, const QueryGroup& g, float* p, float* ds, int64_t stride) {
  Vec lse[kRows], delta[kRows];
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) lse[r] = broadcast(t.lse[g.first + r]), delta[r] = broadcast(t.delta[g.first + r]);
  for (int64_t key = g.begin; key < g.end; key += kLanes) {
    const bool edge = g.has_edge(key);
    WEFT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * stride + key;
      const Vec score = load(p + at);
      const Vec weight = exp2((edge ? g.mask(score, g.first + r, key) : score) - lse[r]);
      store(p + at, weight);
      store(ds + at, weight * (load(ds + at) - delta[r]));
    }
  }
  const bool before = g.begin > g.seen.begin / kGroup * kGroup;
  const bool behind = g.end < smaller(round_up(g.seen.end, kGroup), t.keys);
  for (int r = 0; r < kRows; ++r) {
    float *const p_row = p + r * stride, *const ds_row = ds + r * stride;
    if (before) store(p_row + g.begin - kLanes, Vec{}), store(ds_row + g.begin - kLanes, Vec{});
    if (behind) store(p_row + g.end, Vec{}), store(ds_row + g.end, Vec{});
  }
}

// P, dS and dQ of queries from `first` on, kRows or fewer.
template <int kRows = kGroup>
static void backward_queries(const ShortBackward& t, int64_t first, int64_t stride, const RowFactors& scale,
                             CacheLines& lines) {
  if constexpr (kRows > 0) {
    if (first + kRows > t.queries) return backward_queries<kRows - 1>(t, first, stride, scale, lines);
    const QueryGroup g = query_group(t, first, kRows);
    float *const p = t.p + first * stride, *const ds = t.ds + first * stride;
    group_scores<kRows>(g, t.q, t.k_columns, t.dim, {p + g.begin, stride}, lines);
    group_scores<kRows>(g, t.dout, t.v_columns, t.dim_v, {ds + g.begin, stride}, lines);
    group_gradients<kRows>(t, g, p, ds, stride);
    if (!t.dq.data) return;
    short_product<kRows>({.a = ds + g.seen.begin,
                          .a_row = stride,
                          .a_step = 1,
                          .b = {t.k.data + g.seen.begin * t.k.stride, t.k.stride},
                          .depth = g.seen.end - g.seen.begin,
                          .to = {t.dq.data + first * t.dq.stride, t.dq.stride},
                          .columns = t.dim,
                          .factors = scale.value,
                          .kept = kOnes.value,
                          .lines = &lines});
  }
}

// dV and dK of keys from `key` on, kRows or fewer.
template <int kRows = kGroup>
static void backward_keys(const ShortBackward& t, int64_t key, int64_t stride, const RowFactors& scale,
                          CacheLines& lines) {
  if constexpr (kRows > 0) {
    if (key + kRows > t.keys) return backward_keys<kRows - 1>(t, key, stride, scale, lines);
    // Queries that see one of them.
    const int64_t first = larger(key - t.hi, 0), end = smaller(key + kRows - t.lo, t.queries);
    const auto add = [&](const float* weights, RowsOf<const float> y, int64_t columns, const RowFactors& factors,
                         RowsOf<float> to) {
      if (!to.data) return;
      short_product<kRows>({.a = weights + first * stride + key,
                            .a_row = 1,
                            .a_step = stride,
                            .b = {y.data + first * y.stride, y.stride},
                            .depth = end - first,
                            .to = {to.data + key * to.stride, to.stride},
                            .columns = columns,
                            .factors = factors.value,
                            .kept = kOnes.value,
                            .lines = &lines});
    };
    add(t.p, t.dout, t.dim_v, kOnes, t.dv);
    add(t.ds, t.q, t.dim, scale, t.dk);
  }
}

static void backward_short(const ShortBackward& t) {
  const int64_t stride = round_up(t.keys, kLanes);
  const RowFactors scale(t.scale);
  CacheLines lines = t.next;
  for (int64_t first = 0; first < t.queries; first += kGroup) backward_queries(t, first, stride, scale, lines);
  for (int64_t key = 0; key < t.keys; key += kGroup) backward_keys(t, key, stride, scale, lines);
  fetch_rest(lines);
}

static bool rows_finite(RowsOf<const float> from, int64_t rows, int64_t columns) {
  Vec zero[2][2] = {};  // times zero, what is not finite is NaN
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = from.data + r * from.stride;
    int64_t c = 0;
    for (; c + 2 * kLanes <= columns; c += 2 * kLanes) {
      zero[0][0] = fma(read(row, c, AllLanes{}), Vec{}, zero[0][0]);
      zero[0][1] = fma(read(row, c + kLanes, AllLanes{}), Vec{}, zero[0][1]);
    }
    if (c + kLanes <= columns) {
      zero[1][0] = fma(read(row, c, AllLanes{}), Vec{}, zero[1][0]);
      c += kLanes;
    }
    if (c < columns) zero[1][1] = fma(read(row, c, SomeLanes{columns - c}), Vec{}, zero[1][1]);
  }
  return sum_of_lanes((zero[0][0] + zero[0][1]) + (zero[1][0] + zero[1][1])) == 0;
}

}  // namespace
}  // namespace weft::kernels
