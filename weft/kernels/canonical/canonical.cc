// The canonical kernel set: what it does with accumulators element by element, and who computes.
#include "weft/kernels/canonical/canonical.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "weft/base/error.h"
#include "weft/kernels/canonical/exact_sum.h"
#include "weft/kernels/element.h"

namespace weft::kernels {

void KernelSet::finish(View out, View lse, ConstView partial_o, ConstView partial_lse, Shape shape) const {
  if (out.data) convert(out, partial_o, shape);
  if (lse.data) convert(lse, partial_lse, {shape.rows, shape.heads, 1});
}

void KernelSet::fill(View to, double value, int64_t elements) const {
  if (to.type == DType::fp64) {
    std::fill_n(static_cast<double*>(to.data), elements, value);
  } else {
    std::fill_n(static_cast<float*>(to.data), elements, static_cast<float>(value));
  }
}

void add_one_exactly(double x, int64_t bins, int64_t* sums, int64_t n) {
  auto sum = ExactSum<2>::load(sums, n, 0);
  sum.add(x, bins);
  sum.store(sums, n, 0);
}

namespace {

constexpr double kLn2 = 0.69314718055994530942;
constexpr double kFarDown = 255;  // bins: more than any sum has

// Calls f(std::integral_constant<int, bins>) for the bins of an accumulator type.
template <typename F>
void with_bins(DType type, F&& f) {
  if (type == DType::sum2 || type == DType::expsum2) return f(std::integral_constant<int, 2>());
  WEFT_CHECK(type == DType::sum3 || type == DType::expsum3);
  f(std::integral_constant<int, 3>());
}

template <int kBins>
void shift_row(int64_t* row, int64_t columns, int64_t bins) {
  if (bins == 0) return;
  for (int64_t c = 0; c < columns; ++c) {
    auto sum = ExactSum<kBins>::load(row, columns, c);
    sum.shift(bins);
    sum.store(row, columns, c);
  }
}

template <int kBins>
void merge_row(int64_t* to, const int64_t* from, int64_t columns, int64_t bins) {
  for (int64_t c = 0; c < columns; ++c) {
    auto other = ExactSum<kBins>::load(from, columns, c);
    other.shift(bins);
    auto sum = ExactSum<kBins>::load(to, columns, c);
    sum.merge(other);
    sum.store(to, columns, c);
  }
}

// The first word of an expsum.
double reference_of(const int64_t* expsum) { return std::bit_cast<double>(expsum[0]); }

template <int kBins>
int64_t raise(int64_t* o, int64_t* expsum, int64_t columns, double reference) {
  const auto sum = ExactSum<kBins>::load(expsum + 1, 1, 0);
  if (sum.special()) return 0;  // nothing changes it any more
  const bool empty = sum.empty();
  const double rise = empty ? 0 : reference - reference_of(expsum);
  if (!empty && !(rise > 0)) return -static_cast<int64_t>(std::min(-rise, kFarDown));
  const auto bins = static_cast<int64_t>(std::min(rise, kFarDown));
  shift_row<kBins>(o, columns, -bins);
  shift_row<kBins>(expsum + 1, 1, -bins);
  expsum[0] = std::bit_cast<int64_t>(reference);
  return 0;
}

// (out, lse) of one finished row.
template <int kBins>
void finish_row(const View& out, const View& lse, const int64_t* o, const int64_t* expsum, int64_t row, int64_t head,
                int64_t columns) {
  const auto sum = ExactSum<kBins>::load(expsum + 1, 1, 0);
  const auto below = sum.scaled();
  for (int64_t c = 0; out.data && c < columns; ++c) {
    const auto above = ExactSum<kBins>::load(o, columns, c).scaled();
    const auto exponent = static_cast<int>(above.exponent - below.exponent);
    store(out, row, head, c, sum.empty() ? 0 : std::ldexp(above.x / below.x, exponent));
  }
  if (!lse.data) return;
  constexpr double kEmpty = -std::numeric_limits<double>::infinity();
  store(lse, row, head, 0, sum.empty() ? kEmpty : std::log(sum.value()) + 32 * kLn2 * reference_of(expsum));
}

class CanonicalKernels final : public KernelSet {
 public:
  CanonicalKernels(const KernelSet& base, const TileOps* ops)
      : base_(base), ops_(ops), name_(std::string(base.name()) + ", canonical") {}

  std::string_view name() const override { return name_; }
  bool supports(DType element) const override { return base_.supports(element); }

