// Rows of any stored type as lanes of fp32, whole vectors and the rest of a row alike.
//
//   for_lanes(n, [&](int64_t c, auto lanes) { write(y, c, lanes, read(x, c, lanes) * scale); });
//
// The rest goes through a buffer of one vector, so every element has the same arithmetic wherever it lies.
#pragma once

namespace weft::kernels {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

WEFT_INLINE Vec load(const Bf16* p) { return load_bf16(&p->bits); }
WEFT_INLINE Vec load(const Fp16* p) { return load_fp16(&p->bits); }
WEFT_INLINE void store(Bf16* p, Vec v) { store_bf16(&p->bits, v); }
WEFT_INLINE void store(Fp16* p, Vec v) { store_fp16(&p->bits, v); }

struct AllLanes {};
struct SomeLanes {
  int64_t n;  // the first n
};

template <typename E>
WEFT_INLINE Vec read(const E* p, int64_t c, AllLanes) {
  return load(p + c);
}
// Lanes beyond the row are 0.
template <typename E>
WEFT_INLINE Vec read(const E* p, int64_t c, SomeLanes some) {
  E rest[kLanes] = {};
  for (int64_t i = 0; i < some.n; ++i) rest[i] = p[c + i];
  return load(rest);
}
template <typename E>
WEFT_INLINE void write(E* p, int64_t c, AllLanes, Vec v) {
  store(p + c, v);
}
template <typename E>
WEFT_INLINE void write(E* p, int64_t c, SomeLanes some, Vec v) {
  E rest[kLanes];
  store(rest, v);
  for (int64_t i = 0; i < some.n; ++i) p[c + i] = rest[i];
}

// v, with `other` in the lanes beyond the row.
WEFT_INLINE Vec or_beyond(AllLanes, Vec v, float) { return v; }
WEFT_INLINE Vec or_beyond(SomeLanes some, Vec v, float other) {
  return select(lane_numbers() < broadcast_int((int32_t)some.n), v, broadcast(other));
}

template <typename Body>
WEFT_INLINE void for_lanes(int64_t n, Body body) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) body(c, AllLanes{});
  if (c < n) body(c, SomeLanes{n - c});
}

// Sum over a row of what `body(c, lanes, sum)` adds to `sum`: four sums side by side hide the adder's latency.
template <typename Body>
WEFT_INLINE float sum_lanes(int64_t n, Body body) {
  Vec a = {}, b = {}, c = {}, d = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a = body(i, AllLanes{}, a);
    b = body(i + kLanes, AllLanes{}, b);
    c = body(i + 2 * kLanes, AllLanes{}, c);
    d = body(i + 3 * kLanes, AllLanes{}, d);
  }
  for (; i + kLanes <= n; i += kLanes) a = body(i, AllLanes{}, a);
  if (i < n) b = body(i, SomeLanes{n - i}, b);
  return sum_of_lanes((a + b) + (c + d));
}

template <typename E>
WEFT_INLINE const E* row_of(const ConstRows& rows, int64_t row) {
  return (const E*)rows.data + row * rows.stride;
}
template <typename E>
WEFT_INLINE E* row_of(const Rows& rows, int64_t row) {
  return (E*)rows.data + row * rows.stride;
}

// Calls body(In{}, Out{}) with the element types; fp32 goes with each 16-bit type, these only with themselves.
template <typename Body>
WEFT_INLINE void with_types(DType in, DType out, Body body) {
  if (in == DType::bf16) return out == DType::fp32 ? body(Bf16{}, float{}) : body(Bf16{}, Bf16{});
  if (in == DType::fp16) return out == DType::fp32 ? body(Fp16{}, float{}) : body(Fp16{}, Fp16{});
  if (out == DType::bf16) return body(float{}, Bf16{});
  if (out == DType::fp16) return body(float{}, Fp16{});
  body(float{}, float{});
}

}  // namespace
}  // namespace weft::kernels
