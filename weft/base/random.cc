// NOTES: compiled with -ffp-contract=off (weft/CMakeLists.txt), so that processors with fused
// multiply-add round as the others do.
#include "weft/base/random.h"

#include <cmath>

#include "weft/base/digest.h"

namespace weft {
namespace {

// Natural logarithm of a normal positive double, within a few units in the last place: x = 2^e m
// with sqrt(1/2) <= m < sqrt(2), and log m = 2 atanh(t), t = (m - 1) / (m + 1), |t| < 0.1716.
double portable_log(double x) {
  uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m >= 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1) / (m + 1);
  const double t2 = t * t;
  double series = 0;  // sum of t^(2i) / (2i + 1); the first term left out is below 2^-55
  for (int i = 10; i >= 0; --i) series = series * t2 + 1.0 / (2 * i + 1);
  return exponent * 0.6931471805599453 + 2 * t * series;
}

}  // namespace

Random::Random(uint64_t seed, uint64_t stream) {
  // Both mixes are bijections, so different streams of a seed start from different words.
  uint64_t x = mix64(seed + 0x9e3779b97f4a7c15u) ^ mix64(stream ^ 0x5851f42d4c957f2du);
  for (uint64_t& word : state_) {
    x += 0x9e3779b97f4a7c15u;
    word = mix64(x);
  }
}

int64_t Random::uniform(int64_t end) {
  WEFT_CHECK(end > 0);
  // Lemire 2019: the high word of a product, with the few low words redrawn that would favour some
  // results.
  __extension__ using Wide = unsigned __int128;
  const auto n = static_cast<uint64_t>(end);
  Wide product = static_cast<Wide>(bits()) * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = (0 - n) % n;
    while (static_cast<uint64_t>(product) < threshold) product = static_cast<Wide>(bits()) * n;
  }
  return static_cast<int64_t>(static_cast<uint64_t>(product >> 64));
}

double Random::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  double u = 0;
  double v = 0;
  double s = 0;
  do {
    u = 2 * uniform() - 1;
    v = 2 * uniform() - 1;
    s = u * u + v * v;
  } while (s >= 1 || s == 0);
  const double scale = std::sqrt(-2 * portable_log(s) / s);
  spare_normal_ = v * scale;
  has_spare_ = true;
  return u * scale;
}

}  // namespace weft
