// Layouts: which token lives on which rank, and in which order.
//
// A rank holds a shard: a set of slots on the layout's axis, in slot order. Any token count works with any number of
// ranks; ranks may be empty.
//
//   Layout layout = Layout::zigzag(5003, 7);
//   layout.shard(2);                      // slots of rank 2: two intervals
//   layout.positions(2);                  // their global positions, in local order
//   auto mine = shard<float>(layout, 2, global, width);
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weft/base/interval_set.h"
#include "weft/layout/axis.h"
#include "weft/layout/consecutive_unions.h"

namespace weft {

class Layout {
 public:
  // Rank r holds the r-th of `ranks` nearly equal pieces.
  static Layout contiguous(int64_t tokens, int ranks);
  // 2 x ranks nearly equal chunks; rank r holds chunks r and 2 x ranks - 1 - r. Balanced under a causal mask.
  static Layout zigzag(int64_t tokens, int ranks);
  // Blocks of tokens dealt round robin: token t lives on rank t / block mod ranks (Striped Attention, arXiv 2311.09431,
  // with single tokens). Throws Error(usage) for more than 2^24 blocks of several tokens.
  static Layout striped(int64_t tokens, int ranks, int64_t block = 1);
  // Packed documents. A long one is cut in 2 x ranks chunks and dealt as in zigzag; a short one stays whole, or is
  // dealt as in zigzag to a few neighbours, as far as balance allows: ranks differ by at most one token, and no rank
  // has more than 1/16 above the average of causal work (inside documents), up to the rounding of a few tokens per
  // rank. Of this kind it is the layout with the fewest cuts that was found, so ranks hold few intervals and documents
  // of equal length that divide among the ranks need no communication.
  static Layout document_zigzag(const std::vector<int64_t>& lengths, int ranks);
  // Megatron-LM's and TransformerEngine's DualChunkSwap: each packed document is cut in 2 x ranks chunks of equal length,
  // and rank r holds chunks r and 2 x ranks - 1 - r of each. Those codes pad a document to a multiple of 2 x ranks; here
  // it is cut in the same places, and the rows that would be padding do not exist. So shards are theirs, row by row.
  static Layout dual_chunk(const std::vector<int64_t>& lengths, int ranks);
  // Any layout: shards[r] lists the runs of rank r in local order. Every position must appear exactly once.
  // Throws Error(usage) otherwise. Runs of one position may have any stride.
  static Layout from_runs(int64_t tokens, std::vector<std::vector<Run>> shards);

  const std::string& name() const { return name_; }
  int ranks() const { return shards_.size(); }
  int64_t tokens() const { return axis_.tokens(); }
  const Axis& axis() const { return axis_; }

  const IntervalSet& shard(int rank) const { return shards_[rank]; }
  int64_t tokens_of(int rank) const { return shard(rank).size(); }
  // All shards, and unions of those of consecutive ranks.
  const ConsecutiveUnions& shards() const { return shards_; }
  // Global positions of a rank's tokens in local order.
  std::vector<int64_t> positions(int rank) const;
  // The runs of a rank in local order: from_runs of all of them gives an equal layout.
  std::vector<Run> runs(int rank) const;

  // ---- tiles: positions 0 .. tile - 1, tile .. 2 tile - 1, and so on; the last may be shorter
  // The layout whose tiles lie as the tokens of `tiles` do, for `tokens` tokens in ceil(tokens / tile) tiles.
  static Layout of_tiles(const Layout& tiles, int64_t tokens, int64_t tile);
  // Every tile on the rank that has its middle token here, tiles of a rank in the order of positions: borders move to the
  // nearest multiple of `tile`. Meant for layouts whose runs are longer than that.
  Layout rounded_to_tiles(int64_t tile) const;
  // The first border of a run that lies inside a tile, if there is any.
  struct CutTile {
    int rank = 0;
    int64_t position = 0;  // of the border
    bool begins = false;   // whether a run begins there, or ends
  };
  std::optional<CutTile> first_cut_tile(int64_t tile) const;

  // Same tokens on the same ranks in the same order; the name does not matter.
  friend bool operator==(const Layout& a, const Layout& b);

 private:
  Layout(std::string name, Axis axis, std::vector<IntervalSet> shards);

  std::string name_;
  Axis axis_;
  ConsecutiveUnions shards_;
};

// A layout by name: "contiguous", "zigzag", "striped", "document-zigzag", "dual-chunk". `lengths` are the packed documents, or one
// entry for a single sequence. Throws Error(usage) naming the known ones.
Layout make_layout(std::string_view name, const std::vector<int64_t>& lengths, int ranks);
std::vector<std::string_view> layout_names();

// A layout made of whole tiles: that of a rule rounded, or where the rule deals tokens singly, as striped does, the same rule
// over tiles. `make(lengths)` is the rule.
template <typename Make>
Layout make_tiled_layout(const std::vector<int64_t>& lengths, int64_t tile, Make&& make) {
  const Layout exact = make(lengths);
  if (exact.axis().is_identity()) return exact.rounded_to_tiles(tile);
  return Layout::of_tiles(make({(exact.tokens() + tile - 1) / tile}), exact.tokens(), tile);
}

// The rows of `global` [tokens, width] that live on `rank`, in local order.
template <typename T>
std::vector<T> shard(const Layout& layout, int rank, std::span<const T> global, int64_t width = 1) {
  std::vector<T> local;
  local.reserve(static_cast<size_t>(layout.tokens_of(rank) * width));
  for (int64_t position : layout.positions(rank)) {
    const auto row = global.subspan(static_cast<size_t>(position * width), static_cast<size_t>(width));
    local.insert(local.end(), row.begin(), row.end());
  }
  return local;
}

// Inverse of shard: writes a rank's rows to their places in `global` [tokens, width].
template <typename T>
void unshard(const Layout& layout, int rank, std::span<const T> local, std::span<T> global, int64_t width = 1) {
  size_t from = 0;
  for (int64_t position : layout.positions(rank)) {
    for (int64_t column = 0; column < width; ++column) {
      global[static_cast<size_t>(position * width + column)] = local[from++];
    }
  }
}

// Labels for next-token prediction, to be made before sharding: labels[i] = ids[i + 1] inside each packed document,
// `ignore` for its last token. A label then follows its token to any shard. Throws Error(usage) unless the lengths are
// positive and sum to the number of ids.
std::vector<int64_t> next_token_labels(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                                       int64_t ignore = -100);

}  // namespace weft
