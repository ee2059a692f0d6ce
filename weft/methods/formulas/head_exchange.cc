// What head_exchange.h costs: two all-to-alls in each phase, and in between a ring over places for a part of the heads.
#include <numeric>
#include <vector>

#include "weft/methods/formulas/double_ring.h"
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ring.h"

namespace weft::methods {
namespace {

// Heads of each member of a place, as make_head_grid cuts them.
struct MemberHeads {
  MemberHeads(const AttentionShape& c, const HeadGridShape& shape, int64_t index) {
    const auto border = [&](int64_t i) {
      return shape.whole_kv_heads ? c.kv_heads * i / shape.degree * c.group() : c.heads * i / shape.degree;
    };
    const int64_t begin = border(index), end = border(index + 1);
    heads = end - begin;
    first_kv_head = begin / c.group();
    kv_heads = heads > 0 ? (end - 1) / c.group() + 1 - first_kv_head : 0;
  }
  int64_t heads, kv_heads, first_kv_head;
};

struct AllHeads {
  // Members with as many heads are alike.
  struct Kind {
    MemberHeads heads;
    int64_t members;
  };

  AllHeads(const AttentionShape& c, const HeadGridShape& shape) {
    int64_t next = 0;
    for (int64_t i = 0; i < shape.degree; ++i) {
      const MemberHeads mine(c, shape, i);
      count(mine);
      if (mine.heads == 0) continue;
      ++working;
      kv_heads += mine.kv_heads;
      disjoint = disjoint && mine.first_kv_head >= next;
      next = mine.first_kv_head + mine.kv_heads;
    }
  }
  std::vector<Kind> kinds;
  int64_t kv_heads = 0;  // of all members together: those that several read, several times
  int64_t working = 0;   // members with heads
  bool disjoint = true;

 private:
  void count(const MemberHeads& heads) {
    for (Kind& kind : kinds) {
      if (kind.heads.heads != heads.heads || kind.heads.kv_heads != heads.kv_heads) continue;
      ++kind.members;
      return;
    }
    kinds.push_back({heads, 1});
  }
};

// What ranks of equal heads do between the exchanges, in rows of a place: a flat ring, or a ring of rings.
class Context {
 public:
  Context(int64_t places, int64_t rows, Needed keys, const HeadGridShape& shape)
      : places_(places),
        rows_(rows),
        doubled_(shape.window > 1 && shape.window < places),
        flat_(places, keys, shape.direction),
        ring_{doubled_ ? places / shape.window : 1, doubled_ ? shape.window : places, keys, shape.direction} {}

  int64_t backward_steps() const {
    return places_ + doubled_;
  }  // of a ring of rings the last sums come after all compute
  int64_t forward(int64_t m) const { return doubled_ ? member(m).blocks_sent() : flat_.forward(m); }
  int64_t backward(int64_t m) const { return doubled_ ? member(m).blocks_sent() : flat_.backward(m); }
  int64_t sums(int64_t m) const { return doubled_ ? member(m).sums_sent() : flat_.sums(m); }
  int64_t forward_messages(int64_t m) const {
    return doubled_ ? member(m).block_messages() : flat_.forward_messages(m);
  }
  int64_t backward_messages(int64_t m) const {
    return doubled_ ? member(m).block_messages() + member(m).sums_messages() : flat_.backward_messages(m);
  }
  // A flat ring that stops begins on the last place; the others but the first wait for their first block.
  int64_t exposed_blocks(int64_t m) const {
    const int64_t from_begin = flat_.mirrored() ? m : places_ - 1 - m;
    return !doubled_ && flat_.stops() && from_begin > 0 && from_begin < places_ - 1 ? rows_ : 0;
  }
  int64_t exposed_sums(int64_t m) const { return doubled_ ? member(m).coming_home_last() : 0; }

  // Bytes held. Of the first blocks to come: what is asked for while all that the exchange reads is held, and while only
  // queries are, where those travel alone.
  int64_t first_block(int64_t kv) const { return places_ > 1 ? rows_ * kv : 0; }
  int64_t first_blocks(int64_t kv) const { return doubled_ ? 2 * rows_ * kv : first_block(kv); }
  // Blocks of forward at once; the one that stays for backward; and in backward until the first compute, and later.
  int64_t forward_held(int64_t kv) const {
    if (doubled_) return double_ring_most_held(ring_, {kv, 0, 0, 0});
    return rows_ * kv * ring_blocks_held(places_, flat_.stops());
  }
  int64_t saved(int64_t kv) const { return !doubled_ && places_ > 1 ? rows_ * kv : 0; }
  int64_t begin_backward(int64_t kv, int64_t dkv) const {
    if (doubled_) return rows_ * (2 * kv + dkv);
    const int64_t most = (places_ > 1 ? kv : 0) + (places_ > 2 ? kv : 0) + dkv;  // the block held last, and the next
    if (!flat_.stops()) return rows_ * most;
    // Other places than the last compute later, when more has come.
    const int64_t later = places_ > 3 ? std::max(2 * kv + dkv, kv + 2 * dkv) : places_ > 2 ? kv + 2 * dkv : 2 * dkv;
    return rows_ * std::max(most, later);
  }
  int64_t backward_held(const Moving& row) const {
    if (doubled_) return rows_ * row.sums + double_ring_most_held(ring_, row);
    return rows_ * ring_backward_held(places_, row.block, row.sums, row.packed);
  }
  // Sums that the last place of a ring that stops sent, which nothing has waited for.
  int64_t held_at_end(const Moving& row) const {
    return !doubled_ && places_ > 1 && flat_.stops() ? rows_ * (row.sums + row.packed) : 0;
  }

