// Loads, stores and the exponential on a path's Vec.
#pragma once

namespace weft::kernels {
namespace {

inline constexpr int kStrip = 2 * kLanes;  // queries (or columns) that one micro-kernel call covers
inline constexpr float kInfinity = __builtin_inff();
inline constexpr double kLog2E = 1.44269504088896341;
inline constexpr double kLn2 = 0.69314718055994531;

typedef float UnalignedVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

WEFT_INLINE Vec load(const float* p) { return *(const UnalignedVec*)p; }
WEFT_INLINE void store(float* p, Vec v) { *(UnalignedVec*)p = v; }
WEFT_INLINE Vec broadcast(float x) { return x - Vec{}; }  // x - 0 keeps the sign of zero and folds to a broadcast
WEFT_INLINE IVec broadcast_int(int32_t x) { return x - IVec{}; }

WEFT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
WEFT_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
WEFT_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// 0, 1, 2, ... in the lanes.
WEFT_INLINE IVec lane_numbers() {
  IVec lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

// Whether any lane of a comparison's result is set.
WEFT_INLINE bool any(IVec mask) {
  int32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= mask[i];
  return bits != 0;
}

WEFT_INLINE float sum_of_lanes(Vec v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// 2^x for x <= 127, relative error 1.2e-7; exactly 1 at 0, exactly 0 below -126.5 and at -inf; NaN
// stays NaN.
WEFT_INLINE Vec exp2(Vec x) {
  // Adding 1.5 * 2^23 + 127 rounds x to an integer n and leaves n + 127, a float's exponent, in the
  // low bits.
  const Vec shift = broadcast(12582912.0f + 127.0f);
  x = max(broadcast(-127.0f), x);
  const Vec shifted = x + shift;
  const Vec f = x - (shifted - shift);  // in [-0.5, 0.5]
  const Vec power = (Vec)((IVec)shifted << 23);
  Vec p = broadcast(0.001326472731307149f);  // minimax of degree 5 with p(0) = 1
  p = fma(p, f, broadcast(0.009671512991189957f));
  p = fma(p, f, broadcast(0.05550733581185341f));
  p = fma(p, f, broadcast(0.24022242426872253f));
  p = fma(p, f, broadcast(0.6931470036506653f));
  p = fma(p, f, broadcast(1.0f));
  return p * power;
}

}  // namespace
}  // namespace weft::kernels
