#include "weft/layout/document_tiles.h"

#include <algorithm>

#include "weft/base/error.h"

namespace weft {
namespace {

struct OwnedRun {
  Range positions;
  int rank = 0;
};

std::vector<OwnedRun> runs_in_order(const Layout& layout) {
  std::vector<OwnedRun> runs;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    for (const Range& positions : layout.shard(rank).ranges()) runs.push_back({positions, rank});
  }
  std::sort(runs.begin(), runs.end(),
            [](const OwnedRun& a, const OwnedRun& b) { return a.positions.begin < b.positions.begin; });
  return runs;
}

// Where tiles begin.
std::vector<int64_t> begins_of_tiles(const std::vector<int64_t>& lengths, int64_t tile) {
  std::vector<int64_t> begins;
  int64_t document = 0;
  for (const int64_t length : lengths) {
    for (int64_t position = 0; position < length; position += tile) begins.push_back(document + position);
    document += length;
  }
  return begins;
}

}  // namespace

Layout rounded_to_document_tiles(const Layout& layout, const std::vector<int64_t>& lengths, int64_t tile) {
  WEFT_CHECK(layout.axis().is_identity());
  const std::vector<OwnedRun> runs = runs_in_order(layout);
  const std::vector<int64_t> begins = begins_of_tiles(lengths, tile);
  std::vector<std::vector<Run>> shards(static_cast<size_t>(layout.ranks()));
  size_t run = 0;
  for (size_t n = 0; n < begins.size(); ++n) {
    const int64_t end = n + 1 < begins.size() ? begins[n + 1] : layout.tokens(), middle = (begins[n] + end) / 2;
    while (runs[run].positions.end <= middle) ++run;
    std::vector<Run>& of = shards[static_cast<size_t>(runs[run].rank)];
    if (!of.empty() && of.back().base + of.back().count == begins[n]) {
      of.back().count += end - begins[n];
    } else {
      of.push_back({.base = begins[n], .stride = 1, .count = end - begins[n]});
    }
  }
  return Layout::from_runs(layout.tokens(), std::move(shards));
}

std::optional<int64_t> first_cut_document_tile(const Layout& layout, const std::vector<int64_t>& lengths,
                                               int64_t tile) {
  const std::vector<int64_t> begins = begins_of_tiles(lengths, tile);
  for (const OwnedRun& run : runs_in_order(layout)) {
    if (!std::binary_search(begins.begin(), begins.end(), run.positions.begin)) return run.positions.begin;
  }
  return std::nullopt;
}

}  // namespace weft
