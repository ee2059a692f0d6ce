// Where slices of a schedule cut tiles of positions in two that somebody sees whole: what canonical results must not do.
//
// A query's keys inside one tile (for gradients of keys: a key's queries) are computed together or their sum has other bits.
#pragma once

#include <optional>

#include "weft/layout/allowed_pairs.h"

namespace weft {

// A position inside a tile at which `keys` begin or end although one of `queries` sees, in one rectangle of the mask, the key
// there and the key before it. Sets are slots.
std::optional<int64_t> keys_cut_inside_tile(const AllowedPairs& pairs, const IntervalSet& queries,
                                            const IntervalSet& keys, int64_t tile);
// The same with queries and keys exchanged.
std::optional<int64_t> queries_cut_inside_tile(const AllowedPairs& pairs, const IntervalSet& queries,
                                               const IntervalSet& keys, int64_t tile);

}  // namespace weft
