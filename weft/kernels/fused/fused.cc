// FusedKernels of the CPU paths: what involves fp64 goes to the reference, the rest to the path's FusedOps.
#include "weft/kernels/fused/fused.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

// True for fp32 and one 16-bit type, false if all are fp64; anything else is a mistake of the caller.
bool narrow(std::initializer_list<DType> types) {
  DType half = DType::fp32;
  size_t wide = 0;
  for (const DType type : types) {
    WEFT_CHECK(!is_exact_sum(type));
    if (type == DType::fp64) ++wide;
    if (type == DType::fp64 || type == DType::fp32) continue;
    WEFT_CHECK(half == DType::fp32 || half == type);
    half = type;
  }
  WEFT_CHECK(wide == 0 || wide == types.size());
  return wide == 0;
}

ConstRows from_row(ConstRows rows, int64_t row) {
  if (rows.data) rows.data = static_cast<const char*>(rows.data) + row * rows.stride * size_of(rows.type);
  return rows;
}
Rows from_row(Rows rows, int64_t row) {
  rows.data = static_cast<char*>(rows.data) + row * rows.stride * size_of(rows.type);
  return rows;
}

// Gradients of weights are sums over few rows each, added up, so that their error does not grow with the number of rows.
constexpr int64_t kSumRows = 128;

void add_to(void* sums, const std::vector<float>& part) {
  for (size_t c = 0; c < part.size(); ++c) static_cast<float*>(sums)[c] += part[c];
}

class CpuFused final : public FusedKernels {
 public:
  CpuFused(std::string_view name, const FusedOps& ops) : name_(name), ops_(ops) {}

  std::string_view name() const override { return name_; }

  void rms_norm(const RmsNorm& args) const override {
    if (!narrow({args.x.type, args.y.type})) return reference_fused_kernels().rms_norm(args);
    ops_.rms_norm(args);
  }

