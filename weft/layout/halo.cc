#include "weft/layout/halo.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/layout/allowed_pairs.h"

namespace weft {
namespace {

// Which rank has a slot.
class SlotOwners {
 public:
  explicit SlotOwners(const Layout& layout) {
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      for (const Range range : layout.shard(rank).ranges()) pieces_.push_back({range, rank});
    }
    std::sort(pieces_.begin(), pieces_.end(),
              [](const Piece& a, const Piece& b) { return a.slots.begin < b.slots.begin; });
  }
  // Calls f(rank, Range) for the slots in order.
  template <typename F>
  void for_each(const IntervalSet& slots, F&& f) const {
    for (const Range range : slots.ranges()) {
      auto piece = std::partition_point(pieces_.begin(), pieces_.end(),
                                        [&](const Piece& p) { return p.slots.end <= range.begin; });
      for (; piece != pieces_.end() && piece->slots.begin < range.end; ++piece) {
        f(piece->rank, intersect(piece->slots, range));
      }
    }
  }

 private:
  struct Piece {
    Range slots;
    int rank;
  };
  std::vector<Piece> pieces_;
};

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

void require_peers(const Halo& halo, size_t rank, const std::vector<HaloMessage>& messages, const char* verb) {
  int last = -1;
  for (const HaloMessage& message : messages) {
    if (message.peer <= last || message.peer >= halo.layout.ranks() || message.peer == static_cast<int>(rank)) {
      wrong_halo(rank, std::string(verb) + " peer " + std::to_string(message.peer) + " out of order");
    }
    if (message.tokens.empty()) wrong_halo(rank, std::string(verb) + " an empty message");
    last = message.peer;
  }
}

}  // namespace

int64_t Halo::rows() const {
  int64_t sum = 0;
  for (const Rank& rank : ranks) {
    for (const HaloMessage& message : rank.send) sum += message.tokens.size();
  }
  return sum;
}

int64_t Halo::messages() const {
  int64_t sum = 0;
  for (const Rank& rank : ranks) sum += static_cast<int64_t>(rank.send.size());
  return sum;
}

Halo make_halo(std::vector<int64_t> documents, Layout layout, int64_t width) {
  if (width < 1 || width > kWidestConvolution) {
    throw Error(ErrorCode::usage, "a convolution of width " + std::to_string(width) + "; allowed are 1 to " +
                                      std::to_string(kWidestConvolution));
  }
  const AllowedPairs pairs(Mask::documents(documents, {.causal = true, .window = width}), layout.axis(), layout.axis());
  const SlotOwners owners(layout);
  const IntervalSet all(Range{0, layout.tokens()});
  Halo halo{.documents = std::move(documents), .layout = std::move(layout), .width = width, .ranks = {}};
  halo.ranks.resize(static_cast<size_t>(halo.layout.ranks()));
  for (int rank = 0; rank < halo.layout.ranks(); ++rank) {
    const IntervalSet& own = halo.layout.shard(rank);
    std::map<int, IntervalSet> by_peer;
    owners.for_each(subtract(pairs.keys_needed(own, all), own),
                    [&](int peer, Range slots) { by_peer[peer].append(slots); });
    for (auto& [peer, tokens] : by_peer) {
      halo.ranks[static_cast<size_t>(peer)].send.push_back({rank, tokens});
      halo.ranks[static_cast<size_t>(rank)].receive.push_back({peer, std::move(tokens)});
    }
  }
  return halo;
}

void verify_halo(const Halo& halo) {
  const Layout& layout = halo.layout;
  const int64_t tokens = std::accumulate(halo.documents.begin(), halo.documents.end(), int64_t{0});
  if (static_cast<int>(halo.ranks.size()) != layout.ranks() || tokens != layout.tokens()) {
    throw Error(ErrorCode::wrong, "halo: not of these ranks and documents");
  }
  int64_t received = 0;
  for (size_t rank = 0; rank < halo.ranks.size(); ++rank) {
    const Halo::Rank& here = halo.ranks[rank];
    require_peers(halo, rank, here.send, "sends to");
    require_peers(halo, rank, here.receive, "receives from");
    received += static_cast<int64_t>(here.receive.size());
    IntervalSet got;
    for (const HaloMessage& message : here.receive) {
      const auto& sent = halo.ranks[static_cast<size_t>(message.peer)].send;
      const auto match = std::find_if(sent.begin(), sent.end(),
                                      [&](const HaloMessage& m) { return m.peer == static_cast<int>(rank); });
      const std::string from = " rank " + std::to_string(message.peer);
      if (match == sent.end() || !(match->tokens == message.tokens)) {
        wrong_halo(rank, "receives tokens " + to_string(message.tokens) + " that" + from + " does not send");
      }
      if (!layout.shard(message.peer).includes(message.tokens)) {
        wrong_halo(rank, "receives tokens " + to_string(message.tokens) + " that" + from + " does not have");
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
  if (received != halo.messages()) throw Error(ErrorCode::wrong, "halo: a message is sent and not received");
}

}  // namespace weft
