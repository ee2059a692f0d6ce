#include "weft/mask/band.h"

namespace weft {
namespace {

// Sum over q in [begin, end) of (q + offset), an arithmetic series.
int64_t series(int64_t begin, int64_t end, int64_t offset) {
  if (end <= begin) return 0;
  const int64_t count = end - begin;
  const int64_t twice_mean = begin + end - 1 + 2 * offset;
  return count % 2 == 0 ? count / 2 * twice_mean : twice_mean / 2 * count;
}

}  // namespace

int64_t BandRectangle::area() const {
  const BandRectangle s = shrink(*this);
  if (s.q.empty()) return 0;
  // Row q sees keys max(k.begin, q+lo) .. min(k.end-1, q+hi); after shrinking every row sees at least one.
  // Sum the upper ends and the lower ends apart, each as "constant part + arithmetic part".
  const int64_t upper_flat = std::clamp(s.k.end - 1 - s.hi, s.q.begin, s.q.end);  // from here on k.end-1 limits
  const int64_t lower_flat = std::clamp(s.k.begin - s.lo, s.q.begin, s.q.end);    // up to here k.begin limits
  const int64_t upper = series(s.q.begin, upper_flat, s.hi) + (s.q.end - upper_flat) * (s.k.end - 1);
  const int64_t lower = (lower_flat - s.q.begin) * s.k.begin + series(lower_flat, s.q.end, s.lo);
  return upper - lower + s.q.size();
}

}  // namespace weft
