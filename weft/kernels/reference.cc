// The reference kernels: the plainest loops, everything in fp64, rounded once when an output is
// stored. Kept for ever as the thing that every other kernel is compared with; never made faster.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/kernels/canonical/canonical.h"
#include "weft/kernels/checks.h"
#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

double dot(const ConstView& a, int64_t a_row, int64_t a_head, const ConstView& b, int64_t b_row, int64_t b_head,
           int64_t columns) {
  double sum = 0;
  for (int64_t c = 0; c < columns; ++c) sum += load(a, a_row, a_head, c) * load(b, b_row, b_head, c);
  return sum;
}

// The weights of two partials in their merge; lse is -inf and both weights are meaningless when
// neither has a key.
struct MergeWeights {
  double lse, ours, theirs;
};
MergeWeights merge_weights(double our_lse, double their_lse) {
  const double larger = std::max(our_lse, their_lse);
  if (larger == kMinusInfinity) return {kMinusInfinity, 1, 0};
  const double lse = larger + std::log(std::exp(our_lse - larger) + std::exp(their_lse - larger));
  return {lse, std::exp(our_lse - lse), std::exp(their_lse - lse)};
}

class ReferenceKernels final : public KernelSet {
 public:
  std::string_view name() const override { return "reference"; }
  bool supports(DType) const override { return true; }
  const KernelSet* canonical() const override { return canonical_.get(); }

  void attend(const AttendArgs& args) const override {
    check(args);
    for (const Block& block : args.blocks) {
      for (int64_t q = block.band.q.begin; q < block.band.q.end; ++q) {
        if (args.stop) args.stop->poll();
        for (int64_t head = 0; head < args.heads; ++head) attend_row(args, block, q, head);
      }
    }
  }

  void attend_backward(const AttendBackwardArgs& args) const override {
    check(args);
    for (const Block& block : args.blocks) {
      for (int64_t head = 0; head < args.heads; ++head) {
        for (int64_t q = block.band.q.begin; args.dq.data && q < block.band.q.end; ++q) {
          if (args.stop) args.stop->poll();
          query_gradient(args, block, q, head);
        }
        for (int64_t k = block.band.k.begin; (args.dk.data || args.dv.data) && k < block.band.k.end; ++k) {
          if (args.stop) args.stop->poll();
          key_value_gradient(args, block, k, head);
        }
      }
    }
  }

