// One step of AdamW over flat arrays: four are read and three written, once.
#pragma once

namespace weft::kernels {
namespace {

static void adamw(const AdamWStep& a) {
  const Vec beta1 = broadcast(a.beta1), rest1 = broadcast(1 - a.beta1);
  const Vec beta2 = broadcast(a.beta2), rest2 = broadcast(1 - a.beta2);
  const Vec eps = broadcast(a.eps), scale = broadcast(a.gradient_scale);
  const Vec keep = broadcast(a.keep), rate = broadcast(a.rate), v_scale = broadcast(a.v_scale);
  for_lanes(a.n, [&](int64_t i, auto lanes) {
    const Vec g = read(a.gradients, i, lanes) * scale;
    const Vec m = fma(beta1, read(a.first_moment, i, lanes), rest1 * g);
    const Vec v = fma(beta2, read(a.second_moment, i, lanes), rest2 * g * g);
    write(a.first_moment, i, lanes, m);
    write(a.second_moment, i, lanes, v);
    write(a.weights, i, lanes, keep * read(a.weights, i, lanes) - rate * m / (sqrt(v * v_scale) + eps));
  });
}

}  // namespace
}  // namespace weft::kernels
