// Shards cut in pieces that travel apart.
#pragma once

#include <vector>

#include "weft/base/interval_set.h"

namespace weft::methods {

// Cuts every interval of a shard in `count` parts; piece i has part i of each. So the pieces are as much alike as the
// intervals allow: under a causal mask on zigzag shards all cost the same. Sizes differ by one token at most; with fewer
// tokens than pieces some are empty.
std::vector<IntervalSet> cut_in_pieces(const IntervalSet& shard, int count);

}  // namespace weft::methods
