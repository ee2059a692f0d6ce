#include "weft/methods/formulas/double_ring.h"

#include "weft/methods/formulas/ring.h"

namespace weft::methods {
namespace {

// The first few, which are all different, and the last.
template <typename F>
void for_some(int64_t count, F&& f) {
  constexpr int64_t kFew = 5;
  for (int64_t i = 0; i < std::min(count, kFew); ++i) f(i);
  if (count > kFew) f(count - 1);
}

}  // namespace

DoubleRingMember::DoubleRingMember(DoubleRingShape shape, int64_t member)
    : nodes_(shape.nodes), local_(shape.local), needed_(shape.needed) {
  if (shape.direction > 0) {
    member = shape.members() - 1 - member;
    needed_ = needed_.mirrored();
  }
  node_ = member / local_;
  place_ = member % local_;
}

// In the first cycle inside the node, along a column of nodes, and in the other cycles.
int64_t DoubleRingMember::blocks_sent() const {
  return RingRows(local_, needed_, -1).forward(place_) + RingRows(nodes_, needed_, -1).forward(node_) +
         (local_ - 1) * rows_of_other_nodes();
}

int64_t DoubleRingMember::sums_sent() const {
  return RingRows(local_, needed_, -1).sums(place_) + local_ * rows_of_other_nodes();
}

int64_t DoubleRingMember::sums_messages() const {
  // A block that shrinks on its way leaves rows behind, whose sums go straight home from there.
  const bool shrinks = local_ > 1 && place_ == 0 && needed_.by_before > needed_.by_after;
  return local_ - 1 + (nodes_ - 1) * local_ + (shrinks ? local_ - 2 : 0);
}

int64_t DoubleRingMember::coming_home(int64_t step) const {
  if (step < 2) return 0;
  const int64_t cycle = (step - 1) / local_, s = (step - 1) % local_;
  if (cycle == 0)
    return ring_rows_ahead(needed_, local_, place_, local_ - s) -
           ring_rows_ahead(needed_, local_, place_, local_ - s - 1);
  if (s + 1 < local_) return 0;
  return node_ >= cycle ? needed_.by_before : needed_.by_after;
}

int64_t DoubleRingMember::held(int64_t cycle, int64_t s, const Moving& row) const {
  const int64_t t = cycle * local_ + s, before = t > 0 ? sums(t - 1) : 0, packed = before * row.packed;
  const Blocks blocks = s == 0 ? begin_of_cycle(cycle) : inside_cycle(cycle, s);
  const int64_t arriving = blocks.most * row.block + before * row.sums;
  // What was computed before leaves while the sums that this step adds to arrive, and what it adds is computed.
  const int64_t adding = before + coming_home(t) + sums(t) + target(cycle, s);
  return std::max(arriving, blocks.kept * row.block + adding * row.sums + packed);
}

int64_t DoubleRingMember::held_at_end(const Moving& row) const {
  const int64_t last = steps() - 1;
  if (row.sums == 0 || last == 0) return 0;
  return block(last) * row.block + (sums(last) + coming_home_last()) * row.sums + sums(last) * row.packed;
}

// The block that a cycle begins with; the own one is none that has to be held.
int64_t DoubleRingMember::first(int64_t cycle) const {
  return cycle < 1 || cycle >= nodes_ ? 0 : ring_rows_ahead(needed_, nodes_, node_ + cycle, nodes_ - cycle);
}

int64_t DoubleRingMember::block(int64_t t) const {
  const int64_t cycle = t / local_, s = t % local_;
  if (s == 0) return first(cycle);
  return cycle == 0 ? ring_rows_ahead(needed_, local_, place_ + s, local_ - s) : node_rows(cycle);
}

int64_t DoubleRingMember::sums(int64_t t) const {
  const int64_t cycle = t / local_, s = t % local_;
  if (cycle > 0) return node_rows(cycle);
  return s == 0 ? 0 : ring_rows_ahead(needed_, local_, place_ + s, local_ - s);  // the own ones are at home
}

int64_t DoubleRingMember::going_on(int64_t s) const {
  return ring_rows_ahead(needed_, local_, place_ + s, local_ - s - 1);
}

// Apart from the sums that arrive; where none arrive the step adds to the new ones.
int64_t DoubleRingMember::target(int64_t cycle, int64_t s) const {
  if (cycle == 0 && s > 1) return place_ + s < local_ ? needed_.by_before : needed_.by_after;
  return cycle > 0 && s > 0 ? node_rows(cycle) : 0;
}

DoubleRingMember::Blocks DoubleRingMember::begin_of_cycle(int64_t cycle) const {
  const bool more = cycle + 1 < nodes_;
  const int64_t leaving = first(cycle - 1), here = first(cycle), outer = first(cycle + 1);
  const int64_t next = local_ > 1 ? block(cycle * local_ + 1) : 0;
  const int64_t kept = here + outer + next + (more || local_ > 1 ? 0 : leaving);
  return {std::max(kept, leaving + here + (more ? outer : next)), kept};
}

DoubleRingMember::Blocks DoubleRingMember::inside_cycle(int64_t cycle, int64_t s) const {
  const bool more = cycle + 1 < nodes_, last = s + 1 == local_;
  const int64_t t = cycle * local_ + s;
  const int64_t outside = more ? first(cycle) + first(cycle + 1) : 0;  // in flight during the whole cycle
  const int64_t leaving = s == 1 && more ? 0 : block(t - 1);
  const int64_t most = outside + leaving + block(t) + (last ? 0 : block(t + 1));
  return {most, last ? most : most - leaving};
}

int64_t double_ring_most_held(const DoubleRingShape& shape, const Moving& row) {
  int64_t most = 0;
  for_some(shape.nodes, [&](int64_t node) {
    for_some(shape.local, [&](int64_t place) {
      // The same ones in both directions.
      const int64_t seen = node * shape.local + place;
      const DoubleRingMember member(shape, shape.direction < 0 ? seen : shape.members() - 1 - seen);
      most = std::max(most, member.held_at_end(row));
      for_some(shape.nodes, [&](int64_t cycle) {
        for_some(shape.local, [&](int64_t s) { most = std::max(most, member.held(cycle, s, row)); });
      });
    });
  });
  return most;
}

}  // namespace weft::methods
