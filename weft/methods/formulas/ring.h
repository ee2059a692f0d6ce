// What a ring of key-value blocks sends and holds (ring_pass.h), in closed form.
#pragma once

#include "weft/methods/formulas/parts.h"

namespace weft::methods {

// Rows of key-value blocks and of their sums that each place of a ring sends.
//
// Seen in direction -1 (the other one is its mirror image): block j visits j-1, .., 0, then P-1, .., j+1, and shrinks
// from `both` to what the places after j need when it comes to the wrap. Block P-1 has no places after it.
class RingRows {
 public:
  RingRows(int64_t places, Needed keys, int direction);

  // Sent by place m. The block that m passes on in step t is that of m + t.
  int64_t forward(int64_t m) const;
  // Backward begins with the block held last, that of m - 1, and goes the same way back.
  int64_t backward(int64_t m) const;
  int64_t sums(int64_t m) const;
  int64_t forward_messages(int64_t m) const;
  int64_t backward_messages(int64_t m) const;  // of keys and of sums
  // Blocks go no further than the last place, in the order of places.
  bool stops() const { return places_ > 1 && after_ == 0; }
  bool mirrored() const { return mirrored_; }

 private:
  int64_t both() const { return std::max(before_, after_); }
  int64_t place(int64_t m) const { return mirrored_ ? places_ - 1 - m : m; }
  // Rows of the owner m that forward left behind and that join on the way back.
  int64_t rejoining(int64_t m) const { return m > 0 && m < places_ - 1 ? both() - after_ : 0; }

  int64_t places_;
  int64_t before_, after_;
  bool mirrored_;
};

// Rows of a place's block that the last `count` places of its way round need, in direction -1.
int64_t ring_rows_ahead(Needed needed, int64_t places, int64_t owner, int64_t count);

// The most that a ring of equal blocks holds at once besides a rank's own rows: blocks in forward; blocks and sums in
// backward. `stops`: each block goes no further than the last place, so small rings fill later.
int64_t ring_blocks_held(int64_t places, bool stops);
int64_t ring_backward_held(int64_t places, int64_t kv, int64_t dkv, int64_t packed_dkv);

}  // namespace weft::methods
