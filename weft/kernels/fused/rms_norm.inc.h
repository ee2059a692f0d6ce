// RMSNorm, forward and backward: each row is read from memory once and stays in the nearest cache for its second pass.
#pragma once

namespace weft::kernels {
namespace {

template <typename X, typename Y>
static void rms_norm_rows(const RmsNorm& a) {
  const float* weight = (const float*)a.weight;
  for (int64_t row = 0; row < a.rows; ++row) {
    const X* x = row_of<X>(a.x, row);
    Y* y = row_of<Y>(a.y, row);
    const float squares = sum_lanes(a.columns, [&](int64_t c, auto lanes, Vec sum) {
      const Vec v = read(x, c, lanes);
      return fma(v, v, sum);
    });
    const float inverse = 1.0f / __builtin_sqrtf(squares / (float)a.columns + (float)a.eps);
    if (a.inverse) ((float*)a.inverse)[row] = inverse;
    const Vec factor = broadcast(inverse);
    const X* next = row + 1 < a.rows ? row_of<X>(a.x, row + 1) : x;  // on its way while this row is written
    for_lanes(a.columns, [&](int64_t c, auto lanes) {
      __builtin_prefetch(next + c);
      write(y, c, lanes, read(x, c, lanes) * factor * read(weight, c, lanes));
    });
  }
}

static void rms_norm(const RmsNorm& args) {
  with_types(args.x.type, args.y.type, [&](auto x, auto y) { rms_norm_rows<decltype(x), decltype(y)>(args); });
}

// S is how x, dx and the residual are stored.
template <typename S, typename D>
static void rms_norm_backward_rows(const RmsNormBackward& a) {
  const float* weight = (const float*)a.weight;
  float* dweight = (float*)a.dweight;
  for (int64_t row = 0; row < a.rows; ++row) {
    const S* x = row_of<S>(a.x, row);
    const D* dy = row_of<D>(a.dy, row);
    S* dx = row_of<S>(a.dx, row);
    const float inverse = ((const float*)a.inverse)[row];
    const Vec factor = broadcast(inverse);
    const float product = sum_lanes(a.columns, [&](int64_t c, auto lanes, Vec sum) {
      const Vec d = read(dy, c, lanes), n = read(x, c, lanes) * factor;
      write(dweight, c, lanes, fma(d, n, read(dweight, c, lanes)));
      return fma(d * read(weight, c, lanes), n, sum);
    });
    const Vec mean = broadcast(product / (float)a.columns * inverse);
    const auto gradient = [&](int64_t c, auto lanes) {
      const Vec h = read(dy, c, lanes) * read(weight, c, lanes);
      return factor * (h - read(x, c, lanes) * mean);
    };
    if (a.residual.data) {
      const S* residual = row_of<S>(a.residual, row);
      for_lanes(a.columns,
                [&](int64_t c, auto lanes) { write(dx, c, lanes, gradient(c, lanes) + read(residual, c, lanes)); });
    } else {
      for_lanes(a.columns, [&](int64_t c, auto lanes) { write(dx, c, lanes, gradient(c, lanes)); });
    }
  }
}

static void rms_norm_backward(const RmsNormBackward& args) {
  with_types(args.x.type, args.dy.type,
             [&](auto x, auto dy) { rms_norm_backward_rows<decltype(x), decltype(dy)>(args); });
}

}  // namespace
}  // namespace weft::kernels
