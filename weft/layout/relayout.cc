#include "weft/layout/relayout.h"

#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/layout/token_owners.h"

namespace weft {
namespace {

std::vector<IntervalSet> positions_of_ranks(const Layout& layout) {
  std::vector<IntervalSet> positions;
  for (int rank = 0; rank < layout.ranks(); ++rank) positions.push_back(positions_held(layout, layout.shard(rank)));
  return positions;
}

std::string size_of(const Layout& layout) {
  return std::to_string(layout.tokens()) + " tokens on " + std::to_string(layout.ranks()) + " ranks";
}

bool same_size(const Layout& a, const Layout& b) { return a.tokens() == b.tokens() && a.ranks() == b.ranks(); }

}  // namespace

Relayout make_relayout(Layout from, Layout to) {
  if (!same_size(from, to)) {
    throw Error(ErrorCode::usage, "a change of layout from " + size_of(from) + " to " + size_of(to) +
                                      "; both layouts are of the same tokens and ranks");
  }
  std::vector<RowMessages> ranks = fetch_messages(TokenOwners(positions_of_ranks(from)), positions_of_ranks(to));
  return {.from = std::move(from), .to = std::move(to), .ranks = std::move(ranks)};
}

void verify_relayout(const Relayout& change) {
  const std::string what = "change of layout";
  if (!same_size(change.from, change.to) || static_cast<int>(change.ranks.size()) != change.to.ranks())
    throw Error(ErrorCode::wrong, what + ": not of these ranks and tokens");
  verify_row_messages(what, change.ranks);
  const std::vector<IntervalSet> had = positions_of_ranks(change.from), wanted = positions_of_ranks(change.to);
  for (size_t rank = 0; rank < change.ranks.size(); ++rank) {
    const auto refuse = [&](const std::string& text) {
      throw Error(ErrorCode::wrong, what + ": rank " + std::to_string(rank) + " " + text);
    };
    IntervalSet got = intersect(had[rank], wanted[rank]);
    for (const RowMessage& message : change.ranks[rank].receive) {
      const std::string these = "receives positions " + to_string(message.tokens);
      if (!had[static_cast<size_t>(message.peer)].includes(message.tokens))
        refuse(these + " that rank " + std::to_string(message.peer) + " does not have");
      if (!intersect(got, message.tokens).empty()) refuse(these + ", some of which it has");
      got.unite(message.tokens);
    }
    if (const IntervalSet lacks = subtract(wanted[rank], got); !lacks.empty())
      refuse("lacks positions " + to_string(lacks));
    if (const IntervalSet idle = subtract(got, wanted[rank]); !idle.empty())
      refuse("receives positions " + to_string(idle) + ", which are not its own");
  }
}

}  // namespace weft
