// One ring of key-value blocks, forward and backward: the loop that ring, zigzag, striped and usp share.
//
// Key-value blocks travel by one member per step in direction d = +1 or -1 and shrink on the way to what later
// members still need, so the causal stop, the half drop of zigzag, the halo of a sliding window and the shortcuts of
// packed documents all fall out of one query on the mask. Backward starts from the block held last and runs against
// d: the gradient of a block travels with it, gains rows where forward left some behind, and is complete on its owner
// at the last step, so nothing is exposed at the end (methods page "ring"; Liu et al. 2023, arXiv 2310.01889).
#pragma once

#include <memory>
#include <vector>

#include "weft/layout/consecutive_unions.h"
#include "weft/methods/method.h"
#include "weft/methods/passes/needed_sets.h"
#include "weft/schedule/builder.h"

namespace weft::methods {

// The members of a ring and the slots they work on, the same on every member. Made once per schedule.
struct Ring {
  std::vector<int> ranks;     // ranks[p] is the rank at place p
  ConsecutiveUnions queries;  // query slots of each place
  ConsecutiveUnions keys;     // key slots of each place
  int direction = 1;          // of key-value blocks: from place p to p + direction
  NeededSets ahead;           // by prepare()

  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  // Keys of place j that the last `count` places of their way round need.
  IntervalSet find_ahead(const AllowedPairs& pairs, int j, int count) const;
  // Finds all of them in advance, once all else is there: worth it where many ranks ask.
  void prepare(const AllowedPairs& pairs);

  int size() const { return static_cast<int>(ranks.size()); }
  // Any integer to a place.
  int place(int p) const {
    while (p < 0) p += size();  // no further than a lap or two: cheaper than a division
    while (p >= size()) p -= size();
    return p;
  }
  int rank(int p) const { return ranks[static_cast<size_t>(place(p))]; }
};

// A rank's view of its ring. Values are the rank's own; `kv` holds the keys of its place for `kv_heads`.
class RingPass {
 public:
  RingPass(Builder& builder, std::shared_ptr<const Ring> members, int place, Set kv_heads)
      : b_(builder), ring_(std::move(members)), me_(place), d_(ring_->direction), kv_heads_(kv_heads) {}

  int steps() const { return ring_->size(); }

  // Forward step t: passes the block on and attends to it. `current` is kv at t = 0 and what was received after;
  // it ends as the block held last, which backward starts from.
  void forward(int t, const Slices& q, const Slices& acc, Value& current);

  // Backward step t: `current` starts as the block held last, `sums` as {} or as sums of its rows, and ends as the
  // complete dk, dv of kv.
  void backward(int t, const Slices& q, const Value& kv, const Slices& bundle, const Slices& dq, Value& current,
                Value& sums);

 private:
  int peer(int p) const { return ring_->rank(p); }
  // Keys of place j that place p or a later one on the way p, p + d, ..., j - d needs.
  Set ahead(int j, int p);
  Builder& b_;
  std::shared_ptr<const Ring> ring_;
  int me_;
  int d_;
  Set kv_heads_;
  bool unanswered_ = false;  // backward: the last hop of sums had nothing to receive
  Set mine_ahead_;  // backward: what of my own block the last rank I sent to, or one after it, needed in forward
};

// The option that says which way key-value blocks travel, and what it says: Ring::direction.
MethodOption direction_option(std::string_view fallback);
int direction_of(const MethodOptions& options);

}  // namespace weft::methods
