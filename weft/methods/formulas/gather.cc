// What fetching straight from the owners costs (gather_pass.h).
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/parts.h"

namespace weft::methods {
namespace {

// Pieces as gather_pass.cc cuts them: by groups of kv heads, inside a group by stages of distances between ranks,
// and inside a stage by parts of every owner's rows.
class Pieces {
 public:
  Pieces(const Shares& shares, int64_t kv_heads, GatherPieces how)
      : shares_(shares),
        stages_(shares.ranks > 1 ? how.stages : 1),
        chunks_(shares.ranks > 1 ? how.chunks : 1),
        kv_heads_(kv_heads),
        group_(how.kv_heads == 0 ? kv_heads : std::min(how.kv_heads, kv_heads)) {}

  int64_t groups() const { return (kv_heads_ + group_ - 1) / group_; }
  int64_t count() const { return groups() * stages_ * chunks_; }
  int64_t messages_to_each() const { return groups() * chunks_; }

  // Rows x kv heads that a rank fetches, and those of its own that come back as gradients. None beyond the last piece.
  int64_t fetched(int64_t rank, int64_t piece) const {
    return in_piece(piece, rank, shares_.keys.by_after, shares_.keys.by_before);
  }
  int64_t returned(int64_t rank, int64_t piece) const {
    return in_piece(piece, shares_.ranks - 1 - rank, shares_.keys.by_after, shares_.keys.by_before);
  }
  // Steps with attention to a piece or with one on its way; the own rows are the first.
  int64_t steps() const {
    int64_t steps = 1, last = 0;
    for (int64_t piece = 0; piece < count(); ++piece) {
      if (first(stage(piece)) == first(stage(piece) + 1)) continue;
      steps += 1 + (piece > last);
      last = piece + 1;
    }
    return steps;
  }

 private:
  int64_t heads(int64_t piece) const { return std::min(group_, kv_heads_ - piece / chunks_ / stages_ * group_); }
  int64_t stage(int64_t piece) const { return piece / chunks_ % stages_; }
  // The smallest distance of a stage.
  int64_t first(int64_t stage) const { return (stage * (shares_.ranks - 1) + stages_ - 1) / stages_ + 1; }
  // Distances up to `straight` are met before the wrap, the others behind it.
  int64_t in_piece(int64_t piece, int64_t straight, int64_t rows, int64_t rows_behind) const {
    if (piece < 0 || piece >= count()) return 0;
    const int64_t begin = first(stage(piece)), end = first(stage(piece) + 1);
    const int64_t before_wrap = std::clamp(straight + 1 - begin, int64_t{0}, end - begin);
    return (before_wrap * rows + (end - begin - before_wrap) * rows_behind) / chunks_ * heads(piece);
  }

