// Exact sums: adding numbers so that neither the order nor the grouping can change a bit of the result.
//
//   ExactSum<2> sum;
//   sum.add(0.1);
//   sum.merge(other);            // the same bits whichever contributions reached which sum first
//   sum.value();                 // rounded once
//
// The exponents of double are cut in bins of 32 binades at fixed places. A number is split, exactly, into whole digits:
// one of up to 32 bits for the bin of its leading bit and signed 32-bit remainders for the bins below. A sum keeps, as
// 64-bit integers that never carry into each other, the digit sums of the kBins highest bins, counted from the largest
// number seen. What a lower bin would hold is left out, whenever it comes: so the state is a function of the set of numbers.
// (The binning is that of reproducible summation: Demmel, Nguyen 2013; Ahrens, Demmel, Nguyen 2020.)
//
// Error: every number is taken to the nearest multiple of the lowest bin's unit, which is at most 2^-32 (two bins) or 2^-64
// (three) of the largest magnitude added; nothing else is rounded before value(). So the error of n numbers is at most
// n * 2^-33 (n * 2^-65) of the largest of them; a sum in fp32 may lose n * 2^-24 of its largest partial sum.
//
// Exact up to kMostTerms numbers. Infinities and NaN are remembered as such: infinities of both signs, or a NaN, give NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "weft/kernels/canonical/exact_bins.h"

namespace weft::kernels {

template <int kBins>
class ExactSum {
 public:
  // Adds x * 2^(32 * bins), bins <= 0. What lies below bin 1 is left out.
  void add(double x, int64_t bins = 0) { merge(of(x, bins)); }
  static ExactSum of(double x, int64_t bins = 0);
  void merge(ExactSum other);
  // Multiplies by 2^(32 * bins), bins <= 0: as if every number had been added with that many bins less.
  void shift(int64_t bins);

  bool empty() const { return top_ == 0; }  // no number but zeros
  bool special() const { return (top_ & kSpecial) != 0; }
  // The sum as x * 2^exponent, x rounded once to double.
  struct Scaled {
    double x = 0;
    int64_t exponent = 0;
  };
  Scaled scaled() const;
  double value() const {
    const Scaled s = scaled();
    return std::ldexp(s.x, static_cast<int>(s.exponent));
  }

  // In memory the words of a row of n sums lie bin by bin: word b of sum i at row[b * n + i].
  static ExactSum load(const int64_t* row, int64_t n, int64_t i) {
    ExactSum sum;
    sum.top_ = row[i];
    for (int b = 1; b < kBins; ++b) sum.lower_[b - 1] = row[b * n + i];
    return sum;
  }
  void store(int64_t* row, int64_t n, int64_t i) const {
    row[i] = top_;
    for (int b = 1; b < kBins; ++b) row[b * n + i] = lower_[b - 1];
  }
  friend bool operator==(const ExactSum&, const ExactSum&) = default;

 private:
  int64_t index() const { return top_ & kIndexMask; }
  // Forgets what bins below 1 would hold, once the index is set.
  void drop_below_first_bin() {
    for (int b = 1; b < kBins; ++b) {
      if (index() - b < 1) lower_[b - 1] = 0;
    }
  }

  int64_t top_ = 0;  // digit sum of the top bin * 256 + index of that bin; 0: empty
  int64_t lower_[kBins - 1] = {};
};

template <int kBins>
ExactSum<kBins> ExactSum<kBins>::of(double x, int64_t bins) {
  ExactSum sum;
  if (x == 0) return sum;
  if (!std::isfinite(x)) {
    sum.top_ = kSpecial | (std::isnan(x) ? kHasNaN : x > 0 ? kHasPlusInfinity : kHasMinusInfinity);
    return sum;
  }
  const int64_t bin = (std::ilogb(x) + kBinBias) >> 5;
  if (bin + bins < 1) return sum;
  double rest = std::ldexp(x, static_cast<int>(kBinBias - 32 * bin));  // 1 <= |rest| < 2^32
  double digit = std::nearbyint(rest);
  sum.top_ = static_cast<int64_t>(digit) * 256 + (bin + bins);
  for (int64_t& lower : sum.lower_) {
    rest = (rest - digit) * 0x1p32;  // exact
    digit = std::nearbyint(rest);
    lower = static_cast<int64_t>(digit);
  }
  sum.drop_below_first_bin();
  return sum;
}

template <int kBins>
void ExactSum<kBins>::merge(ExactSum other) {
  if (special() || other.special()) {
    const int64_t flags = (special() ? top_ : 0) | (other.special() ? other.top_ : 0);
    *this = {};
    top_ = flags & kIndexMask;
    return;
  }
  if (index() < other.index()) std::swap(*this, other);
  const int64_t down = index() - other.index();
  const int64_t digit = other.top_ >> 8;
  if (down == 0) {
    top_ += digit * 256;
  } else if (down < kBins) {
    lower_[down - 1] += digit;
  }
  for (int64_t b = 1; b + down < kBins; ++b) lower_[b + down - 1] += other.lower_[b - 1];
}

template <int kBins>
void ExactSum<kBins>::shift(int64_t bins) {
  if (bins == 0 || empty() || special()) return;
  if (index() + bins < 1) {
    *this = {};
    return;
  }
  top_ += bins;
  drop_below_first_bin();
}

template <int kBins>
typename ExactSum<kBins>::Scaled ExactSum<kBins>::scaled() const {
  if (special()) {
    const int64_t flags = index() & ~kSpecial;
    constexpr double kInf = std::numeric_limits<double>::infinity();
    if (flags == kHasPlusInfinity) return {kInf, 0};
    if (flags == kHasMinusInfinity) return {-kInf, 0};
    return {std::numeric_limits<double>::quiet_NaN(), 0};
  }
  __extension__ __int128 all = top_ >> 8;  // below 2^56 in magnitude; each bin adds 32 bits
  for (const int64_t lower : lower_) all = all * (__extension__(__int128){1} << 32) + lower;
  return {static_cast<double>(all), 32 * (index() - (kBins - 1)) - kBinBias};
}

// Row of exact sums: sums[c] += values[c] * factor * 2^(32 * bins)
template <int kBins>
void add_row(int64_t* sums, const std::vector<double>& values, double factor, int64_t bins) {
  const auto n = static_cast<int64_t>(values.size());
  for (int64_t c = 0; c < n; ++c) {
    auto sum = ExactSum<kBins>::load(sums, n, c);
    sum.add(values[static_cast<size_t>(c)] * factor, bins);
    sum.store(sums, n, c);
  }
}

}  // namespace weft::kernels