 private:
  DoubleRingMember member(int64_t m) const { return DoubleRingMember(ring_, m); }

  int64_t places_, rows_;
  bool doubled_;
  RingRows flat_;
  DoubleRingShape ring_;
};

// One member: bytes of all heads in `row_`, of its own part in the others.
class Member {
 public:
  Member(const Configuration& c, const HeadGridShape& shape, int64_t rows, const AllHeads& all, const Context& context,
         MemberHeads heads)
      : shape_(shape),
        context_(context),
        all_(all),
        mine_(heads),
        rows_(rows),
        place_rows_(rows * shape.degree),
        row_(c),
        head_(one_head(c)),
        others_heads_(c.heads - mine_.heads),
        others_kv_heads_(all.kv_heads - mine_.kv_heads),
        return_lse_(c.return_lse) {}

  bool works() const { return mine_.heads > 0; }
  int64_t heads() const { return mine_.heads; }
  Moving moving() const {
    return {mine_.kv_heads * head_.kv, mine_.kv_heads * head_.dkv, mine_.kv_heads * head_.sent_dkv,
            mine_.kv_heads * head_.packed_dkv};
  }

  // The two exchanges of each phase: what is sent, what is received, and messages.
  int64_t forward_sent() const {
    return rows_ * (others_heads_ * head_.q + others_kv_heads_ * head_.kv + others() * mine_.heads * result());
  }
  int64_t forward_received() const {
    return rows_ * (others() * moving().block + others() * mine_.heads * head_.q + others_heads_ * result());
  }
  int64_t backward_sent() const {
    return rows_ * (others_heads_ * (head_.dout + head_.delta) +
                    others() * (mine_.heads * head_.dq_done + mine_.kv_heads * home_dkv()));
  }
  int64_t backward_received() const {
    return rows_ * (others() * mine_.heads * (head_.dout + head_.delta) + others_heads_ * head_.dq_done +
                    others_kv_heads_ * home_dkv());
  }
  int64_t forward_messages() const { return messages(3, return_lse_ ? 2 : 1); }
  int64_t backward_messages() const { return messages(2, all_.disjoint ? 3 : 2); }

  int64_t saved() const {
    return place_rows_ * mine_.heads * (head_.q + head_.delta) + keys() + context_.saved(moving().block);
  }

  int64_t live_forward() const {
    const int64_t inputs = rows_ * (row_.q + row_.kv), out = rows_ * (row_.dout + (return_lse_ ? row_.delta : 0));
    if (!works()) return inputs + out;  // waits for the results
    const int64_t queries = place_rows_ * mine_.heads * head_.q, partial = place_rows_ * mine_.heads * head_.partial;
    const int64_t done = place_rows_ * mine_.heads * (head_.delta + head_.dout) + context_.saved(moving().block);
    const int64_t begin = std::max(inputs + context_.first_block(moving().block),
                                   (shape_.together ? 0 : rows_ * row_.q) + context_.first_blocks(moving().block));
    return queries + keys() +
           std::max({partial + begin, partial + context_.forward_held(moving().block), partial + done, done + out});
  }
  int64_t live_backward() const {
    const Moving mine = moving();
    const int64_t given = rows_ * (row_.dout + row_.delta);  // held until the first exchange is complete
    const int64_t bundle = place_rows_ * mine_.heads * (head_.dout + head_.delta);
    const int64_t dq = place_rows_ * mine_.heads * head_.dq, sums = place_rows_ * mine.sums;
    const int64_t fetched = saved() - context_.saved(mine.block) + bundle;
    const int64_t begin = given + std::max(context_.saved(mine.block) + rows_ * row_.dout,
                                           dq + context_.begin_backward(mine.block, mine.sums));
    const int64_t end = live_at_end(dq, sums) + (works() ? context_.held_at_end(mine) : given);
    return std::max({fetched + begin, fetched + dq + context_.backward_held(mine), end});
  }

