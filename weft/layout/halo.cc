#include "weft/layout/halo.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/layout/allowed_pairs.h"
#include "weft/layout/token_owners.h"

namespace weft {
namespace {

// Positions that the tokens at `own` read beside these.
IntervalSet read_by(const Halo& halo, const IntervalSet& own) {
  std::vector<Range> before;
  size_t document = 0;
  int64_t begin = 0;  // of that document
  for (const Range run : own.ranges()) {
    while (begin + halo.documents[document] <= run.begin) begin += halo.documents[document++];
    before.push_back({std::max(begin, run.begin - (halo.width - 1)), run.begin});
  }
  return subtract(IntervalSet(std::span<const Range>(before)), own);
}

[[noreturn]] void wrong_halo(size_t rank, const std::string& what) {
  throw Error(ErrorCode::wrong, "halo: rank " + std::to_string(rank) + " " + what);
}

}  // namespace

Halo make_halo(std::vector<int64_t> documents, Layout layout, int64_t width) {
  if (width < 1 || width > kWidestConvolution) {
    throw Error(ErrorCode::usage, "a convolution of width " + std::to_string(width) + "; allowed are 1 to " +
                                      std::to_string(kWidestConvolution));
  }
  const AllowedPairs pairs(Mask::documents(documents, {.causal = true, .window = width}), layout.axis(), layout.axis());
  const IntervalSet all(Range{0, layout.tokens()});
  const std::vector<IntervalSet> shards = slots_of_ranks(layout);
  std::vector<IntervalSet> read;
  for (const IntervalSet& own : shards) read.push_back(subtract(pairs.keys_needed(own, all), own));
  std::vector<RowMessages> ranks = fetch_messages(TokenOwners(shards), read);
  return {.documents = std::move(documents), .layout = std::move(layout), .width = width, .ranks = std::move(ranks)};
}

void verify_halo(const Halo& halo) {
  const Layout& layout = halo.layout;
  const int64_t tokens = std::accumulate(halo.documents.begin(), halo.documents.end(), int64_t{0});
  if (static_cast<int>(halo.ranks.size()) != layout.ranks() || tokens != layout.tokens()) {
    throw Error(ErrorCode::wrong, "halo: not of these ranks and documents");
  }
  verify_row_messages("halo", halo.ranks);
  for (size_t rank = 0; rank < halo.ranks.size(); ++rank) {
    IntervalSet got;
    for (const RowMessage& message : halo.ranks[rank].receive) {
      if (!layout.shard(message.peer).includes(message.tokens)) {
        wrong_halo(rank, "receives tokens " + to_string(message.tokens) + " that rank " + std::to_string(message.peer) +
                             " does not have");
      }
      got.unite(message.tokens);
    }
    const IntervalSet positions = positions_held(layout, got);
    const IntervalSet needed = read_by(halo, positions_held(layout, layout.shard(static_cast<int>(rank))));
    if (const IntervalSet lacks = subtract(needed, positions); !lacks.empty()) {
      wrong_halo(rank, "lacks positions " + to_string(lacks) + ", which its tokens read");
    }
    if (const IntervalSet idle = subtract(positions, needed); !idle.empty()) {
      wrong_halo(rank, "receives positions " + to_string(idle) + ", which no token of it reads");
    }
  }
}

}  // namespace weft
