// Which rank gets which chunk of tokens: placement by work alone, or by work and traffic.
//
//   const Mask mask = Mask::documents(lengths, rule);
//   Layout even = place_by_work(mask, chunks, ranks);                     // the most even work
//   Layout near = place_by_traffic(mask, lengths, chunks, ranks, 5);      // few rows sent, work within 5 %
//   cost_of(mask, near).rows                                              // what all ranks need of each other
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weft/base/range.h"
#include "weft/layout/layout.h"
#include "weft/mask/mask.h"

namespace weft {

// What a layout costs where every row of keys goes straight to each other rank that needs it. Masks of packed documents.
struct PlacementCost {
  int64_t rows = 0;     // that all ranks need and do not hold
  int64_t busiest = 0;  // allowed pairs of the rank that has most
};
PlacementCost cost_of(const Mask& mask, const Layout& layout);

// Chunks dealt by work, the heaviest first, to the rank with the least that has room (Graham 1969); among equal ranks to
// one that holds a neighbour. Ranks hold as many chunks as each other, or one fewer. `chunks` are ascending and hold every
// token once.
Layout place_by_work(const Mask& mask, std::span<const Range> chunks, int ranks);

// The rank with most work has at most `imbalance` percent above the mean, or what place_by_work gives it where that is
// more. Among such layouts a search looks for the fewest rows. It compares its own with place_by_work, contiguous, zigzag
// and document-zigzag and takes the one with the least product of rows and most work: so none of these that is within the
// limit sends less and is as even or sends as much and is more even.
//
// The search is bounded by the number of proposals, never by time, and counts in integers: every rank comes to the same
// layout. It takes a second or two at most, whatever the size; for more than 2^18 chunks it is left out.
Layout place_by_traffic(const Mask& mask, const std::vector<int64_t>& lengths, std::span<const Range> chunks, int ranks,
                        int64_t imbalance);

}  // namespace weft
