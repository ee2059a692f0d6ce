// For the kernel tests: fields of any type in padded memory, and random block-attention problems.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "weft/base/random.h"
#include "weft/kernels/element.h"
#include "weft/kernels/kernels.h"

namespace weft::kernels {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNoKeys = -kInfinity;

// rows x heads x columns of one type, with gaps between heads and rows that hold a canary value.
struct Field {
  Shape shape;
  DType type = DType::fp32;
  int64_t head_stride = 0, row_stride = 0;
  std::vector<char> bytes;

  static constexpr double kCanary = -7777;  // exact in fp16; in bf16 it is another number, but always the same

  Field() = default;
  Field(Shape s, DType t, int64_t head_gap = 0, int64_t row_gap = 0)
      : shape(s), type(t), head_stride(s.columns + head_gap), row_stride(s.heads * head_stride + row_gap) {
    bytes.resize(std::max<int64_t>(1, s.rows * row_stride) * size_of(t));
    for (int64_t i = 0; i < s.rows * row_stride; ++i) store_element(bytes.data(), type, i, kCanary);
    fill([](int64_t, int64_t, int64_t) { return 0.0; });
  }

  View view() { return {bytes.data(), type, row_stride, head_stride}; }
  ConstView view() const { return {bytes.data(), type, row_stride, head_stride}; }
  double at(int64_t row, int64_t head, int64_t column) const { return load(view(), row, head, column); }
  void set(int64_t row, int64_t head, int64_t column, double x) { store(view(), row, head, column, x); }

  template <typename Value>
  void fill(Value value) {
    for (int64_t r = 0; r < shape.rows; ++r) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        for (int64_t c = 0; c < shape.columns; ++c) set(r, h, c, value(r, h, c));
      }
    }
  }
  void randomize(Random& random, double deviation = 1) {
    fill([&](int64_t, int64_t, int64_t) { return deviation * random.normal(); });
  }

  // The same values in another type, without gaps.
  Field as(DType other) const {
    Field copy(shape, other);
    copy.fill([&](int64_t r, int64_t h, int64_t c) { return at(r, h, c); });
    return copy;
  }
  bool gaps_intact() const {
    Field canary({1, 1, 1}, type);
    canary.set(0, 0, 0, kCanary);
    for (int64_t i = 0; i < shape.rows * row_stride; ++i) {
      const int64_t in_row = i % row_stride;
      const bool gap = in_row >= shape.heads * head_stride || in_row % head_stride >= shape.columns;
      if (gap && load_element(bytes.data(), type, i) != canary.at(0, 0, 0)) return false;
    }
    return true;
  }
};

// Largest difference relative to the largest expected value. Infinities must agree exactly; NaN
// gives NaN.
inline double relative_error(const Field& actual, const Field& expected) {
  double difference = 0, largest = 0;
  for (int64_t r = 0; r < expected.shape.rows; ++r) {
    for (int64_t h = 0; h < expected.shape.heads; ++h) {
      for (int64_t c = 0; c < expected.shape.columns; ++c) {
        const double a = actual.at(r, h, c), e = expected.at(r, h, c);
        if (a == e) continue;
        if (!(std::abs(a - e) <= difference)) difference = std::abs(a - e);  // NaN gets in, and stays
        if (std::isfinite(e)) largest = std::max(largest, std::abs(e));
      }
    }
  }
  return difference == 0 ? 0 : difference / std::max(largest, 1e-30);
}

// A problem of block attention with everything that may vary.
struct AttentionCase {
  DType type = DType::fp32;
  int64_t q_rows = 1, k_rows = 1, heads = 1, kv_heads = 1, dim = 8, dim_v = 8;
  double scale = 1;
  std::vector<int32_t> kv_head;
  std::vector<Block> blocks;
  Field q, k, v, o, lse;          // forward
  Field dout, bundle_lse, delta;  // backward
  Field dq, dk, dv;

