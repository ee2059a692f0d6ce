#include "weft/methods/passes/double_ring_pass.h"

namespace weft::methods {
namespace {

constexpr int kInsideLane = 0, kOutsideLane = 1, kSumsLane = 2;

int wrapped(int i, int size) { return ((i % size) + size) % size; }

// Members i, i + d, ... up to, not with, `end` of a cycle: none when they are equal.
Cover from_to(const ConsecutiveUnions& all, int i, int end, int d) {
  const int count = wrapped(d * (end - i), all.size());
  return all.cover(d > 0 ? wrapped(i, all.size()) : wrapped(end + 1, all.size()), count);
}

}  // namespace

std::shared_ptr<const DoubleRing> make_double_ring(std::vector<int> ranks, const std::vector<IntervalSet>& queries,
                                                   const std::vector<IntervalSet>& keys, Travels travels, int nodes,
                                                   int direction) {
  auto ring = std::make_shared<DoubleRing>();
  ring->travels = travels;
  ring->nodes = nodes;
  ring->local = static_cast<int>(ranks.size()) / nodes;
  ring->direction = direction;
  ring->ranks = std::move(ranks);
  ring->travelling = travels == Travels::keys ? keys : queries;
  const std::vector<IntervalSet>& staying = travels == Travels::keys ? queries : keys;
  std::vector<IntervalSet> whole_nodes(static_cast<size_t>(nodes));
  for (int node = 0; node < nodes; ++node) {
    const auto first = staying.begin() + node * ring->local;
    std::vector<IntervalSet> members(first, first + ring->local);
    for (const IntervalSet& member : members) whole_nodes[static_cast<size_t>(node)].unite(member);
    ring->in_node.emplace_back(std::move(members));
  }
  ring->by_node = ConsecutiveUnions(std::move(whole_nodes));
  return ring;
}

std::shared_ptr<const DoubleRing> make_double_ring(const Problem& problem, Travels travels, int nodes, int direction) {
  std::vector<int> ranks;
  std::vector<IntervalSet> queries, keys;
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    ranks.push_back(rank);
    queries.push_back(problem.query_layout.shard(rank));
    keys.push_back(problem.key_layout.shard(rank));
  }
  return make_double_ring(std::move(ranks), queries, keys, travels, nodes, direction);
}

DoubleRingPass::DoubleRingPass(Builder& builder, std::shared_ptr<const DoubleRing> ring, int member, Travelling moving,
                               Set heads)
    : b_(builder),
      ring_(std::move(ring)),
      moving_(std::move(moving)),
      me_(member),
      node_(member / ring_->local),
      place_(member % ring_->local),
      d_(ring_->direction),
      heads_(heads) {
  next_.slices = moving_.own;
}

int DoubleRingPass::member_at(int node, int place) const {
  return wrapped(node, ring_->nodes) * ring_->local + wrapped(place, ring_->local);
}

Set DoubleRingPass::needed(int owner, const Cover& staying) {
  const IntervalSet& rows = ring_->travelling[static_cast<size_t>(owner)];
  return ring_->travels == Travels::keys ? b_.keys_needed(staying, rows) : b_.queries_needed(rows, staying);
}

Set DoubleRingPass::ahead_inside(int owner, int node, int place) {
  const ConsecutiveUnions& members = ring_->in_node[static_cast<size_t>(wrapped(node, ring_->nodes))];
  return needed(owner, from_to(members, place, owner % ring_->local, d_));
}

Set DoubleRingPass::ahead_outside(int owner, int node) {
  return needed(owner, from_to(ring_->by_node, node, owner / ring_->local, d_));
}

Set DoubleRingPass::rows_of_sums(int owner, int member, int t) {
  const int node = member / ring_->local;
  // A cycle away from home begins with a member that works on the block itself.
  if (t % ring_->local == 0) return needed(owner, Cover(&ring_->by_node[node]));
  return ahead_inside(owner, node, member % ring_->local);
}

Set DoubleRingPass::rows_going_on(int owner, int member) {
  return ahead_inside(owner, member / ring_->local, member % ring_->local + d_);
}

void DoubleRingPass::pass_blocks(int t) {
  const int local = ring_->local, j = owner(t);
  current_ = std::move(next_);
  next_ = {};
  if (t % local == 0 && t + local < steps()) {
    const int peer = rank_at(node_ + d_, place_);
    Exchange x = b_.exchange(kOutsideLane);
    send_rows(x, peer, current_.slices, ahead_outside(j, node_ + d_));
    outer_ = moving_.receive(b_, x, rank_at(node_ - d_, place_), ahead_outside(owner(t + local), node_), heads_);
    x.issue();
  }
  if ((t + 1) % local != 0) {
    Exchange x = b_.exchange(kInsideLane);
    send_rows(x, peer_inside(), current_.slices, rows_going_on(j, me_));
    next_ = moving_.receive(b_, x, rank_at(node_, place_ - d_), ahead_inside(owner(t + 1), node_, place_), heads_);
    x.issue();
  } else if (t + 1 < steps()) {
    next_ = std::move(outer_);
    outer_ = {};
  }
}

void DoubleRingPass::pass_sums(int t) {
  Exchange x = b_.exchange(kSumsLane);
  Value arriving;
  if (t > 1) {
    const int before = owner(t - 1), holder = this->holder(t - 1);
    const Set going_on = rows_going_on(before, me_);
    if (!sums_.empty()) {
      x.send(peer_inside(), sums_[going_on]);
      x.send(ring_->rank(before), sums_[sums_.tokens() - going_on]);
    }
    got_ = b_.sums(moving_.sums, rows_of_sums(me_, holder, t - 1) - rows_going_on(me_, holder), heads_);
    if (t < steps() && t % ring_->local > (t < ring_->local ? 1 : 0)) {
      arriving = b_.sums(moving_.sums, ahead_inside(owner(t), node_, place_), heads_);
      x.receive(rank_at(node_, place_ - d_), arriving);
    }
    x.receive(ring_->rank(holder), got_);
  }
  x.issue();
  sums_ = std::move(arriving);
}

void DoubleRingPass::trade(int t) {
  block_.clear();
  if (t < steps()) pass_blocks(t);
  if (!moving_.sums.empty()) pass_sums(t);
  if (t >= steps()) return;
  const int j = owner(t);
  if (t == 0) {
    block_ = moving_.own;
    target_ = moving_.home;
    return;
  }
  if (moving_.sums.empty()) {
    block_ = current_.slices;
    return;
  }
  // Sums that are still arriving are not computed into; where none arrive, the new ones start here.
  const bool starts = t % ring_->local == (t < ring_->local ? 1 : 0);
  const Set mine = needed(j, Cover(&ring_->in_node[static_cast<size_t>(node_)][place_]));
  if (starts) sums_ = b_.sums(moving_.sums, rows_of_sums(j, me_, t), heads_);
  target_ = starts ? sums_ : b_.sums(moving_.sums, mine, heads_);
  if (mine.empty()) return;
  for (Slice slice : current_.slices) {
    slice.tokens = starts ? sums_.tokens().id() : mine.id();
    block_.push_back(slice);
  }
}

void DoubleRingPass::settle() {
  if (moving_.sums.empty()) return;
  if (!target_.empty() && !sums_.empty() && Slice(target_) != Slice(sums_)) b_.add(sums_[target_.tokens()], target_);
  target_.reset();
  b_.add(got_.empty() ? Slice() : moving_.home[got_.tokens()], got_);
  got_.reset();
}

}  // namespace weft::methods
