// What a ring of rings sends and holds (double_ring_pass.h), in closed form.
#pragma once

#include "weft/methods/formulas/parts.h"

namespace weft::methods {

// Bytes of a row of what travels, of its sums in memory, on the way, and packed for it. Keys have no sums in forward.
struct Moving {
  int64_t block, sums, sent, packed;
};

// Members in `nodes` nodes of `local`; blocks go by one member in `direction`, inside and between nodes.
struct DoubleRingShape {
  int64_t nodes = 1, local = 1;
  Needed needed;
  int direction = -1;

  int64_t members() const { return nodes * local; }
};

// One phase of one member. In step `s` of a cycle it works on the block of the node `cycle` after its own and of the place
// `s` after its own, seen in direction -1; the other one is its mirror image.
class DoubleRingMember {
 public:
  DoubleRingMember(DoubleRingShape shape, int64_t member);

  // Rows sent, and messages.
  int64_t blocks_sent() const;
  int64_t sums_sent() const;
  int64_t block_messages() const { return nodes_ * (local_ - 1) + nodes_ - 1; }
  int64_t sums_messages() const;
  // Sums of the member's own rows that come home in a step, from the member that had them in the step before. The last
  // ones come after all compute.
  int64_t coming_home(int64_t step) const;
  int64_t coming_home_last() const { return coming_home(steps()); }
  // Rows of the block of a step, of its sums there, and of what this member adds to sums that arrive.
  int64_t block(int64_t t) const;
  int64_t sums(int64_t t) const;
  int64_t going_on(int64_t s) const;  // of the first cycle, to the next member
  int64_t target(int64_t cycle, int64_t s) const;

  // Bytes held besides what is there all along.
  int64_t held(int64_t cycle, int64_t s, const Moving& row) const;
  int64_t held_at_end(const Moving& row) const;

 private:
  struct Blocks {
    int64_t most;  // while the next ones are being asked for
    int64_t kept;  // once they are on their way
  };

  int64_t steps() const { return nodes_ * local_; }
  int64_t node_rows(int64_t cycle) const { return node_ + cycle < nodes_ ? needed_.by_before : needed_.by_after; }
  int64_t rows_of_other_nodes() const { return (nodes_ - 1 - node_) * needed_.by_before + node_ * needed_.by_after; }
  int64_t first(int64_t cycle) const;
  Blocks begin_of_cycle(int64_t cycle) const;
  Blocks inside_cycle(int64_t cycle, int64_t s) const;

  int64_t nodes_, local_, node_, place_;
  Needed needed_;
};

// The most that any member holds in any step.
int64_t double_ring_most_held(const DoubleRingShape& shape, const Moving& row);

}  // namespace weft::methods