  void rms_norm_backward(const RmsNormBackward& args) const override {
    if (!narrow({args.dx.type, args.dy.type, args.x.type})) return reference_fused_kernels().rms_norm_backward(args);
    WEFT_CHECK(args.dx.type == args.x.type && (!args.residual.data || args.residual.type == args.dx.type));
    std::vector<float> sum(static_cast<size_t>(args.columns));
    for (int64_t row = 0; row < args.rows; row += kSumRows) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      RmsNormBackward part = args;
      part.dx = from_row(args.dx, row);
      part.dy = from_row(args.dy, row);
      part.x = from_row(args.x, row);
      part.residual = from_row(args.residual, row);
      part.inverse = static_cast<const float*>(args.inverse) + row;
      part.dweight = sum.data();
      part.rows = std::min(kSumRows, args.rows - row);
      ops_.rms_norm_backward(part);
      add_to(args.dweight, sum);
    }
  }

  void rotate(const Rotate& args) const override {
    if (!narrow({args.from.type, args.to.type, args.cos.type, args.sin.type})) {
      return reference_fused_kernels().rotate(args);
    }
    ops_.rotate(args);
  }

  void swiglu(const Swiglu& args) const override {
    if (!narrow({args.gate.type, args.out.type})) return reference_fused_kernels().swiglu(args);
    WEFT_CHECK(args.up.type == args.gate.type);
    ops_.swiglu(args);
  }

  void swiglu_backward(const SwigluBackward& args) const override {
    if (!narrow({args.gate.type, args.dout.type})) return reference_fused_kernels().swiglu_backward(args);
    const DType type = args.dout.type;
    WEFT_CHECK(args.up.type == args.gate.type && args.dgate.type == type && args.dup.type == type &&
               args.out.type == type);
    ops_.swiglu_backward(args);
  }

  void add(const AddRows& args) const override {
    if (!narrow({args.out.type, args.b.type})) return reference_fused_kernels().add(args);
    WEFT_CHECK(args.a.type == args.out.type);
    ops_.add(args);
  }

  void log_sum_exp(const LogSumExp& args) const override {
    const Logits& logits = args.logits;
    if (!narrow({logits.values.type})) return reference_fused_kernels().log_sum_exp(args);
    WEFT_CHECK(logits.values.type == DType::fp32);
    for (int64_t row = 0; row < logits.rows; ++row) {
      const float* x = static_cast<const float*>(from_row(logits.values, row).data);
      float maximum, sum;
      ops_.exp_sum(x, logits.columns, &maximum, &sum);
      const int64_t label = logits.labels[row] - logits.first;
      if (label >= 0 && label < logits.columns) args.picked[row] = x[label];
      if (sum == 0) continue;
      const double ours = args.lse[row], theirs = maximum + std::log(static_cast<double>(sum));
      args.lse[row] = ours == -std::numeric_limits<double>::infinity()
                          ? theirs
                          : std::max(ours, theirs) + std::log1p(std::exp(-std::fabs(ours - theirs)));
    }
  }

  void cross_entropy_backward(const CrossEntropyBackward& args) const override {
    const Logits& logits = args.logits;
    if (!narrow({logits.values.type, args.d.type})) return reference_fused_kernels().cross_entropy_backward(args);
    WEFT_CHECK(logits.values.type == DType::fp32);
    for (int64_t row = 0; row < logits.rows; ++row) {
      char* d = static_cast<char*>(from_row(args.d, row).data);
      const int64_t size = size_of(args.d.type), label = logits.labels[row] - logits.first;
      if (logits.labels[row] < 0) {
        std::fill_n(d, logits.columns * size, char{0});
        continue;
      }
      const float* x = static_cast<const float*>(from_row(logits.values, row).data);
      const double lse = args.lse[row];
      const bool here = label >= 0 && label < logits.columns;
      // Before the row is overwritten. expm1 keeps the digits of a probability near 1.
      const double own = here ? args.scale * std::expm1(x[label] - lse) : 0;
      const float shift = static_cast<float>(lse);  // what it lacks goes into the factor
      const float factor = static_cast<float>(args.scale * (std::isfinite(lse) ? std::exp(shift - lse) : 1));
      ops_.scaled_exp(x, logits.columns, shift, factor, d, args.d.type);
      if (here) store_element(d, args.d.type, label, own);
    }
  }

  void adamw(const AdamWStep& args) const override { ops_.adamw(args); }

  RnnResidual rnn_step(const RnnStep& args) const override {
    return narrow({args.type}) ? ops_.rnn_step(args) : reference_fused_kernels().rnn_step(args);
  }

  void rnn_backward(const RnnBackward& args) const override {
    if (!narrow({args.type})) return reference_fused_kernels().rnn_backward(args);
    const auto size = static_cast<size_t>(args.channels);
    const int64_t states = rows_of_state(args.cell) * args.channels;
    std::vector<float> da(3 * size), dpeephole(2 * size);
    for (int64_t row = 0; row < args.rows; row += kSumRows) {
      std::fill(da.begin(), da.end(), 0.0f), std::fill(dpeephole.begin(), dpeephole.end(), 0.0f);
      RnnBackward part = args;
      part.x = static_cast<const float*>(args.x) + row * 3 * args.channels;
      part.before = static_cast<const float*>(args.before) + row * states;
      part.dnext = static_cast<const float*>(args.dnext) + row * states;
      part.dx = static_cast<float*>(args.dx) + row * 3 * args.channels;
      part.da = da.data(), part.dpeephole = dpeephole.data();
      part.rows = std::min(kSumRows, args.rows - row);
      ops_.rnn_backward(part);
      add_to(args.da, da);
      if (args.cell == RnnCell::lstm) add_to(args.dpeephole, dpeephole);
    }
  }

  void rnn_correct(const RnnCorrection& args) const override {
    narrow({args.type}) ? ops_.rnn_correct(args) : reference_fused_kernels().rnn_correct(args);
  }

 private:
  const std::string_view name_;
  const FusedOps& ops_;
};

}  // namespace

const FusedKernels& fused_kernels(std::string_view path) { return cpu_kernels(path).fused(); }
const FusedKernels& fused_kernels() { return cpu_kernels().fused(); }
const FusedKernels& KernelSet::fused() const { return reference_fused_kernels(); }

std::unique_ptr<FusedKernels> make_fused(const TileOps& ops) {
  return std::make_unique<CpuFused>(ops.name, *ops.fused);
}

}  // namespace weft::kernels
