// The head exchange of Ulysses, with a ring of any length inside: the writer that ulysses, usp and double-ring share.
//
// Ranks form a grid of places x `degree` members. The members of a place trade their tokens' heads by all-to-all, so
// that each holds all tokens of the place for its part of the query heads; members of equal index then pass keys round
// the places (context_pass.h), and a second all-to-all brings every token's heads home.
//
// Heads need not divide: each member takes a contiguous part of the query heads, maybe an empty one, and the kv heads
// that these read. Where two members read one kv head, its owner sends it to both, and what comes back is added where
// the tokens live. With fewer kv heads than members, one dividing the other, these are the bytes of published codes,
// which repeat kv heads in memory until there is one for each member.
#pragma once

#include <memory>
#include <vector>

#include "weft/methods/method.h"
#include "weft/methods/passes/context_pass.h"

namespace weft::methods {

// What is asked for; HeadGrid is what follows from it.
struct HeadGridShape {
  int degree = 1;               // members of a place
  bool adjacent = true;         // the members of a place are consecutive ranks; else ranks of equal index are
  int direction = 1;            // of key-value blocks, from place to place
  int window = 0;               // places of an inner ring; 0: one flat ring
  bool whole_kv_heads = false;  // no kv head goes to two members, however unequal their parts become
  bool together = true;         // one message for all tensors of an exchange, else one each

  int rank(int place, int index, int places) const {
    return adjacent ? place * degree + index : index * places + place;
  }
};

// Who trades and who rings, the same on every rank. Made once per schedule.
struct HeadGrid {
  HeadGridShape shape;
  std::vector<std::vector<int>> members;   // members[place][index] = rank
  std::vector<IntervalSet> queries, keys;  // of each place
  std::vector<ContextRing> rings;          // of each index
  std::vector<Range> heads;                // query heads of each index
  bool kv_heads_disjoint = true;           // no kv head is read by two indices
};
std::shared_ptr<const HeadGrid> make_head_grid(const Problem& problem, const HeadGridShape& shape);

Steps write_head_exchange(std::shared_ptr<const HeadGrid> grid, int rank, Builder& b);

// Cuts the tokens of each place, rank `place` of `places`, into consecutive nearly equal pieces, one for each member.
Layout layout_of_members(const Layout& places, const HeadGridShape& shape);

// Options of all methods that exchange heads: `kv` and `exchange`; and what they say.
MethodOption kv_option();
MethodOption exchange_option();
void read_head_options(const MethodOptions& options, HeadGridShape& shape);

}  // namespace weft::methods
