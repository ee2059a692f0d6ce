// Canonical attend and attend_backward in plain fp64 loops, for any element type.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/kernels/canonical/canonical.h"
#include "weft/kernels/canonical/exact_sum.h"
#include "weft/kernels/checks.h"
#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

// ln 2 in two parts; k * kLn2High is exact for whole k below 2^21.
constexpr double kLn2High = 0x1.62e42fefp-1, kLn2Low = 0x1.473de6af278edp-34;
constexpr double kLog2E = 1.44269504088896340736;

double dot(const ConstView& a, int64_t a_row, int64_t a_head, const ConstView& b, int64_t b_row, int64_t b_head,
           int64_t columns) {
  double sum = 0;
  for (int64_t c = 0; c < columns; ++c) sum += load(a, a_row, a_head, c) * load(b, b_row, b_head, c);
  return sum;
}

// e^x, without the rounding of x * log2(e).
TileWeight weight_of_exp(double x) {
  const double whole = std::ceil(x * kLog2E), reference = std::floor(whole / 32) + 0.0;  // + 0.0: never -0
  if (std::abs(x) > 0x1p50)
    return {reference, std::ldexp(1, static_cast<int>(whole - 32 * reference))};  // x is coarser
  const double rest = std::fma(-whole, kLn2Low, std::fma(-whole, kLn2High, x));
  return {reference, std::ldexp(std::exp(rest), static_cast<int>(whole - 32 * reference))};
}

template <int kBins>
class Reference {
 public:
  // ---- forward

  static void attend(const AttendArgs& args) {
    for (const Block& block : args.blocks) {
      for (int64_t q = block.band.q.begin; q < block.band.q.end; ++q) {
        if (args.stop) args.stop->poll();
        for_each_tile(block.band.k, block.k_position, args.tile, [&](Range tile) {
          const Range keys = intersect(tile, {q + block.band.lo, q + block.band.hi + 1});
          if (keys.empty()) return;
          for (int64_t head = 0; head < args.heads; ++head) attend_row(args, block, q, keys, head);
        });
      }
    }
  }

  // ---- backward

  static void attend_backward(const AttendBackwardArgs& args) {
    for (const Block& block : args.blocks) {
      const BandRectangle& band = block.band;
      for (int64_t head = 0; head < args.heads; ++head) {
        for (int64_t q = band.q.begin; args.dq.data && q < band.q.end; ++q) {
          if (args.stop) args.stop->poll();
          for_each_tile(band.k, block.k_position, args.tile, [&](Range tile) {
            query_gradient(args, block, q, intersect(tile, {q + band.lo, q + band.hi + 1}), head);
          });
        }
        for (int64_t k = band.k.begin; (args.dk.data || args.dv.data) && k < band.k.end; ++k) {
          if (args.stop) args.stop->poll();
          for_each_tile(band.q, block.q_position, args.tile, [&](Range tile) {
            key_value_gradient(args, block, k, intersect(tile, {k - band.hi, k - band.lo + 1}), head);
          });
        }
      }
    }
  }

 private:
  static void attend_row(const AttendArgs& args, const Block& block, int64_t q, Range keys, int64_t head) {
    const int32_t kv = args.kv_head[static_cast<size_t>(head)];
    std::vector<double> logits, o(static_cast<size_t>(args.dim_v), 0.0);
    for (int64_t k = keys.begin; k < keys.end; ++k) {
      logits.push_back(args.scale * dot(args.q, q, head, args.k, k, kv, args.dim));
    }
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (const double logit : logits) largest = std::max(largest, logit);
    if (largest == -std::numeric_limits<double>::infinity()) largest = 0;  // all -inf: every p is 0
    for (int64_t k = keys.begin; k < keys.end; ++k) {
      const double p = std::exp(logits[static_cast<size_t>(k - keys.begin)] - largest);
      sum += p;
      for (int64_t c = 0; c < args.dim_v; ++c) o[static_cast<size_t>(c)] += p * load(args.v, k, kv, c);
    }
    if (sum == 0) return;
    const int64_t row = block.out_row + (q - block.band.q.begin);
    int64_t *to = words_at(args.o, row, head), *expsum = words_at(args.lse, row, head);
    const TileWeight weight = weight_of_exp(largest);
    if (!std::isfinite(sum) || !std::isfinite(weight.reference)) {
      return add_nan(to, expsum, args.o.type, args.dim_v);
    }
    const int64_t down = raise_reference(to, expsum, args.o.type, args.dim_v, weight.reference);
    add_row<kBins>(to, o, weight.factor, down);
    add_row<kBins>(expsum + 1, {sum}, weight.factor, down);
  }

