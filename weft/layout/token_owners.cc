#include "weft/layout/token_owners.h"

#include <map>
#include <utility>

namespace weft {

TokenOwners::TokenOwners(std::span<const IntervalSet> of_rank) {
  for (size_t rank = 0; rank < of_rank.size(); ++rank) {
    for (const Range range : of_rank[rank].ranges()) pieces_.push_back({range, static_cast<int>(rank)});
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.range.begin < b.range.begin; });
}

std::vector<RowMessages> fetch_messages(const TokenOwners& owners, std::span<const IntervalSet> wanted) {
  std::vector<RowMessages> ranks(wanted.size());
  for (size_t rank = 0; rank < wanted.size(); ++rank) {
    std::map<int, IntervalSet> by_peer;
    owners.for_each(wanted[rank], [&](int peer, Range range) {
      if (peer != static_cast<int>(rank)) by_peer[peer].append(range);
    });
    for (auto& [peer, tokens] : by_peer) {
      ranks[static_cast<size_t>(peer)].send.push_back({static_cast<int>(rank), tokens});
      ranks[rank].receive.push_back({peer, std::move(tokens)});
    }
  }
  return ranks;
}

std::vector<IntervalSet> slots_of_ranks(const Layout& layout) {
  std::vector<IntervalSet> slots;
  for (int rank = 0; rank < layout.ranks(); ++rank) slots.push_back(layout.shard(rank));
  return slots;
}

IntervalSet positions_held(const Layout& layout, const IntervalSet& slots) {
  std::vector<Range> ranges;
  for (const Range range : slots.ranges()) {
    layout.axis().for_each_run(range, [&](Range, Run run) {
      if (run.stride == 1) {
        ranges.push_back({run.base, run.base + run.count});
      } else {
        for (int64_t i = 0; i < run.count; ++i) {
          const int64_t position = run.base + i * run.stride;
          ranges.push_back({position, position + 1});
        }
      }
    });
  }
  return IntervalSet(std::span<const Range>(ranges));
}

}  // namespace weft
