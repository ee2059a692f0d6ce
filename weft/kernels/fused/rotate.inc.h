// Rotary embedding: pairs of columns half a head apart are turned by the angles of their row.
#pragma once

namespace weft::kernels {
namespace {

template <typename In, typename Out>
static void rotate_rows(const Rotate& a) {
  const int64_t half = a.dim / 2;
  const Vec direction = broadcast(a.backward ? -1.0f : 1.0f);
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* cosines = row_of<float>(a.cos, row);
    const float* sines = row_of<float>(a.sin, row);
    for (int64_t head = 0; head < a.heads; ++head) {
      const In* x = row_of<In>(a.from, row) + head * a.from_head;
      Out* y = row_of<Out>(a.to, row) + head * a.to_head;
      for_lanes(half, [&](int64_t c, auto lanes) {
        const Vec x1 = read(x, c, lanes), x2 = read(x + half, c, lanes);
        const Vec cosine = read(cosines, c, lanes), sine = read(sines, c, lanes) * direction;
        write(y, c, lanes, x1 * cosine - x2 * sine);
        write(y + half, c, lanes, fma(x2, cosine, x1 * sine));
      });
    }
  }
}

static void rotate(const Rotate& args) {
  with_types(args.from.type, args.to.type, [&](auto in, auto out) { rotate_rows<decltype(in), decltype(out)>(args); });
}

}  // namespace
}  // namespace weft::kernels
