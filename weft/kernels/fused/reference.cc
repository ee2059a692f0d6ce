// FusedKernels as plain loops in fp64: what the paths are compared with, and what references in fp64 run on.
#include <algorithm>
#include <cmath>
#include <limits>

#include "weft/base/error.h"
#include "weft/kernels/element.h"
#include "weft/kernels/fused/fused.h"
#include "weft/kernels/simd.inc.h"

namespace weft::kernels {
namespace {

double get(const ConstRows& rows, int64_t row, int64_t column) {
  return load_element(rows.data, rows.type, row * rows.stride + column);
}
void put(const Rows& rows, int64_t row, int64_t column, double value) {
  store_element(rows.data, rows.type, row * rows.stride + column, value);
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double tanh(double x) { return std::tanh(x); }

}  // namespace
}  // namespace weft::kernels

// The cells' formulas are those of the paths, in fp64.
#include "weft/kernels/fused/rnn_cell.inc.h"

namespace weft::kernels {
namespace {

double get(const void* data, DType type, int64_t i) { return load_element(data, type, i); }

template <typename Body>
void for_places(int64_t rows, int64_t channels, Body body) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < channels; ++c) body(row, c);
  }
}

// What the step of token `row` reads in channel c.
template <typename Args>
RnnPlace<double> place_of(const Args& s, int64_t row, int64_t c) {
  const int64_t n = s.channels, states = rows_of_state(s.cell);
  RnnPlace<double> in{};
  for (int64_t i = 0; i < 3; ++i) {
    in.x[i] = get(s.x, s.type, (row * 3 + i) * n + c), in.a[i] = get(s.a, s.type, i * n + c);
  }
  in.h = get(s.before, s.type, (row * states + states - 1) * n + c);
  if (s.cell == RnnCell::gru) return in;
  in.c = get(s.before, s.type, row * states * n + c);
  for (int64_t i = 0; i < 2; ++i) in.p[i] = get(s.peephole, s.type, i * n + c);
  return in;
}

// Rows of J, or of the new state, at one place; of a GRU the first of each.
struct RnnAt {
  double next[2], jacobian[4];
};
RnnAt step_at(RnnCell cell, const RnnPlace<double>& in) {
  if (cell == RnnCell::gru) {
    const auto at = GruGates<double>::of(in);
    return {{at.next(at, in)}, {at.jacobian(at, in)}};
  }
  const auto at = LstmGates<double>::of(in);
  const auto j = LstmJacobian<double>::of(at, in);
  return {{at.c, at.o * at.s}, {j.cc, j.ch, j.hc, j.hh}};
}

class ReferenceFused final : public FusedKernels {
 public:
  std::string_view name() const override { return "reference"; }

