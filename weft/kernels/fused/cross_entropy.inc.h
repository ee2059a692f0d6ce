// Rows of logits: maximum and sum of exponentials, and the exponentials themselves.
#pragma once

namespace weft::kernels {
namespace {

WEFT_INLINE Vec exp_below(Vec x) { return exp2(x * broadcast((float)kLog2E)); }  // exp(x) for x <= 88

static void exp_sum(const float* x, int64_t n, float* maximum, float* sum) {
  Vec most = broadcast(-kInfinity);
  for_lanes(n, [&](int64_t c, auto lanes) { most = max(most, or_beyond(lanes, read(x, c, lanes), -kInfinity)); });
  float top = -kInfinity;
  for (int i = 0; i < kLanes; ++i) top = most[i] > top ? most[i] : top;
  *maximum = top;
  const Vec shift = broadcast(top == -kInfinity ? 0.0f : top);  // -inf - -inf would be NaN
  *sum = sum_lanes(n, [&](int64_t c, auto lanes, Vec total) {
    return total + exp_below(or_beyond(lanes, read(x, c, lanes), -kInfinity) - shift);
  });
}

template <typename Out>
static void scaled_exp_row(const float* x, int64_t n, float shift, float factor, Out* to) {
  for_lanes(n, [&](int64_t c, auto lanes) {
    write(to, c, lanes, broadcast(factor) * exp_below(read(x, c, lanes) - broadcast(shift)));
  });
}

static void scaled_exp(const float* x, int64_t n, float shift, float factor, void* to, DType type) {
  if (type == DType::bf16) return scaled_exp_row(x, n, shift, factor, (Bf16*)to);
  if (type == DType::fp16) return scaled_exp_row(x, n, shift, factor, (Fp16*)to);
  scaled_exp_row(x, n, shift, factor, (float*)to);
}

}  // namespace
}  // namespace weft::kernels
