// Relayout: rows moved from one layout to another, where a layer wants its tokens elsewhere than the layer before had them.
//
//   Relayout change = make_relayout(Layout::zigzag(4096, 4), Layout::contiguous(4096, 4));
//   verify_relayout(change);          // throws for one that is not that
//   change.ranks[2].send;             // to whom, which positions
//
// One exchange: each rank sends every other one the rows that this has in the new layout, and keeps what stays. Backward is the
// same change the other way round. From contiguous shards of S tokens to zigzag ones
//
//   4 ranks, chunks of S / 8     0 1 | 2 3 | 4 5 | 6 7     ->     0 7 | 1 6 | 2 5 | 3 4
//
// all but one chunk or two change their rank: S - S / 2P, or S - S / P where 3 does not divide P (4 of 4 ranks: chunks 0 and 5).
#pragma once

#include <cstdint>
#include <vector>

#include "weft/layout/layout.h"
#include "weft/layout/row_messages.h"

namespace weft {

struct Relayout {
  Layout from, to;
  std::vector<RowMessages> ranks;  // tokens are positions

  int64_t rows() const { return rows_sent(ranks); }
  int64_t messages() const { return messages_sent(ranks); }
};

// Throws Error(usage) for layouts of different tokens or ranks.
Relayout make_relayout(Layout from, Layout to);

// Throws Error(wrong) unless every rank has, of what it had and what it receives, the rows of the new layout, each once, and
// every message is received as it is sent, by who has its rows. Found from positions alone, not as make_relayout does.
void verify_relayout(const Relayout& change);

}  // namespace weft