  void rms_norm(const RmsNorm& a) const override {
    const DType wide = accumulator_of(a.x.type);
    for (int64_t row = 0; row < a.rows; ++row) {
      double squares = 0;
      for (int64_t c = 0; c < a.columns; ++c) squares += get(a.x, row, c) * get(a.x, row, c);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(a.columns) + a.eps);
      if (a.inverse) store_element(a.inverse, wide, row, inverse);
      for (int64_t c = 0; c < a.columns; ++c) {
        put(a.y, row, c, get(a.x, row, c) * inverse * load_element(a.weight, wide, c));
      }
    }
  }

  void rms_norm_backward(const RmsNormBackward& a) const override {
    const DType wide = accumulator_of(a.x.type);
    for (int64_t row = 0; row < a.rows; ++row) {
      const double inverse = load_element(a.inverse, wide, row);
      double mean = 0;
      for (int64_t c = 0; c < a.columns; ++c) {
        const double n = get(a.x, row, c) * inverse, dy = get(a.dy, row, c);
        mean += dy * load_element(a.weight, wide, c) * n / static_cast<double>(a.columns);
        store_element(a.dweight, wide, c, load_element(a.dweight, wide, c) + dy * n);
      }
      for (int64_t c = 0; c < a.columns; ++c) {
        const double h = get(a.dy, row, c) * load_element(a.weight, wide, c);
        const double residual = a.residual.data ? get(a.residual, row, c) : 0;
        put(a.dx, row, c, inverse * (h - get(a.x, row, c) * inverse * mean) + residual);
      }
    }
  }

  void rotate(const Rotate& a) const override {
    const int64_t half = a.dim / 2;
    for (int64_t row = 0; row < a.rows; ++row) {
      for (int64_t head = 0; head < a.heads; ++head) {
        for (int64_t c = 0; c < half; ++c) {
          const int64_t from = head * a.from_head + c, to = head * a.to_head + c;
          const double x1 = get(a.from, row, from), x2 = get(a.from, row, from + half);
          const double cosine = get(a.cos, row, c), sine = a.backward ? -get(a.sin, row, c) : get(a.sin, row, c);
          put(a.to, row, to, x1 * cosine - x2 * sine);
          put(a.to, row, to + half, x2 * cosine + x1 * sine);
        }
      }
    }
  }

  void swiglu(const Swiglu& a) const override {
    for (int64_t row = 0; row < a.rows; ++row) {
      for (int64_t c = 0; c < a.columns; ++c) {
        const double g = get(a.gate, row, c);
        put(a.out, row, c, g * sigmoid(g) * get(a.up, row, c));
      }
    }
  }

  void swiglu_backward(const SwigluBackward& a) const override {
    for (int64_t row = 0; row < a.rows; ++row) {
      for (int64_t c = 0; c < a.columns; ++c) {
        const double g = get(a.gate, row, c), u = get(a.up, row, c), d = get(a.dout, row, c), s = sigmoid(g);
        put(a.dgate, row, c, d * u * s * (1 + g * (1 - s)));
        put(a.dup, row, c, d * g * s);
        put(a.out, row, c, g * s * u);
      }
    }
  }

  void add(const AddRows& a) const override {
    for (int64_t row = 0; row < a.rows; ++row) {
      for (int64_t c = 0; c < a.columns; ++c) put(a.out, row, c, get(a.a, row, c) + get(a.b, row, c));
    }
  }

  void log_sum_exp(const LogSumExp& a) const override {
    constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
    const Logits& logits = a.logits;
    for (int64_t row = 0; row < logits.rows; ++row) {
      const double before = a.lse[row];
      double maximum = before, sum = 0;
      for (int64_t c = 0; c < logits.columns; ++c) maximum = std::max(maximum, get(logits.values, row, c));
      const double shift = maximum == kMinusInfinity ? 0 : maximum;
      for (int64_t c = 0; c < logits.columns; ++c) sum += std::exp(get(logits.values, row, c) - shift);
      sum += std::exp(before - shift);
      a.lse[row] = sum == 0 ? kMinusInfinity : shift + std::log(sum);
      const int64_t label = logits.labels[row] - logits.first;
      if (label >= 0 && label < logits.columns) a.picked[row] = get(logits.values, row, label);
    }
  }

  void cross_entropy_backward(const CrossEntropyBackward& a) const override {
    const Logits& logits = a.logits;
    for (int64_t row = 0; row < logits.rows; ++row) {
      const double lse = a.lse[row];
      for (int64_t c = 0; c < logits.columns; ++c) {
        const double own = logits.labels[row] == logits.first + c ? 1 : 0;
        const double d = a.scale * (std::exp(get(logits.values, row, c) - lse) - own);
        put(a.d, row, c, logits.labels[row] < 0 ? 0 : d);
      }
    }
  }

  void adamw(const AdamWStep& a) const override {
    for (int64_t i = 0; i < a.n; ++i) {
      const double g = static_cast<double>(a.gradients[i]) * a.gradient_scale;
      const double m = a.beta1 * a.first_moment[i] + (1.0 - a.beta1) * g;
      const double v = a.beta2 * a.second_moment[i] + (1.0 - a.beta2) * g * g;
      a.first_moment[i] = static_cast<float>(m);
      a.second_moment[i] = static_cast<float>(v);
      a.weights[i] = static_cast<float>(a.keep * a.weights[i] - a.rate * m / (std::sqrt(v * a.v_scale) + a.eps));
    }
  }

  RnnResidual rnn_step(const RnnStep& s) const override {
    const int64_t n = s.channels, states = rows_of_state(s.cell);
    RnnResidual residual{0, true};
    const auto put_at = [&](void* to, int64_t i, double value) {
      store_element(to, s.type, i, value);
      residual.finite = residual.finite && std::isfinite(value);
    };
    for_places(s.rows, n, [&](int64_t row, int64_t c) {
      const RnnAt at = step_at(s.cell, place_of(s, row, c));
      for (int64_t i = 0; i < states; ++i) {
        const int64_t place = (row * states + i) * n + c;
        const double rest = at.next[i] - (s.state ? get(s.state, s.type, place) : 0);
        put_at(s.rest, place, rest);
        residual.largest = std::max(residual.largest, std::abs(rest));
      }
      if (!s.jacobian) return;
      for (int64_t i = 0; i < states * states; ++i) {
        put_at(s.jacobian, (row * states * states + i) * n + c, at.jacobian[i]);
      }
    });
    return residual;
  }

  void rnn_backward(const RnnBackward& s) const override {
    using Gradients = RnnGradients<double>;
    const int64_t n = s.channels, states = rows_of_state(s.cell);
    const auto add = [&](void* to, int64_t i, double value) {
      store_element(to, s.type, i, get(to, s.type, i) + value);
    };
    for_places(s.rows, n, [&](int64_t row, int64_t c) {
      const RnnPlace<double> in = place_of(s, row, c);
      const double dh = get(s.dnext, s.type, (row * states + states - 1) * n + c);
      const bool gru = s.cell == RnnCell::gru;
      const Gradients d =
          gru ? Gradients::of_gru(in, dh) : Gradients::of_lstm(in, get(s.dnext, s.type, row * states * n + c), dh);
      for (int64_t i = 0; i < 3; ++i) {
        store_element(s.dx, s.type, (row * 3 + i) * n + c, d.x[i]);
        add(s.da, i * n + c, d.a[i]);
      }
      for (int64_t i = 0; i < (gru ? 0 : 2); ++i) add(s.dpeephole, i * n + c, d.p[i]);
    });
  }

  void rnn_correct(const RnnCorrection& s) const override {
    for (int64_t i = 0; i < s.n; ++i) {
      const double h = get(s.state, s.type, i), next = h + get(s.by, s.type, i);
      const bool finite = std::isfinite(next);
      store_element(s.state, s.type, i, finite ? std::clamp(next, -s.bound, s.bound) : h + get(s.rest, s.type, i));
    }
  }
};

}  // namespace

const FusedKernels& reference_fused_kernels() {
  static const ReferenceFused kernels;
  return kernels;
}

}  // namespace weft::kernels
