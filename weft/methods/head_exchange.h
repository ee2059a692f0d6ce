// The head exchange of Ulysses, with a ring of any length inside: the writer that ulysses and usp share.
//
// Ranks form a grid of `ring size` places x `degree` members. The members of a place trade their tokens' heads by
// all-to-all, so that each holds all tokens of the place for its part of the query heads; members of equal index then
// run a ring over the places (ring_pass.h), and a second all-to-all brings every token's heads home. Heads need not
// divide: each member takes a contiguous part, maybe an empty one, and the kv heads that its query heads read, which may
// overlap a neighbour's; then their gradients are added where the tokens live.
#pragma once

#include <memory>
#include <vector>

#include "weft/methods/ring_pass.h"

namespace weft::methods {

// Who trades and who rings, the same on every rank. Made once per schedule.
struct HeadGrid {
  int degree = 1;                                  // members of a place
  std::vector<std::vector<int>> members;           // members[place][index] = rank
  std::vector<std::shared_ptr<const Ring>> rings;  // rings[index]: the ranks of that index, place after place
  std::vector<Range> heads;                        // query heads of each index
  bool kv_heads_disjoint = true;                   // no kv head is read by two indices
};

// `adjacent`: the members of a place are consecutive ranks; else ranks of equal index are.
std::shared_ptr<const HeadGrid> make_head_grid(const Problem& problem, int degree, bool adjacent, int direction);

Steps write_head_exchange(std::shared_ptr<const HeadGrid> grid, int rank, Builder& b);

}  // namespace weft::methods
