#include "weft/methods/formulas/ring.h"

#include "weft/methods/formulas/formulas.h"

namespace weft::methods {

RingRows::RingRows(int64_t places, Needed keys, int direction) : places_(places), mirrored_(direction > 0) {
  if (mirrored_) keys = keys.mirrored();
  before_ = keys.by_before, after_ = keys.by_after;
}

int64_t RingRows::forward(int64_t m) const {
  if (places_ == 1) return 0;
  m = place(m);
  if (m == 0) return (places_ - 1) * after_;
  return (places_ - 1 - m) * both() + before_ + (m - 1) * after_;
}

int64_t RingRows::sums(int64_t m) const {
  if (places_ == 1) return 0;
  m = place(m);
  if (m == places_ - 1) return m * after_;
  return m * after_ + before_ + (places_ - 2 - m) * both();
}

int64_t RingRows::backward(int64_t m) const {
  if (places_ == 1) return 0;
  // The last hop is that of sums only: the block is on its owner already.
  const int64_t p = place(m), last = p == places_ - 1 ? after_ : p == places_ - 2 ? before_ : both();
  return sums(m) - last + rejoining(p);
}

int64_t RingRows::forward_messages(int64_t m) const {
  RingRows any = *this;
  any.before_ = before_ > 0, any.after_ = after_ > 0;
  return any.forward(m);
}

int64_t RingRows::backward_messages(int64_t m) const {
  RingRows any = *this;
  any.before_ = before_ > 0, any.after_ = after_ > 0;
  const int64_t p = place(m);
  return any.backward(m) - any.rejoining(p) + (rejoining(p) > 0) + any.sums(m);
}

int64_t ring_rows_ahead(Needed needed, int64_t places, int64_t owner, int64_t count) {
  owner = (owner + places) % places;
  const int64_t after = count > 0 && owner < places - 1 ? needed.by_after : 0;
  return std::max(after, owner + count >= places && count > 0 ? needed.by_before : 0);
}

int64_t ring_blocks_held(int64_t places, bool stops) {
  // What is worked on, what arrives, and what is on its way out until the next hop.
  return stops && places == 4 ? 2 : std::min<int64_t>(places - 1, 3);
}

int64_t ring_backward_held(int64_t places, int64_t kv, int64_t dkv, int64_t packed_dkv) {
  if (places == 1) return dkv;
  const int64_t hop = std::min<int64_t>(places - 1, 3) * kv + 2 * dkv;  // sums: here and on their way out
  const int64_t compute = (places > 2 ? 2 : 0) * kv + 3 * dkv;          // and those being computed
  return packed_dkv + std::max(hop, compute);
}

Formula ring_formula(const Configuration& c, std::string_view own_layout, int direction, int64_t block) {
  Formula f;
  const Shares shares = share_rows(c, own_layout, f, block);
  if (!f.known()) return f;
  const int64_t ranks = c.ranks, rows = shares.rows;
  const RingRows ring(c.ranks, shares.keys, direction);
  const Needed way = direction > 0 ? shares.keys.mirrored() : shares.keys;
  if (ranks > 1 && way.by_before == 0)
    return no_formula("no closed form for a causal ring against the order of tokens");
  const RowBytes row(c);

  f.forward.steps = ranks;
  f.forward.work = shares.work;
  f.forward.messages = shares.over_ranks([&](int64_t m) { return ring.forward_messages(m); });
  f.forward.bytes = shares.over_ranks([&](int64_t m) { return ring.forward(m) * row.kv; });
  const int64_t blocks = ring_blocks_held(ranks, ring.stops()) * row.kv, last = ranks > 1 ? row.kv : 0;
  f.live_bytes = rows * (row.q + row.kv + row.partial + std::max(blocks, last + row.out));
  if (!c.backward) return f;

  f.backward.steps = ranks;
  f.backward.work = shares.work;
  f.backward.messages = shares.over_ranks([&](int64_t m) { return ring.backward_messages(m); });
  f.backward.bytes =
      shares.over_ranks([&](int64_t m) { return ring.backward(m) * row.kv + ring.sums(m) * row.sent_dkv; });
  // A ring that stops begins on the last rank: all others but the first wait for their first block.
  if (ring.stops() && ranks > 2) f.backward.exposed_bytes = {(ranks - 2) * rows * row.kv, rows * row.kv};
  f.saved_bytes = rows * last;
  const int64_t passing = ring_backward_held(ranks, row.kv, row.dkv, row.packed_dkv);
  const int64_t ending = row.dkv + std::max(row.dq_done, row.dkv_done) + (ring.stops() ? row.dkv + row.packed_dkv : 0);
  f.live_bytes = std::max(f.live_bytes, rows * (row.backward_inputs() + std::max(passing, ending)));
  return f;
}

}  // namespace weft::methods
