// The cells of nonlinear recurrent networks (fused.h: RnnCell) at one place, with their derivatives: on a path's vectors, or on
// single numbers of fp64. The including file has sigmoid and tanh of V.
#pragma once

namespace weft::kernels {
namespace {

// What a step reads at one place: c of an LSTM only.
template <typename V>
struct RnnPlace {
  V x[3], a[3], p[2];
  V c, h;
};

template <typename V>
struct GruGates {
  V z, r, n;

  WEFT_INLINE GruGates of(const RnnPlace<V>& in) {
    GruGates at;
    at.z = sigmoid(in.a[0] * in.h + in.x[0]);
    at.r = sigmoid(in.a[1] * in.h + in.x[1]);
    at.n = tanh(in.a[2] * (at.r * in.h) + in.x[2]);
    return at;
  }
  WEFT_INLINE V next(const GruGates& at, const RnnPlace<V>& in) { return in.h + at.z * (at.n - in.h); }
  WEFT_INLINE V jacobian(const GruGates& at, const RnnPlace<V>& in) {
    const V inner = at.r + in.h * at.r * (1.0f - at.r) * in.a[1];
    return (1.0f - at.z) + (at.n - in.h) * at.z * (1.0f - at.z) * in.a[0] +
           at.z * (1.0f - at.n * at.n) * in.a[2] * inner;
  }
};

template <typename V>
struct LstmGates {
  V f, g, o, c, s;  // c and s = tanh(c) of the new state

  WEFT_INLINE LstmGates of(const RnnPlace<V>& in) {
    LstmGates at;
    at.f = sigmoid(in.a[0] * in.h + in.p[0] * in.c + in.x[0]);
    at.g = tanh(in.a[2] * in.h + in.x[2]);
    at.c = at.g + at.f * (in.c - at.g);
    at.s = tanh(at.c);
    at.o = sigmoid(in.a[1] * in.h + in.p[1] * at.c + in.x[1]);
    return at;
  }
};

// J of an LSTM's step, row by row.
template <typename V>
struct LstmJacobian {
  V cc, ch, hc, hh;

  WEFT_INLINE LstmJacobian of(const LstmGates<V>& at, const RnnPlace<V>& in) {
    LstmJacobian j;
    const V by_f = (in.c - at.g) * at.f * (1.0f - at.f), by_o = at.s * at.o * (1.0f - at.o);
    const V h_by_c = at.o * (1.0f - at.s * at.s) + by_o * in.p[1];
    j.cc = at.f + by_f * in.p[0];
    j.ch = by_f * in.a[0] + (1.0f - at.f) * (1.0f - at.g * at.g) * in.a[2];
    j.hc = h_by_c * j.cc;
    j.hh = by_o * in.a[1] + h_by_c * j.ch;
    return j;
  }
};

// Gradients of what a step reads but for the state, from those of the new state.
template <typename V>
struct RnnGradients {
  V x[3], a[3], p[2];

  WEFT_INLINE RnnGradients of_gru(const RnnPlace<V>& in, V dh) {
    const GruGates<V> at = GruGates<V>::of(in);
    RnnGradients d;
    d.x[0] = dh * (at.n - in.h) * at.z * (1.0f - at.z);
    d.x[2] = dh * at.z * (1.0f - at.n * at.n);
    d.x[1] = d.x[2] * in.a[2] * in.h * at.r * (1.0f - at.r);
    d.a[0] = d.x[0] * in.h;
    d.a[1] = d.x[1] * in.h;
    d.a[2] = d.x[2] * at.r * in.h;
    return d;
  }
  WEFT_INLINE RnnGradients of_lstm(const RnnPlace<V>& in, V dc, V dh) {
    const LstmGates<V> at = LstmGates<V>::of(in);
    RnnGradients d;
    d.x[1] = dh * at.s * at.o * (1.0f - at.o);
    dc = dc + dh * at.o * (1.0f - at.s * at.s) + d.x[1] * in.p[1];
    d.x[0] = dc * (in.c - at.g) * at.f * (1.0f - at.f);
    d.x[2] = dc * (1.0f - at.f) * (1.0f - at.g * at.g);
    d.a[0] = d.x[0] * in.h;
    d.a[1] = d.x[1] * in.h;
    d.a[2] = d.x[2] * in.h;
    d.p[0] = d.x[0] * in.c;
    d.p[1] = d.x[1] * at.c;
    return d;
  }
};

}  // namespace
}  // namespace weft::kernels