  AttendArgs forward() {
    return {.q = view(q),
            .k = view(k),
            .v = view(v),
            .o = o.view(),
            .lse = lse.view(),
            .heads = heads,
            .kv_head = kv_head,
            .dim = dim,
            .dim_v = dim_v,
            .scale = scale,
            .blocks = blocks};
  }
  AttendBackwardArgs backward() {
    return {.q = view(q),
            .k = view(k),
            .v = view(v),
            .dout = view(dout),
            .lse = view(bundle_lse),
            .delta = view(delta),
            .dq = dq.view(),
            .dk = dk.view(),
            .dv = dv.view(),
            .heads = heads,
            .kv_head = kv_head,
            .dim = dim,
            .dim_v = dim_v,
            .scale = scale,
            .blocks = blocks};
  }
  // The same values in fp64.
  AttentionCase in_fp64() const {
    AttentionCase copy = *this;
    copy.type = DType::fp64;
    for (Field* f : {&copy.q, &copy.k, &copy.v, &copy.o, &copy.lse, &copy.dout, &copy.bundle_lse, &copy.delta, &copy.dq,
                     &copy.dk, &copy.dv}) {
      *f = f->as(DType::fp64);
    }
    return copy;
  }
  std::string describe() const {
    std::string text = std::string(name_of(type)) + " q=" + std::to_string(q_rows) + " k=" + std::to_string(k_rows) +
                       " heads=" + std::to_string(heads) + "/" + std::to_string(kv_heads) +
                       " dim=" + std::to_string(dim) + "/" + std::to_string(dim_v) + " blocks:";
    for (const Block& b : blocks) {
      text += " [" + std::to_string(b.band.q.begin) + "," + std::to_string(b.band.q.end) + ")x[" +
              std::to_string(b.band.k.begin) + "," + std::to_string(b.band.k.end) + ") " + std::to_string(b.band.lo) +
              ".." + std::to_string(b.band.hi);
    }
    return text;
  }

 private:
  static ConstView view(const Field& field) { return field.view(); }
};

// Cuts [0, rows) at random points into 1..4 ranges, some of which may have length 0 or 1.
inline std::vector<Range> random_cuts(Random& random, int64_t rows) {
  std::vector<int64_t> points = {0, rows};
  for (int64_t i = random.uniform(4); i > 0; --i) {
    points.push_back(random.uniform(rows + 1));
    if (random.uniform(3) == 0) points.push_back(std::min(rows, points.back() + 1));
  }
  std::sort(points.begin(), points.end());
  std::vector<Range> ranges;
  for (size_t i = 0; i + 1 < points.size(); ++i) ranges.push_back({points[i], points[i + 1]});
  return ranges;
}

// Disjoint blocks: a random grid, each cell absent, full, causal, a window or an arbitrary band.
inline std::vector<Block> random_blocks(Random& random, int64_t q_rows, int64_t k_rows, int64_t out_offset,
                                        int64_t bundle_offset, int64_t kv_offset) {
  std::vector<Block> blocks;
  for (const Range& q : random_cuts(random, q_rows)) {
    for (const Range& k : random_cuts(random, k_rows)) {
      BandRectangle band{.q = q, .k = k};
      const int64_t diagonal = k.begin - q.begin;
      switch (random.uniform(5)) {
        case 0: continue;
        case 1: break;
        case 2: band.hi = diagonal + random.uniform(-3, 4); break;
        case 3:
          band.hi = diagonal + random.uniform(k.size() + 1);
          band.lo = band.hi - random.uniform(20);
          break;
        case 4: band.lo = diagonal + random.uniform(-q.size(), k.size() + 1); break;
      }
      blocks.push_back({.band = band,
                        .out_row = out_offset + q.begin,
                        .bundle_row = bundle_offset + q.begin,
                        .kv_grad_row = kv_offset + k.begin});
    }
  }
  return blocks;
}

struct CaseOptions {
  DType type = DType::fp32;
  int64_t dim = 0, dim_v = 0;  // 0: random
  int64_t max_rows = 300;
  double logit_deviation = 1;  // of scale * q.k
};

