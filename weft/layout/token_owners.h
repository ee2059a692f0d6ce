// Which rank has which tokens, for those who look it up by token.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "weft/base/interval_set.h"
#include "weft/layout/layout.h"
#include "weft/layout/row_messages.h"

namespace weft {

// The owner of each of some numbers, slots or positions.
class TokenOwners {
 public:
  // of_rank[r] are those of rank r; no two ranks share one.
  explicit TokenOwners(std::span<const IntervalSet> of_rank);

  // Calls f(rank, Range) for those among `numbers` that have an owner, in order.
  template <typename F>
  void for_each(const IntervalSet& numbers, F&& f) const {
    for (const Range range : numbers.ranges()) {
      auto piece = std::partition_point(pieces_.begin(), pieces_.end(),
                                        [&](const Piece& p) { return p.range.end <= range.begin; });
      for (; piece != pieces_.end() && piece->range.begin < range.end; ++piece) {
        f(piece->rank, intersect(piece->range, range));
      }
    }
  }

 private:
  struct Piece {
    Range range;
    int rank;
  };
  std::vector<Piece> pieces_;
};

// Messages by which rank r gets wanted[r] from their owners, but for what it has itself.
std::vector<RowMessages> fetch_messages(const TokenOwners& owners, std::span<const IntervalSet> wanted);

// The shards of all ranks: slots.
std::vector<IntervalSet> slots_of_ranks(const Layout& layout);
// Positions of the tokens in some slots.
IntervalSet positions_held(const Layout& layout, const IntervalSet& slots);

}  // namespace weft