  void attend(const AttendArgs& args) const override {
    WEFT_CHECK(is_exact_sum(args.o.type) && is_exact_sum(args.lse.type));
    check_tile(args.tile);
    if (ops_) {
      canonical_cpu_attend(*ops_, args);
    } else {
      canonical_reference_attend(args);
    }
  }

  void attend_backward(const AttendBackwardArgs& args) const override {
    for (const View& gradient : {args.dq, args.dk, args.dv}) WEFT_CHECK(!gradient.data || is_exact_sum(gradient.type));
    check_tile(args.tile);
    if (ops_) {
      canonical_cpu_attend_backward(*ops_, args);
    } else {
      canonical_reference_attend_backward(args);
    }
  }

  void prepare_backward(View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) const override {
    base_.prepare_backward(delta, out, dout, dlse, shape);
  }

  void merge(View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) const override {
    WEFT_CHECK(o.type == from_o.type && lse.type == from_lse.type);
    with_bins(o.type, [&](auto bins) {
      for_each_row(shape, [&](int64_t row, int64_t head) {
        const int64_t* from = words_at(from_lse, row, head);
        if (ExactSum<bins>::load(from + 1, 1, 0).empty()) return;
        int64_t *to = words_at(lse, row, head), *to_o = words_at(o, row, head);
        const bool special = ExactSum<bins>::load(from + 1, 1, 0).special();
        const int64_t down = special ? 0 : raise<bins>(to_o, to, shape.columns, reference_of(from));
        merge_row<bins>(to_o, words_at(from_o, row, head), shape.columns, down);
        merge_row<bins>(to + 1, from + 1, 1, down);
        if (ExactSum<bins>::load(to + 1, 1, 0).special()) to[0] = 0;
      });
    });
  }

  void add(View to, ConstView from, Shape shape) const override {
    WEFT_CHECK(to.type == from.type);
    with_bins(to.type, [&](auto bins) {
      for_each_row(shape, [&](int64_t row, int64_t head) {
        merge_row<bins>(words_at(to, row, head), words_at(from, row, head), shape.columns, 0);
      });
    });
  }

  // From a sum: its value, rounded once. Else as the kernels below.
  void convert(View to, ConstView from, Shape shape) const override {
    if (!is_exact_sum(from.type)) return base_.convert(to, from, shape);
    WEFT_CHECK(from.type == DType::sum2 || from.type == DType::sum3);
    with_bins(from.type, [&](auto bins) {
      for_each_row(shape, [&](int64_t row, int64_t head) {
        const int64_t* words = words_at(from, row, head);
        for (int64_t c = 0; c < shape.columns; ++c) {
          store(to, row, head, c, ExactSum<bins>::load(words, shape.columns, c).value());
        }
      });
    });
  }

  void finish(View out, View lse, ConstView partial_o, ConstView partial_lse, Shape shape) const override {
    with_bins(partial_o.type, [&](auto bins) {
      for_each_row(shape, [&](int64_t row, int64_t head) {
        finish_row<bins>(out, lse, words_at(partial_o, row, head), words_at(partial_lse, row, head), row, head,
                         shape.columns);
      });
    });
  }

 private:
  static void check_tile(int64_t tile) { WEFT_CHECK(tile >= 1 && tile <= kMostTileOfKeys); }

  const KernelSet& base_;
  const TileOps* ops_;
  const std::string name_;
};

}  // namespace

TileWeight weight_of(double log2) {
  const double whole = std::ceil(log2), reference = std::floor(whole / 32) + 0.0;  // + 0.0: never -0
  return {reference, std::exp2(log2 - whole + (whole - 32 * reference))};
}

void add_nan(int64_t* o, int64_t* expsum, DType sum_type, int64_t columns) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  with_bins(sum_type, [&](auto bins) {
    const std::vector<double> values(static_cast<size_t>(columns), kNaN);
    add_row<bins>(o, values, 1, 0);
    add_row<bins>(expsum + 1, {kNaN}, 1, 0);
    expsum[0] = 0;
  });
}

int64_t raise_reference(int64_t* o, int64_t* expsum, DType sum_type, int64_t columns, double reference) {
  int64_t down = 0;
  with_bins(sum_type, [&](auto bins) { down = raise<bins>(o, expsum, columns, reference); });
  return down;
}

std::unique_ptr<KernelSet> make_canonical(const KernelSet& base, const TileOps* ops) {
  return std::make_unique<CanonicalKernels>(base, ops);
}

}  // namespace weft::kernels