  const Shares& shares_;
  int64_t stages_, chunks_, kv_heads_, group_;
};

// What a rank holds of pieces [begin, end).
int64_t fetched(const Pieces& pieces, int64_t rank, int64_t begin, int64_t end) {
  int64_t rows = 0;
  for (int64_t i = begin; i < end; ++i) rows += pieces.fetched(rank, i);
  return rows;
}

// Two pieces at a time; all up to there, where they are kept.
int64_t most_in_forward(const Pieces& pieces, int64_t rank, bool keep) {
  if (keep) return fetched(pieces, rank, 0, pieces.count());
  int64_t most = 0;
  for (int64_t i = 0; i < pieces.count(); ++i) most = std::max(most, fetched(pieces, rank, i, i + 2));
  return most;
}

// Pieces, their sums, and the sums of the piece before, which are on their way. `head`: bytes of one head's row.
int64_t most_in_backward(const Pieces& pieces, int64_t rank, bool keep, const RowBytes& head, int64_t result) {
  const auto travelling = [&](int64_t i) {
    return pieces.fetched(rank, i) * (head.dkv + head.packed_dkv) + pieces.returned(rank, i) * head.sent_dkv;
  };
  int64_t most = 0;
  for (int64_t i = 0; i < pieces.count(); ++i) {
    const int64_t held = fetched(pieces, rank, i, keep ? pieces.count() : i + 2) * head.kv;
    most = std::max({most, held + pieces.fetched(rank, i) * head.dkv + travelling(i - 1), held + travelling(i)});
  }
  return std::max(most, travelling(pieces.count() - 1) + result);
}

int64_t exposed_fetches(const Pieces& pieces, int64_t rank) {
  int64_t exposed = 0;
  for (int64_t i = 1; i < pieces.count(); ++i) {
    if (pieces.fetched(rank, i - 1) == 0) exposed += pieces.fetched(rank, i);
  }
  return exposed;
}

int64_t exposed_returns(const Pieces& pieces, int64_t rank) {
  int64_t exposed = 0;
  for (int64_t i = 0; i < pieces.count(); ++i) {
    if (pieces.fetched(rank, i + 1) == 0) exposed += pieces.returned(rank, i);
  }
  return exposed;
}

}  // namespace

Formula gather_formula(const Configuration& c, std::string_view own_layout, GatherPieces how) {
  Formula f;
  const Shares shares = share_rows(c, own_layout, f, 1, how.chunks);
  if (!f.known()) return f;
  if (c.ranks > 1 && how.stages > c.ranks) return no_formula("no closed form for more stages than ranks");
  const int64_t ranks = c.ranks, rows = shares.rows;
  const Pieces pieces(shares, c.kv_heads, how);
  AttentionShape one_head = c;
  one_head.heads = one_head.kv_heads = 1;
  const RowBytes row(c), head(one_head);
  // What goes to the ranks before and after, and what comes from them: rows, and where there are any.
  const auto to_others = [ranks](Needed keys, int64_t rank) {
    return rank * keys.by_before + (ranks - 1 - rank) * keys.by_after;
  };
  const auto from_others = [ranks](Needed keys, int64_t rank) {
    return rank * keys.by_after + (ranks - 1 - rank) * keys.by_before;
  };
  const auto most = [&](auto&& of_rank) { return shares.over_ranks(of_rank).busiest; };
  const Needed any = shares.keys.any();

  f.forward.steps = pieces.steps();
  f.forward.work = shares.work;
  f.forward.messages = shares.over_ranks([&](int64_t r) { return to_others(any, r) * pieces.messages_to_each(); });
  f.forward.bytes = shares.over_ranks([&](int64_t r) { return to_others(shares.keys, r) * row.kv; });
  f.forward.exposed_bytes = shares.over_ranks([&](int64_t r) { return exposed_fetches(pieces, r) * head.kv; });
  const bool keep = how.keep && c.backward;
  const auto in_forward = [&](int64_t r) { return most_in_forward(pieces, r, keep) * head.kv; };
  const int64_t kept = keep ? most(in_forward) : 0;
  f.live_bytes = rows * (row.q + row.kv + row.partial) + std::max(most(in_forward), kept + rows * row.out);
  if (!c.backward) return f;

  f.backward.steps = f.forward.steps;
  f.backward.work = shares.work;
  f.backward.messages = shares.over_ranks(
      [&](int64_t r) { return ((keep ? 0 : to_others(any, r)) + from_others(any, r)) * pieces.messages_to_each(); });
  f.backward.bytes = shares.over_ranks([&](int64_t r) {
    return (keep ? 0 : to_others(shares.keys, r) * row.kv) + from_others(shares.keys, r) * row.sent_dkv;
  });
  f.backward.exposed_bytes = shares.over_ranks([&](int64_t r) {
    return (keep ? 0 : exposed_fetches(pieces, r) * head.kv) + exposed_returns(pieces, r) * head.sent_dkv;
  });
  f.saved_bytes = kept;
  const int64_t result = rows * std::max(row.dq_done, row.dkv_done);
  const int64_t held = most([&](int64_t r) { return most_in_backward(pieces, r, keep, head, result); });
  f.live_bytes = std::max(f.live_bytes, rows * (row.backward_inputs() + row.dkv) + held);
  return f;
}

}  // namespace weft::methods
