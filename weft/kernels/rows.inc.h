// Operations on single rows of floats.
#pragma once

namespace weft::kernels {
namespace {

// to = a * to + b * from. With a = 0 the old content is not read: it may be anything.
static void scale_add(float* to, float a, const float* from, float b, int64_t n) {
  int64_t i = 0;
  const Vec va = broadcast(a), vb = broadcast(b);
  if (a == 0) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, vb * load(from + i));
    for (; i < n; ++i) to[i] = b * from[i];
    return;
  }
  for (; i + kLanes <= n; i += kLanes) store(to + i, fma(va, load(to + i), vb * load(from + i)));
  for (; i < n; ++i) to[i] = a * to[i] + b * from[i];
}

static bool all_finite(const float* x, int64_t n) {
  int64_t i = 0;
  Vec zero[4] = {};  // times zero, what is not finite is NaN
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    WEFT_UNROLL
    for (int j = 0; j < 4; ++j) zero[j] = fma(load(x + i + j * kLanes), Vec{}, zero[j]);
  }
  float total = sum_of_lanes((zero[0] + zero[1]) + (zero[2] + zero[3]));
  for (; i < n; ++i) total += x[i] * 0.0f;
  return total == 0;
}

}  // namespace
}  // namespace weft::kernels
