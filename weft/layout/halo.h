// Halo: the rows of other ranks that a short causal convolution reads, and who sends them.
//
//   Halo halo = make_halo({1000, 3096}, Layout::zigzag(4096, 4), 4);   // a token reads itself and the 3 before it
//   verify_halo(halo);                                                 // throws for one that is not that
//   halo.ranks[2].receive;                                             // from whom, which tokens
//
// A token reads the width - 1 tokens before it, as far as its document goes. Contiguous shards, width 4:
//
//   rank 0   ..  s-4  s-3  s-2  s-1 |
//                      \----\----\--|->             forward: these rows, before anything is computed
//   rank 1                          | s  s+1  s+2  s+3  ..
//                      <----<----<--|--             backward: their gradients, added to those of the owner
//
// One exchange a phase, of the same rows both ways: P - 1 messages of width - 1 rows for contiguous shards of one document,
// 2P - 2 for zigzag. Which rows are read is asked of the mask, so nothing is sent where no document crosses, and a halo longer
// than a shard comes from several ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/layout/layout.h"
#include "weft/layout/row_messages.h"

namespace weft {

struct Halo {
  std::vector<int64_t> documents;
  Layout layout;
  int64_t width = 1;
  std::vector<RowMessages> ranks;  // tokens are slots of the layout's axis

  // Of all ranks together, in each phase.
  int64_t rows() const { return rows_sent(ranks); }
  int64_t messages() const { return messages_sent(ranks); }
};

inline constexpr int64_t kWidestConvolution = 4096;

// Throws Error(usage) for a width that is not 1 to kWidestConvolution, or documents that are not the layout's tokens.
Halo make_halo(std::vector<int64_t> documents, Layout layout, int64_t width);

// Throws Error(wrong) unless every rank receives just the rows that its tokens read and it has not, each once and from its
// owner, and every message is received as it is sent. Found from positions alone, not as make_halo does.
void verify_halo(const Halo& halo);

}  // namespace weft
