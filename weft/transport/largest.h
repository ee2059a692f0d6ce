// The largest number of all ranks, over an endpoint.
#pragma once

#include "weft/transport/transport.h"

namespace weft {

// Every rank calls it between its other transfers, in the same order; all get the same. NaN counts as the largest. ceil(log2 ranks)
// messages of 8 bytes one after the other: in round d = 1, 2, 4, .. a rank tells the d-th after it, round the ranks.
double largest_of_ranks(Endpoint& endpoint, double mine);

}  // namespace weft
