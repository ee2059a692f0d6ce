// Shards cut in pieces that travel apart.
#pragma once

#include <vector>

#include "weft/base/interval_set.h"

namespace weft::methods {

// Cuts every interval of a shard in `count` parts; piece i has part i of each. So the pieces are as much alike as the
// intervals allow: under a causal mask on zigzag shards all cost the same. Sizes differ by one token at most; with fewer
// tokens than pieces some are empty. With a unit (Problem::unit_of_cuts) the same holds for units of so many tokens from the
// start of an interval, which are not cut.
std::vector<IntervalSet> cut_in_pieces(const IntervalSet& shard, int count, int64_t unit = 1);

}  // namespace weft::methods
