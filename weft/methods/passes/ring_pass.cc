#include "weft/methods/passes/ring_pass.h"

namespace weft::methods {

IntervalSet Ring::find_ahead(const AllowedPairs& pairs, int j, int count) const {
  return pairs.keys_needed(queries.cover(direction > 0 ? place(j - count) : place(j + 1), count), keys[j]);
}

void Ring::prepare(const AllowedPairs& pairs) {
  ahead = NeededSets(size(), Growing::yes, [this, pairs](int j, int count) { return find_ahead(pairs, j, count); });
}

Set RingPass::ahead(int j, int p) {
  j = ring_->place(j);
  const int count = ring_->place(d_ > 0 ? j - p : p - j);
  if (ring_->ahead.empty()) return b_.set(ring_->find_ahead(b_.problem().pairs, j, count));
  return ring_->ahead.at(b_, j, count);
}

void RingPass::forward(int t, const Slices& q, const Slices& acc, Value& current) {
  const int j = me_ - d_ * t;  // owner of the current block
  const bool last = t + 1 == steps();
  Value next;
  if (!last) {
    next = b_.whole(Field::k | Field::v, ahead(j - d_, me_), kv_heads_);
    Exchange hop = b_.exchange(0);  // issued before the compute that hides it
    hop.send(peer(me_ + d_), current[ahead(j, me_ + d_)]);
    hop.receive(peer(me_ - d_), next);
    hop.issue();
  }
  b_.attend(q, current, acc);
  if (!last) current = std::move(next);
}

void RingPass::backward(int t, const Slices& q, const Value& kv, const Slices& bundle, const Slices& dq, Value& current,
                        Value& sums) {
  const int j = me_ + d_ * (t + 1);  // owner of the current block; the own one comes last
  Set arriving;                      // what of the next block comes from the neighbour, who works on it now
  Value next;
  if (t + 2 < steps()) {
    const Set needed = ahead(j + d_, me_);
    arriving = ahead(j + d_, me_ + d_);
    next = b_.whole(Field::k | Field::v, needed, kv_heads_);
    // Place x works on my block in the next step. Forward left some of it behind there: send what it had beyond what
    // the place before it hands over.
    const int x = me_ - d_ * (t + 2);
    if (t == 0) mine_ahead_ = ahead(me_, x + d_);
    const Set ahead_of_x = ahead(me_, x);
    Exchange hop = b_.exchange(0);
    hop.send(peer(me_ - d_), current);
    hop.send(peer(x), kv[ahead_of_x - mine_ahead_]);
    hop.receive(peer(me_ + d_), next[arriving]);
    hop.receive(peer(j + d_), next[needed - arriving]);
    hop.issue();
    mine_ahead_ = ahead_of_x;
  } else if (t + 2 == steps()) {
    next = kv;  // the own block never left
    arriving = ahead(j + d_, me_ + d_);
  }

  if (t == 0) {  // the block held last holds nothing but what I need
    if (sums.empty()) sums = b_.sums(Field::dk | Field::dv, current.tokens(), kv_heads_);
    b_.attend_backward(q, current, bundle, dq, sums);
  } else {
    // The sums are still arriving, so the compute needs a target of its own.
    const Set mine = b_.keys_needed(ring_->queries[me_], current.tokens().intervals());
    Value part = b_.sums(Field::dk | Field::dv, mine, kv_heads_);
    b_.attend_backward(q, current[mine], bundle, dq, part);
    b_.add(sums[mine], part);
  }

  if (t + 1 < steps()) {
    Value home = b_.sums(Field::dk | Field::dv, next.tokens(), kv_heads_);
    // Where nothing is received, nothing ever waits: without this, the last rank of a causal ring would hold the sums of
    // every hop until the end. The hop of the step before had a whole step to leave.
    if (unanswered_) b_.wait(1);
    unanswered_ = !sums.empty() && arriving.empty();
    Exchange hop = b_.exchange(1);
    hop.send(peer(me_ - d_), sums);
    hop.receive(peer(me_ + d_), home[arriving]);
    hop.issue();
    sums = std::move(home);
    current = std::move(next);
  }
}

MethodOption direction_option(std::string_view fallback) {
  return MethodOption::choice("direction", fallback, {"forward", "reverse"},
                              "which way key-value blocks travel: to the next rank of a ring or to the previous");
}

int direction_of(const MethodOptions& options) { return options.is("direction", "forward") ? 1 : -1; }

}  // namespace weft::methods
