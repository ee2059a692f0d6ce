// SwiGLU forward and backward, and the sum of two rows: one pass, nothing kept.
#pragma once

namespace weft::kernels {
namespace {

template <typename In, typename Out>
static void swiglu_rows(const Swiglu& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    const In *gate = row_of<In>(a.gate, row), *up = row_of<In>(a.up, row);
    Out* out = row_of<Out>(a.out, row);
    for_lanes(a.columns, [&](int64_t c, auto lanes) {
      const Vec g = read(gate, c, lanes);
      write(out, c, lanes, g * sigmoid(g) * read(up, c, lanes));
    });
  }
}

static void swiglu(const Swiglu& args) {
  with_types(args.gate.type, args.out.type, [&](auto in, auto out) { swiglu_rows<decltype(in), decltype(out)>(args); });
}

template <typename In, typename Out>
static void swiglu_backward_rows(const SwigluBackward& a) {
  const Vec one = broadcast(1.0f);
  for (int64_t row = 0; row < a.rows; ++row) {
    const In *gate = row_of<In>(a.gate, row), *up = row_of<In>(a.up, row);
    const Out* dout = row_of<Out>(a.dout, row);
    Out *dgate = row_of<Out>(a.dgate, row), *dup = row_of<Out>(a.dup, row), *out = row_of<Out>(a.out, row);
    for_lanes(a.columns, [&](int64_t c, auto lanes) {
      const Vec g = read(gate, c, lanes), u = read(up, c, lanes), d = read(dout, c, lanes);
      const Vec s = sigmoid(g), silu = g * s;
      write(dgate, c, lanes, d * u * s * fma(g, one - s, one));
      write(dup, c, lanes, d * silu);
      write(out, c, lanes, silu * u);
    });
  }
}

static void swiglu_backward(const SwigluBackward& args) {
  with_types(args.gate.type, args.dout.type,
             [&](auto in, auto out) { swiglu_backward_rows<decltype(in), decltype(out)>(args); });
}

template <typename S, typename B>
static void add_the_rows(const AddRows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const S* a = row_of<S>(args.a, row);
    const B* b = row_of<B>(args.b, row);
    S* out = row_of<S>(args.out, row);
    for_lanes(args.columns,
              [&](int64_t c, auto lanes) { write(out, c, lanes, read(a, c, lanes) + read(b, c, lanes)); });
  }
}

static void add_rows(const AddRows& args) {
  with_types(args.a.type, args.b.type, [&](auto a, auto b) { add_the_rows<decltype(a), decltype(b)>(args); });
}

}  // namespace
}  // namespace weft::kernels