  // p and ds of an allowed pair.
  struct PairGradient {
    double p = 0, ds = 0;
  };
  static PairGradient pair_gradient(const AttendBackwardArgs& args, const Block& block, int64_t q, int64_t k,
                                    int64_t head) {
    const int64_t bundle_row = block.bundle_row + (q - block.band.q.begin);
    const double lse = load(args.lse, bundle_row, head, 0);
    if (lse == -std::numeric_limits<double>::infinity()) return {};
    const int32_t kv = args.kv_head[static_cast<size_t>(head)];
    const double p = std::exp(args.scale * dot(args.q, q, head, args.k, k, kv, args.dim) - lse);
    const double dp = dot(args.dout, bundle_row, head, args.v, k, kv, args.dim_v);
    return {p, p * (dp - load(args.delta, bundle_row, head, 0))};
  }

  static void query_gradient(const AttendBackwardArgs& args, const Block& block, int64_t q, Range keys, int64_t head) {
    if (keys.empty()) return;
    const int32_t kv = args.kv_head[static_cast<size_t>(head)];
    std::vector<double> dq(static_cast<size_t>(args.dim), 0.0);
    for (int64_t k = keys.begin; k < keys.end; ++k) {
      const PairGradient pair = pair_gradient(args, block, q, k, head);
      if (pair.p == 0) continue;
      for (int64_t c = 0; c < args.dim; ++c) dq[static_cast<size_t>(c)] += pair.ds * load(args.k, k, kv, c);
    }
    const int64_t row = block.out_row + (q - block.band.q.begin);
    add_row<kBins>(words_at(args.dq, row, head), dq, args.scale, 0);
  }

  static void key_value_gradient(const AttendBackwardArgs& args, const Block& block, int64_t k, Range queries,
                                 int64_t head) {
    if (queries.empty()) return;
    std::vector<double> dk(static_cast<size_t>(args.dim), 0.0), dv(static_cast<size_t>(args.dim_v), 0.0);
    for (int64_t q = queries.begin; q < queries.end; ++q) {
      const PairGradient pair = pair_gradient(args, block, q, k, head);
      if (pair.p == 0) continue;
      const int64_t bundle_row = block.bundle_row + (q - block.band.q.begin);
      for (int64_t c = 0; c < args.dim; ++c) dk[static_cast<size_t>(c)] += pair.ds * load(args.q, q, head, c);
      for (int64_t c = 0; c < args.dim_v; ++c) {
        dv[static_cast<size_t>(c)] += pair.p * load(args.dout, bundle_row, head, c);
      }
    }
    const int64_t row = block.kv_grad_row + (k - block.band.k.begin);
    const int32_t kv = args.kv_head[static_cast<size_t>(head)];
    if (args.dk.data) add_row<kBins>(words_at(args.dk, row, kv), dk, args.scale, 0);
    if (args.dv.data) add_row<kBins>(words_at(args.dv, row, kv), dv, 1, 0);
  }
};

}  // namespace

void canonical_reference_attend(const AttendArgs& args) {
  if (args.o.type == DType::sum2) return Reference<2>::attend(args);
  Reference<3>::attend(args);
}

void canonical_reference_attend_backward(const AttendBackwardArgs& args) {
  const View& any = args.dq.data ? args.dq : args.dk.data ? args.dk : args.dv;
  if (any.type == DType::sum2) return Reference<2>::attend_backward(args);
  Reference<3>::attend_backward(args);
}

}  // namespace weft::kernels
