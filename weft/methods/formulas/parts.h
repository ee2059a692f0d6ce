// What the formulas of methods are made of: rows that ranks need of one another, and bytes of a row.
//
//   Formula f;
//   const Shares shares = share_rows(c, "zigzag", f);    // f says why not, and whether exactly
//   if (!f.known()) return f;
//   const RowBytes row(c);
//   f.forward.bytes = shares.over_ranks([&](int64_t rank) { return sent_by(rank) * row.kv; });
#pragma once

#include <algorithm>

#include "weft/methods/formula.h"

namespace weft::methods {

// Rows of a rank's block that another rank needs: those before it all need the same, those after it too, and one set
// lies in the other.
struct Needed {
  int64_t by_before = 0;
  int64_t by_after = 0;

  int64_t by(int64_t rank, int64_t owner) const { return rank < owner ? by_before : by_after; }
  // By ranks on both sides, or on either.
  int64_t most() const { return std::max(by_before, by_after); }
  Needed mirrored() const { return {by_after, by_before}; }
  // 1 in place of rows, where there are any: messages instead of rows.
  Needed any() const { return {by_before > 0, by_after > 0}; }
};

// The sum of what each rank has, and the most that one has.
template <typename F>
Amount over_all(int64_t ranks, F&& of_rank) {
  Amount amount;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t mine = of_rank(rank);
    amount.total += mine;
    amount.busiest = std::max(amount.busiest, mine);
  }
  return amount;
}
inline Amount same_on_all(int64_t ranks, int64_t each) { return {ranks * each, each}; }

// Equal blocks of one document.
struct Shares {
  int64_t ranks = 1;
  int64_t rows = 0;  // of each rank
  Needed keys, queries;
  Amount work;        // when every rank attends to what its own queries see
  bool full = false;  // then all ranks are alike

  template <typename F>
  Amount over_ranks(F&& of_rank) const {
    return full ? same_on_all(ranks, of_rank(0)) : over_all(ranks, of_rank);
  }
};

// The shares in c.layout or else in `own`. Where tokens do not divide, those of the next larger count that does, and `f`
// is not exact. Gives `f` a reason for what no formula knows. `block`: tokens that the own layout deals at a time when it is
// striped. `cuts`: pieces that every run of a shard is cut in (cut_in_pieces); where `f` is exact each has an equal
// part of all counts of rows.
Shares share_rows(const Configuration& c, std::string_view own, Formula& f, int64_t block = 1, int64_t cuts = 1);

// Bytes of a token with all its heads.
struct RowBytes {
  explicit RowBytes(const AttentionShape& shape);

  // In memory and on the wire alike.
  int64_t q, kv, dout, delta;
  int64_t bundle;  // q, dout, lse, delta
  int64_t out;     // finished, with lse
  int64_t dq_done, dkv_done;
  // Sums: in memory, inside a message, and the copy that the sender packs when the wire is narrower than memory.
  int64_t partial, dq, dkv;  // partial: out and lse
  int64_t sent_partial, sent_dq, sent_dkv;
  int64_t packed_partial, packed_dq, packed_dkv;

  // What a rank holds in backward all along when it computes where its tokens live, without dk and dv.
  int64_t backward_inputs() const { return q + kv + out + dout + delta + dq; }
};

// What travels and what is summed on one side, in bytes of a row: the block that comes, its sums in memory, on their way
// home, and packed for it.
struct Side {
  int64_t block, sums, sent, packed;
};

}  // namespace weft::methods
