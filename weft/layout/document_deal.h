// How document-zigzag deals packed documents to ranks.
//
// A long document is cut in 2 x ranks chunks, two for every rank. A short one goes to few ranks, most often to one,
// where it needs no communication at all and is one interval: a thousand documents cut for 256 ranks would be half a
// million intervals.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weft/base/range.h"

namespace weft {

// The ranges of positions of each rank, disjoint, in any order. Lengths are positive and sum to less than 2^31.
std::vector<std::vector<Range>> deal_documents(std::span<const int64_t> lengths, int ranks);

}  // namespace weft
