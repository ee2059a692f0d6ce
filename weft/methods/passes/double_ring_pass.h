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
#include "weft/methods/passes/travelling.h"
#include "weft/schedule/builder.h"

namespace weft::methods {

enum class Travels : uint8_t { keys, queries };

// The members of a double ring, the same on every rank. Made once per schedule. Members count node after node: member =
// node * local + place in the node.
struct DoubleRing {
  Travels travels = Travels::keys;
  int nodes = 1;
  int local = 1;  // members of a node
  int direction = 1;
  std::vector<int> ranks;                  // of each member
  std::vector<IntervalSet> travelling;     // of each member: what goes round
  std::vector<ConsecutiveUnions> in_node;  // by node: the staying side of its members
  ConsecutiveUnions by_node;               // the staying side of whole nodes

  int rank(int member) const { return ranks[static_cast<size_t>(member)]; }
};
// `queries` and `keys` are those of each member; `nodes` divides their number.
std::shared_ptr<const DoubleRing> make_double_ring(std::vector<int> ranks, const std::vector<IntervalSet>& queries,
                                                   const std::vector<IntervalSet>& keys, Travels travels, int nodes,
                                                   int direction);
// All ranks in their order.
std::shared_ptr<const DoubleRing> make_double_ring(const Problem& problem, Travels travels, int nodes, int direction);

// A rank's view of one phase. In every step: trade, compute on block() into target(), settle.
class DoubleRingPass {
 public:
  // `heads`: those of what travels.
  DoubleRingPass(Builder& builder, std::shared_ptr<const DoubleRing> ring, int member, Travelling moving, Set heads);

  int steps() const { return ring_->nodes * ring_->local; }
  // Passes blocks and sums on. One more call than there are steps brings the last sums home.
  void trade(int t);
  // The slices of the current block, in the order of what travels; none when there is nothing to do.
  const std::vector<Slice>& block() const { return block_; }
  // Backward: where the sums of the current block's rows go.
  const Value& target() const { return target_; }
  void settle();

 private:
  int member_at(int node, int place) const;
  int rank_at(int node, int place) const { return ring_->rank(member_at(node, place)); }
  int peer_inside() const { return rank_at(node_, place_ + d_); }
  // Owner of the block that this member holds in step t, and the member that then holds its block.
  int owner(int t) const { return member_at(node_ - d_ * (t / ring_->local), place_ - d_ * (t % ring_->local)); }
  int holder(int t) const { return member_at(node_ + d_ * (t / ring_->local), place_ + d_ * (t % ring_->local)); }
  Set needed(int owner, const Cover& staying);
  // Rows of an owner that the member at (node, place) or a later one of its cycle needs; that the node or a later one
  // needs.
  Set ahead_inside(int owner, int node, int place);
  Set ahead_outside(int owner, int node);
  // Rows of the sums of `owner`'s block at `member` in step t, and those of them that go on inside the node.
  Set rows_of_sums(int owner, int member, int t);
  Set rows_going_on(int owner, int member);
  void pass_blocks(int t);
  void pass_sums(int t);

  Builder& b_;
  std::shared_ptr<const DoubleRing> ring_;
  Travelling moving_;
  int me_, node_, place_, d_;
  Set heads_;
  Held current_, next_, outer_;  // outer_: what arrives from the node before during this cycle
  std::vector<Slice> block_;
  Value sums_, target_, got_;
};

}  // namespace weft::methods