  void prepare_backward(View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) const override {
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        const double sum = dot(out, row, head, dout, row, head, shape.columns);
        store(delta, row, head, 0, dlse.data ? sum - load(dlse, row, head, 0) : sum);
      }
    }
  }

  void merge(View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) const override {
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        const double ours = load(lse, row, head, 0), theirs = load(from_lse, row, head, 0);
        if (theirs == kMinusInfinity) continue;
        const MergeWeights w = merge_weights(ours, theirs);
        for (int64_t c = 0; c < shape.columns; ++c) {
          double value = w.theirs * load(from_o, row, head, c);
          if (ours != kMinusInfinity) value += w.ours * load(o, row, head, c);
          store(o, row, head, c, value);
        }
        store(lse, row, head, 0, w.lse);
      }
    }
  }

  void add(View to, ConstView from, Shape shape) const override {
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        for (int64_t c = 0; c < shape.columns; ++c) {
          store(to, row, head, c, load(to, row, head, c) + load(from, row, head, c));
        }
      }
    }
  }

  void convert(View to, ConstView from, Shape shape) const override {
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        for (int64_t c = 0; c < shape.columns; ++c) store(to, row, head, c, load(from, row, head, c));
      }
    }
  }

 private:
  static void attend_row(const AttendArgs& args, const Block& block, int64_t q, int64_t head) {
    const int32_t kv = args.kv_head[head];
    std::vector<int64_t> keys;
    std::vector<double> logits;
    double largest = kMinusInfinity;
    for (int64_t k = block.band.k.begin; k < block.band.k.end; ++k) {
      if (!block.band.contains(q, k)) continue;
      keys.push_back(k);
      logits.push_back(args.scale * dot(args.q, q, head, args.k, k, kv, args.dim));
      largest = std::max(largest, logits.back());
    }
    if (largest == kMinusInfinity) return;
    double sum = 0;
    std::vector<double> o(args.dim_v, 0.0);
    for (size_t i = 0; i < keys.size(); ++i) {
      const double p = std::exp(logits[i] - largest);
      sum += p;
      for (int64_t c = 0; c < args.dim_v; ++c) o[c] += p * load(args.v, keys[i], kv, c);
    }
    const int64_t row = block.out_row + (q - block.band.q.begin);
    const double before = load(args.lse, row, head, 0);
    const MergeWeights w = merge_weights(before, largest + std::log(sum));
    for (int64_t c = 0; c < args.dim_v; ++c) {
      double value = w.theirs * o[c] / sum;
      if (before != kMinusInfinity) value += w.ours * load(args.o, row, head, c);
      store(args.o, row, head, c, value);
    }
    store(args.lse, row, head, 0, w.lse);
  }

  // p and ds of one (query, key) pair; both 0 where the band or an empty row excludes it.
  struct PairGradient {
    double p = 0, ds = 0;
  };
  static PairGradient pair_gradient(const AttendBackwardArgs& args, const Block& block, int64_t q, int64_t k,
                                    int64_t head) {
    const int64_t bundle_row = block.bundle_row + (q - block.band.q.begin);
    const double lse = load(args.lse, bundle_row, head, 0);
    if (!block.band.contains(q, k) || lse == kMinusInfinity) return {};
    const int32_t kv = args.kv_head[head];
    const double p = std::exp(args.scale * dot(args.q, q, head, args.k, k, kv, args.dim) - lse);
    const double dp = dot(args.dout, bundle_row, head, args.v, k, kv, args.dim_v);
    return {p, p * (dp - load(args.delta, bundle_row, head, 0))};
  }

  static void query_gradient(const AttendBackwardArgs& args, const Block& block, int64_t q, int64_t head) {
    std::vector<double> dq(args.dim, 0.0);
    for (int64_t k = block.band.k.begin; k < block.band.k.end; ++k) {
      const PairGradient pair = pair_gradient(args, block, q, k, head);
      if (pair.p == 0) continue;
      for (int64_t c = 0; c < args.dim; ++c) dq[c] += args.scale * pair.ds * load(args.k, k, args.kv_head[head], c);
    }
    const int64_t row = block.out_row + (q - block.band.q.begin);
    for (int64_t c = 0; c < args.dim; ++c) accumulate(args.dq, row, head, c, dq[c]);
  }

  static void key_value_gradient(const AttendBackwardArgs& args, const Block& block, int64_t k, int64_t head) {
    std::vector<double> dk(args.dim, 0.0), dv(args.dim_v, 0.0);
    for (int64_t q = block.band.q.begin; q < block.band.q.end; ++q) {
      const PairGradient pair = pair_gradient(args, block, q, k, head);
      if (pair.p == 0) continue;
      const int64_t bundle_row = block.bundle_row + (q - block.band.q.begin);
      for (int64_t c = 0; c < args.dim; ++c) dk[c] += args.scale * pair.ds * load(args.q, q, head, c);
      for (int64_t c = 0; c < args.dim_v; ++c) dv[c] += pair.p * load(args.dout, bundle_row, head, c);
    }
    const int64_t row = block.kv_grad_row + (k - block.band.k.begin);
    const int32_t kv = args.kv_head[head];
    for (int64_t c = 0; args.dk.data && c < args.dim; ++c) accumulate(args.dk, row, kv, c, dk[c]);
    for (int64_t c = 0; args.dv.data && c < args.dim_v; ++c) accumulate(args.dv, row, kv, c, dv[c]);
  }

  static void accumulate(const View& view, int64_t row, int64_t head, int64_t column, double value) {
    store(view, row, head, column, load(view, row, head, column) + value);
  }

  const std::unique_ptr<KernelSet> canonical_ = make_canonical(*this, nullptr);
};

}  // namespace

const KernelSet& reference_kernels() {
  static const ReferenceKernels kernels;
  return kernels;
}

}  // namespace weft::kernels
