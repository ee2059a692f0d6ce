// A ring of rings: blocks go round inside a node while the next node's block is on its way between nodes.
//
//   2 nodes x 3 ranks, direction 1 (cell: owner of the block that the rank works on)
//             0   1   2  |  3   4   5
//   cycle 0   0   1   2  |  3   4   5      block of its own column goes on to the next node during the whole cycle
//             2   0   1  |  5   3   4      inner hops
//             1   2   0  |  4   5   3
//   cycle 1   3   4   5  |  0   1   2      arrived from the node before
//             5   3   4  |  2   0   1
//             4   5   3  |  1   2   0
//
// One node is a plain ring. What travels is either the keys (queries stay) or, in backward, the queries with what belongs
// to them (keys stay); either shrinks on the way to what later ranks still need. In backward sums follow a block one step
// behind through each inner cycle; rows that no later rank of the cycle needs go straight home from where they are
// complete. LoongTrain (Gu et al. 2024, arXiv 2406.18485, section 4.3); BurstAttention (Sun et al. 2024, arXiv 2403.09347).
#pragma once

#include <memory>
#include <vector>

#include "weft/layout/consecutive_unions.h"
#include "weft/methods/travelling.h"
#include "weft/schedule/builder.h"

namespace weft::methods {

enum class Travels : uint8_t { keys, queries };

// The members of a double ring, the same on every rank. Made once per schedule.
struct DoubleRing {
  Travels travels = Travels::keys;
  int nodes = 1;
  int local = 1;  // ranks of a node; rank = node * local + place in the node
  int direction = 1;
  std::vector<ConsecutiveUnions> in_node;  // by node: the staying side of its ranks
  ConsecutiveUnions by_node;               // the staying side of whole nodes
};
std::shared_ptr<const DoubleRing> make_double_ring(const Problem& problem, Travels travels, int nodes, int direction);

// A rank's view of one phase. In every step: trade, compute on block() into target(), settle.
class DoubleRingPass {
 public:
  DoubleRingPass(Builder& builder, std::shared_ptr<const DoubleRing> ring, Travelling moving);

  int steps() const { return ring_->nodes * ring_->local; }
  // Passes blocks and sums on. One more call than there are steps brings the last sums home.
  void trade(int t);
  // The slices of the current block, in the order of what travels; none when there is nothing to do.
  const std::vector<Slice>& block() const { return block_; }
  // Backward: where the sums of the current block's rows go.
  const Value& target() const { return target_; }
  void settle();

 private:
  int rank_at(int node, int place) const;
  int peer_inside() const { return rank_at(node_, place_ + d_); }
  // Owner of the block that a rank holds in step t, and the rank that holds a block of an owner.
  int owner(int t) const { return rank_at(node_ - d_ * (t / ring_->local), place_ - d_ * (t % ring_->local)); }
  int holder(int t) const { return rank_at(node_ + d_ * (t / ring_->local), place_ + d_ * (t % ring_->local)); }
  Set needed(int owner, const Cover& staying);
  // Rows of an owner that the rank at (node, place) or a later one of its cycle needs; that the node or a later one needs.
  Set ahead_inside(int owner, int node, int place);
  Set ahead_outside(int owner, int node);
  // Rows of the sums of `owner`'s block on `rank` in step t, and those of them that go on inside the node.
  Set rows_of_sums(int owner, int rank, int t);
  Set rows_going_on(int owner, int rank);
  void pass_blocks(int t);
  void pass_sums(int t);

  Builder& b_;
  std::shared_ptr<const DoubleRing> ring_;
  Travelling moving_;
  int node_, place_, d_;
  Set heads_;
  Held current_, next_, outer_;  // outer_: what arrives from the node before during this cycle
  std::vector<Slice> block_;
  Value sums_, target_, got_;
};

}  // namespace weft::methods