 private:
  static AttentionShape one_head(AttentionShape shape) {
    shape.heads = shape.kv_heads = 1;
    return shape;
  }
  int64_t others() const { return shape_.degree - 1; }
  int64_t keys() const { return place_rows_ * moving().block; }
  int64_t result() const { return head_.dout + (return_lse_ ? head_.delta : 0); }
  int64_t home_dkv() const { return all_.disjoint ? head_.dkv_done : head_.sent_dkv; }
  // `there` values go to every member with heads, `back` values come from this one; together they are one message each.
  int64_t messages(int64_t there, int64_t back) const {
    return (all_.working - works()) * (shape_.together ? 1 : there) + works() * others() * (shape_.together ? 1 : back);
  }
  // Gradients go home.
  int64_t live_at_end(int64_t dq, int64_t sums) const {
    const int64_t dq_done = place_rows_ * mine_.heads * head_.dq_done, dq_home = rows_ * row_.dq_done;
    if (all_.disjoint) {
      const int64_t finished = place_rows_ * mine_.kv_heads * head_.dkv_done;
      return dq_home + dq_done + std::max({dq + sums, sums + finished, finished + rows_ * row_.dkv_done});
    }
    const int64_t staging = rows_ * all_.kv_heads * head_.sent_dkv + place_rows_ * moving().packed;
    const int64_t home = rows_ * row_.dkv, last = rows_ * row_.dkv_done;
    // Apart from dq, the sums are still on their way when the last result is being made.
    return dq_home + std::max({dq_done + dq + sums, dq_done + sums + home + staging,
                               home + last + (shape_.together ? 0 : sums + staging)});
  }

  const HeadGridShape& shape_;
  const Context& context_;
  const AllHeads& all_;
  MemberHeads mine_;
  int64_t rows_, place_rows_;
  RowBytes row_, head_;
  int64_t others_heads_, others_kv_heads_;
  bool return_lse_;
};

// Adds the members of one kind in all places.
void add_members(Formula& f, const Configuration& c, const Shares& places, const Context& context, const Member& member,
                 int64_t members) {
  const auto add = [&](Amount& amount, auto&& of_place) {
    const Amount more = places.over_ranks(of_place);
    amount.total += members * more.total;
    amount.busiest = std::max(amount.busiest, more.busiest);
  };
  const auto add_work = [&](Amount& work) {
    work.total += members * (places.work.total / c.heads * member.heads());
    work.busiest = std::max(work.busiest, places.work.busiest / c.heads * member.heads());
  };
  const Moving moving = member.moving();
  const bool works = member.works();
  add_work(f.forward.work);
  add(f.forward.messages,
      [&](int64_t m) { return member.forward_messages() + (works ? context.forward_messages(m) : 0); });
  add(f.forward.bytes, [&](int64_t m) { return member.forward_sent() + context.forward(m) * moving.block; });
  add(f.forward.exposed_bytes, [&](int64_t) { return member.forward_received(); });
  f.live_bytes = std::max(f.live_bytes, member.live_forward());
  if (!c.backward) return;

  add_work(f.backward.work);
  add(f.backward.messages,
      [&](int64_t m) { return member.backward_messages() + (works ? context.backward_messages(m) : 0); });
  add(f.backward.bytes, [&](int64_t m) {
    return member.backward_sent() + context.backward(m) * moving.block + context.sums(m) * moving.sent;
  });
  add(f.backward.exposed_bytes, [&](int64_t m) {
    return member.backward_received() + context.exposed_blocks(m) * moving.block +
           context.exposed_sums(m) * moving.sent;
  });
  f.saved_bytes = std::max(f.saved_bytes, member.saved());
  f.live_bytes = std::max(f.live_bytes, member.live_backward());
}

}  // namespace

Formula head_exchange_formula(const Configuration& c, const HeadGridShape& shape, std::string_view order) {
  const int64_t places = c.ranks / shape.degree;
  if (places > 1 && c.mask.causal && !c.layout.empty()) {
    return no_formula("no closed form for rings of a causal mask on another layout");
  }
  // Places have equal shares, and their members too.
  Configuration outer = c;
  outer.ranks = static_cast<int>(places);
  outer.layout = {};
  const int64_t pieces = places > 1 && order == "zigzag" ? std::lcm<int64_t>(2 * places, c.ranks) : c.ranks;
  if (c.tokens < pieces) return no_formula("no closed form for fewer tokens than two for each rank");
  outer.tokens = (c.tokens + pieces - 1) / pieces * pieces;
  Formula f;
  const Shares shares = share_rows(outer, places > 1 ? order : "contiguous", f);
  if (!f.known()) return f;
  f.exact = outer.tokens == c.tokens;
  const Needed way = shape.direction > 0 ? shares.keys.mirrored() : shares.keys;
  if (places > 1 && way.by_before == 0)
    return no_formula("no closed form for a causal ring against the order of tokens");
  const Context context(places, shares.rows, shares.keys, shape);
  const AllHeads all(c, shape);

  for (const AllHeads::Kind& kind : all.kinds) {
    const Member member(c, shape, shares.rows / shape.degree, all, context, kind.heads);
    add_members(f, c, shares, context, member, kind.members);
  }
  const int64_t exchanges = shape.degree > 1 ? 2 : 0;
  f.forward.steps = places + exchanges;
  if (c.backward) f.backward.steps = context.backward_steps() + exchanges;
  return f;
}

}  // namespace weft::methods
