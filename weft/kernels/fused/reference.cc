// FusedKernels as plain loops in fp64: what the paths are compared with, and what references in fp64 run on.
#include <cmath>
#include <limits>

#include "weft/base/error.h"
#include "weft/kernels/element.h"
#include "weft/kernels/fused/fused.h"

namespace weft::kernels {
namespace {

double get(const ConstRows& rows, int64_t row, int64_t column) {
  return load_element(rows.data, rows.type, row * rows.stride + column);
}
void put(const Rows& rows, int64_t row, int64_t column, double value) {
  store_element(rows.data, rows.type, row * rows.stride + column, value);
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

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
};

}  // namespace

const FusedKernels& reference_fused_kernels() {
  static const ReferenceFused kernels;
  return kernels;
}

}  // namespace weft::kernels