// A random case from a seed; accumulators start with random partials, of which some are empty.
inline AttentionCase random_case(uint64_t seed, const CaseOptions& options = {}) {
  Random random(seed);
  constexpr int64_t kDims[] = {1, 3, 8, 16, 40, 64, 80, 128, 256};
  constexpr int64_t kHeads[][2] = {{1, 1}, {2, 2}, {4, 2}, {3, 1}, {4, 1}};
  AttentionCase c;
  c.type = options.type;
  c.q_rows = random.uniform(6) == 0 ? 1 + random.uniform(3) : 1 + random.uniform(options.max_rows);
  c.k_rows = random.uniform(6) == 0 ? 1 + random.uniform(3) : 1 + random.uniform(options.max_rows);
  const auto& heads = kHeads[random.uniform(5)];
  c.heads = heads[0];
  c.kv_heads = heads[1] + random.uniform(2);  // perhaps one that nobody reads
  for (int64_t h = 0; h < c.heads; ++h) c.kv_head.push_back(static_cast<int32_t>(random.uniform(c.kv_heads)));
  c.dim = options.dim ? options.dim : kDims[random.uniform(9)];
  c.dim_v = options.dim_v ? options.dim_v : random.uniform(2) ? c.dim : kDims[random.uniform(9)];
  c.scale = options.logit_deviation / std::sqrt(static_cast<double>(c.dim));

  const int64_t out_offset = random.uniform(4), bundle_offset = random.uniform(4), kv_offset = random.uniform(4);
  c.blocks = random_blocks(random, c.q_rows, c.k_rows, out_offset, bundle_offset, kv_offset);
  const DType sum_type = accumulator_of(c.type);
  const auto make = [&](int64_t rows, int64_t field_heads, int64_t columns, DType type) {
    Field field({rows, field_heads, columns}, type, random.uniform(4), random.uniform(6));
    field.randomize(random);
    return field;
  };
  const int64_t out_rows = c.q_rows + out_offset, bundle_rows = c.q_rows + bundle_offset;
  const int64_t kv_rows = c.k_rows + kv_offset;
  c.q = make(c.q_rows, c.heads, c.dim, c.type);
  c.k = make(c.k_rows, c.kv_heads, c.dim, c.type);
  c.v = make(c.k_rows, c.kv_heads, c.dim_v, c.type);
  c.o = make(out_rows, c.heads, c.dim_v, sum_type);
  c.lse = make(out_rows, c.heads, 1, sum_type);
  c.dout = make(bundle_rows, c.heads, c.dim_v, c.type);
  c.delta = make(bundle_rows, c.heads, 1, sum_type);
  c.bundle_lse = make(bundle_rows, c.heads, 1, sum_type);
  c.dq = make(out_rows, c.heads, c.dim, sum_type);
  c.dk = make(kv_rows, c.kv_heads, c.dim, sum_type);
  c.dv = make(kv_rows, c.kv_heads, c.dim_v, sum_type);
  for (int64_t r = 0; r < out_rows; ++r) {
    for (int64_t h = 0; h < c.heads; ++h) {
      if (random.uniform(2)) c.lse.set(r, h, 0, kNoKeys);
    }
  }
  return c;
}

// Sets lse (and delta) of the bundle to those of the attention itself, as backward requires: p <=
// 1. Some rows get lse = -inf and a delta of NaN, which must not matter.
inline void make_bundle_consistent(AttentionCase& c, uint64_t seed) {
  Random random(seed, 1);
  AttentionCase exact = c.in_fp64();
  exact.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
  const KernelSet& reference = reference_kernels();
  reference.attend(exact.forward());
  c.bundle_lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
  const int64_t out_offset = exact.o.shape.rows - c.q_rows, bundle_offset = c.dout.shape.rows - c.q_rows;
  for (int64_t r = 0; r < c.q_rows; ++r) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const bool empty = random.uniform(10) == 0 || exact.lse.at(r + out_offset, h, 0) == kNoKeys;
      c.bundle_lse.set(r + bundle_offset, h, 0, empty ? kNoKeys : exact.lse.at(r + out_offset, h, 0));
      if (empty) c.delta.set(r + bundle_offset, h, 0, std::numeric_limits<double>::quiet_NaN());
    }
  }
}

// Weights and gradients of scores are rounded to bf16 where inputs are bf16 and hardware multiplies them.
inline bool rounds_weights(const KernelSet& kernels, DType type) {
  const std::string_view name = kernels.name();
  return type == DType::bf16 && (name == "amx" || name == "avx512_bf16" || name == "emulated");
}
// What a path may be off by, of the largest result: that of fp32 sums, and where weights are rounded (half a unit of bf16,
// 2^-9) some of that, more for gradients, whose terms may cancel. lse is a sum of weights before they are rounded.
inline constexpr double kBound = 1e-5;
inline double bound_of(const KernelSet& kernels, DType type) { return rounds_weights(kernels, type) ? 0x1p-8 : kBound; }
inline double gradient_bound_of(const KernelSet& kernels, DType type) {
  return rounds_weights(kernels, type) ? 0x1p-6 : kBound;
}

}  // namespace weft::kernels
