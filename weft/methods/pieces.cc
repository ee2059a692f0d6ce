#include "weft/methods/pieces.h"

namespace weft::methods {

std::vector<IntervalSet> cut_in_pieces(const IntervalSet& shard, int count) {
  std::vector<IntervalSet> pieces(static_cast<size_t>(count));
  if (count == 1) pieces[0] = shard;
  if (count == 1) return pieces;
  int longer = 0;  // the piece that gets the next token too many: tokens left over are dealt round
  for (const Range& interval : shard.ranges()) {
    const int64_t share = interval.size() / count;
    const int over = static_cast<int>(interval.size() % count);
    int64_t begin = interval.begin;
    for (int i = 0; i < count; ++i) {
      const int64_t end = begin + share + ((i - longer + count) % count < over ? 1 : 0);
      pieces[static_cast<size_t>(i)].append({begin, end});
      begin = end;
    }
    longer = (longer + over) % count;
  }
  return pieces;
}

}  // namespace weft::methods
