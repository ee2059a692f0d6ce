// Layouts that keep tiles of positions whole.
#include <algorithm>

#include "weft/base/error.h"
#include "weft/layout/layout.h"

namespace weft {
namespace {

Range positions_of(int64_t tile_number, int64_t tile, int64_t tokens) {
  return {tile_number * tile, std::min((tile_number + 1) * tile, tokens)};
}

// Appends [positions.begin, positions.end) to runs of neighbouring positions.
void append(std::vector<Run>& runs, Range positions) {
  if (!runs.empty() && runs.back().base + runs.back().count == positions.begin) {
    runs.back().count += positions.size();
  } else {
    runs.push_back({.base = positions.begin, .stride = 1, .count = positions.size()});
  }
}

}  // namespace

Layout Layout::of_tiles(const Layout& tiles, int64_t tokens, int64_t tile) {
  std::vector<std::vector<Run>> shards(static_cast<size_t>(tiles.ranks()));
  for (int rank = 0; rank < tiles.ranks(); ++rank) {
    for (int64_t number : tiles.positions(rank)) {
      append(shards[static_cast<size_t>(rank)], positions_of(number, tile, tokens));
    }
  }
  Layout layout = from_runs(tokens, std::move(shards));
  layout.name_ = tiles.name_;
  return layout;
}

Layout Layout::rounded_to_tiles(int64_t tile) const {
  const int64_t count = (tokens() + tile - 1) / tile;
  std::vector<std::pair<int64_t, int>> owned;  // tiles and their ranks
  for (int rank = 0; rank < ranks(); ++rank) {
    for (const Run& run : runs(rank)) {
      for (int64_t i = 0; i < run.count; ++i) {
        const int64_t position = run.base + i * run.stride, number = position / tile;
        const Range whole = positions_of(number, tile, tokens());
        if (position == whole.begin + whole.size() / 2) owned.emplace_back(number, rank);
      }
    }
  }
  WEFT_CHECK(static_cast<int64_t>(owned.size()) == count);
  std::sort(owned.begin(), owned.end());
  std::vector<std::vector<Run>> shards(static_cast<size_t>(ranks()));
  for (const auto& [number, rank] : owned) {
    append(shards[static_cast<size_t>(rank)], positions_of(number, tile, tokens()));
  }
  Layout layout = from_runs(tokens(), std::move(shards));
  layout.name_ = name_;
  return layout;
}

std::optional<Layout::CutTile> Layout::first_cut_tile(int64_t tile) const {
  for (int rank = 0; rank < ranks(); ++rank) {
    for (const Run& run : runs(rank)) {
      if (run.count == 0) continue;
      const int64_t end = run.stride == 1 || run.count == 1 ? run.base + run.count : run.base + 1;
      if (run.base % tile != 0) return CutTile{rank, run.base, true};
      if (end % tile != 0 && end != tokens()) return CutTile{rank, end, false};
    }
  }
  return std::nullopt;
}

}  // namespace weft
