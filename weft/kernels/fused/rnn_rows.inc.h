// Steps of recurrent cells over rows of tokens, in one pass over memory, and Newton's corrections.
#pragma once

namespace weft::kernels {
namespace {

template <RnnCell cell, typename Lanes>
WEFT_INLINE RnnPlace<Vec> place_of(const float* x, const float* before, const float* a, const float* p, int64_t n,
                                   int64_t c, Lanes lanes) {
  RnnPlace<Vec> in;
  WEFT_UNROLL
  for (int i = 0; i < 3; ++i) in.x[i] = read(x + i * n, c, lanes), in.a[i] = read(a + i * n, c, lanes);
  if constexpr (cell == RnnCell::gru) {
    in.h = read(before, c, lanes);
  } else {
    in.p[0] = read(p, c, lanes), in.p[1] = read(p + n, c, lanes);
    in.c = read(before, c, lanes), in.h = read(before + n, c, lanes);
  }
  return in;
}

// The largest in size of what was written, and whether all was finite.
struct Watch {
  Vec most = {}, zero = {};  // times zero, what is not finite is NaN
};
WEFT_INLINE void note(Watch& watch, Vec v) { watch.zero = fma(v, Vec{}, watch.zero); }

template <RnnCell cell>
static RnnResidual rnn_step_of(const RnnStep& s) {
  constexpr int64_t kRows = cell == RnnCell::gru ? 1 : 2;
  const int64_t n = s.channels;
  const float *const a = (const float*)s.a, *const p = (const float*)s.peephole;
  Watch watch;
  for (int64_t row = 0; row < s.rows; ++row) {
    const float* const x = (const float*)s.x + row * 3 * n;
    const float* const before = (const float*)s.before + row * kRows * n;
    const float* const state = s.state ? (const float*)s.state + row * kRows * n : nullptr;
    float* const rest = (float*)s.rest + row * kRows * n;
    float* const jacobian = s.jacobian ? (float*)s.jacobian + row * kRows * kRows * n : nullptr;
    for_lanes(n, [&](int64_t c, auto lanes) {
      const RnnPlace<Vec> in = place_of<cell>(x, before, a, p, n, c, lanes);
      const auto give = [&](int64_t i, Vec next) {
        const Vec left = state ? next - read(state + i * n, c, lanes) : next;
        note(watch, left);
        watch.most = max(watch.most, absolute(left));
        write(rest + i * n, c, lanes, left);
      };
      const auto entry = [&](int64_t i, Vec v) {
        note(watch, v);
        write(jacobian + i * n, c, lanes, v);
      };
      if constexpr (cell == RnnCell::gru) {
        const GruGates<Vec> at = GruGates<Vec>::of(in);
        give(0, GruGates<Vec>::next(at, in));
        if (jacobian) entry(0, GruGates<Vec>::jacobian(at, in));
      } else {
        const LstmGates<Vec> at = LstmGates<Vec>::of(in);
        give(0, at.c);
        give(1, at.o * at.s);
        if (!jacobian) return;
        const LstmJacobian<Vec> j = LstmJacobian<Vec>::of(at, in);
        entry(0, j.cc), entry(1, j.ch), entry(2, j.hc), entry(3, j.hh);
      }
    });
  }
  float largest = 0;
  for (int i = 0; i < kLanes; ++i) largest = watch.most[i] > largest ? watch.most[i] : largest;
  return {largest, sum_of_lanes(watch.zero) == 0};
}

static RnnResidual rnn_step(const RnnStep& s) {
  return s.cell == RnnCell::gru ? rnn_step_of<RnnCell::gru>(s) : rnn_step_of<RnnCell::lstm>(s);
}

template <RnnCell cell>
static void rnn_backward_of(const RnnBackward& s) {
  constexpr int64_t kRows = cell == RnnCell::gru ? 1 : 2;
  const int64_t n = s.channels;
  const float *const a = (const float*)s.a, *const p = (const float*)s.peephole;
  const auto add = [](float* to, int64_t c, auto lanes, Vec v) { write(to, c, lanes, read(to, c, lanes) + v); };
  for (int64_t row = 0; row < s.rows; ++row) {
    const float* const x = (const float*)s.x + row * 3 * n;
    const float* const before = (const float*)s.before + row * kRows * n;
    const float* const dnext = (const float*)s.dnext + row * kRows * n;
    float* const dx = (float*)s.dx + row * 3 * n;
    for_lanes(n, [&](int64_t c, auto lanes) {
      const RnnPlace<Vec> in = place_of<cell>(x, before, a, p, n, c, lanes);
      RnnGradients<Vec> d;
      if constexpr (cell == RnnCell::gru) {
        d = RnnGradients<Vec>::of_gru(in, read(dnext, c, lanes));
      } else {
        d = RnnGradients<Vec>::of_lstm(in, read(dnext, c, lanes), read(dnext + n, c, lanes));
        for (int i = 0; i < 2; ++i) add((float*)s.dpeephole + i * n, c, lanes, d.p[i]);
      }
      for (int i = 0; i < 3; ++i) {
        write(dx + i * n, c, lanes, d.x[i]);
        add((float*)s.da + i * n, c, lanes, d.a[i]);
      }
    });
  }
}

static void rnn_backward(const RnnBackward& s) {
  s.cell == RnnCell::gru ? rnn_backward_of<RnnCell::gru>(s) : rnn_backward_of<RnnCell::lstm>(s);
}

static void rnn_correct(const RnnCorrection& s) {
  const float *const by = (const float*)s.by, *const rest = (const float*)s.rest;
  float* const state = (float*)s.state;
  const Vec most = broadcast((float)s.bound);
  for_lanes(s.n, [&](int64_t i, auto lanes) {
    const Vec h = read(state, i, lanes), next = h + read(by, i, lanes);
    const Vec low = select(next < -most, -most, next), within = select(low > most, most, low);
    write(state, i, lanes, select(next - next == Vec{}, within, h + read(rest, i, lanes)));
  });
}

}  // namespace
}  // namespace weft::kernels
