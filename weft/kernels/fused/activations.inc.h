// Activations on a path's Vec.
#pragma once

namespace weft::kernels {
namespace {

// 1 / (1 + exp(-x))
WEFT_INLINE Vec sigmoid(Vec x) {
  const Vec power = x * broadcast((float)-kLog2E);
  const Vec most = broadcast(127.0f);  // more would overflow in exp2; NaN stays
  return broadcast(1.0f) / (broadcast(1.0f) + exp2(select(power > most, most, power)));
}

WEFT_INLINE Vec absolute(Vec x) { return select(x < Vec{}, -x, x); }

// Within 2e-7 of the value, near 0 too: there by the odd polynomial x + x^3 P(x^2), fitted to |x| <= 0.6.
WEFT_INLINE Vec tanh(Vec x) {
  const Vec one = broadcast(1.0f), size = absolute(x), square = x * x;
  Vec p = broadcast(0.00223105528f);
  p = fma(p, square, broadcast(-0.00826708127f));
  p = fma(p, square, broadcast(0.0217344358f));
  p = fma(p, square, broadcast(-0.0539524748f));
  p = fma(p, square, broadcast(0.133332478f));
  p = fma(p, square, broadcast(-0.333333318f));
  const Vec power = exp2(size * broadcast((float)(-2 * kLog2E)));
  const Vec far = (one - power) / (one + power);
  return select(size < broadcast(0.6f), fma(x * square, p, x), select(x < Vec{}, -far, far));
}

}  // namespace
}  // namespace weft::kernels
