#include "weft/methods/passes/pieces.h"

#include <algorithm>

namespace weft::methods {

std::vector<IntervalSet> cut_in_pieces(const IntervalSet& shard, int count, int64_t unit) {
  std::vector<IntervalSet> pieces(static_cast<size_t>(count));
  if (count == 1) pieces[0] = shard;
  if (count == 1) return pieces;
  int longer = 0;  // the piece that gets the next unit too many: those left over are dealt round
  for (const Range& interval : shard.ranges()) {
    const int64_t units = (interval.size() + unit - 1) / unit, share = units / count;
    const int over = static_cast<int>(units % count);
    int64_t begin = interval.begin;
    for (int i = 0; i < count; ++i) {
      const int64_t size = (share + ((i - longer + count) % count < over ? 1 : 0)) * unit;
      const int64_t end = std::min(begin + size, interval.end);
      pieces[static_cast<size_t>(i)].append({begin, end});
      begin = end;
    }
    longer = (longer + over) % count;
  }
  return pieces;
}

}  // namespace weft::methods
