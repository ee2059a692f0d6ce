#include "weft/layout/chunks.h"

#include "weft/base/error.h"

namespace weft {

std::vector<Chunk> chunks_of(const Mask& mask, std::span<const Range> tokens) {
  std::vector<Chunk> chunks;
  chunks.reserve(tokens.size());
  for (const Range& range : tokens) {
    Chunk chunk{.tokens = range, .keys = range};
    for (const BandRectangle& rule : mask.bands_meeting(range, {0, mask.keys()})) {
      const BandRectangle band = shrink(cut(rule, range, {0, mask.keys()}));
      if (band.q.empty()) continue;
      chunk.work += band.area();
      chunk.keys = {std::min(chunk.keys.begin, band.k.begin), std::max(chunk.keys.end, band.k.end)};
    }
    chunks.push_back(chunk);
  }
  return chunks;
}

ChunkHolders::ChunkHolders(std::span<const Chunk> chunks, int ranks)
    : chunks_(chunks),
      places_(static_cast<int64_t>(chunks.size()) / ranks),
      held_(chunks.size()),
      count_(static_cast<size_t>(ranks)),
      work_(count_.size()),
      holder_(chunks.size(), -1) {
  WEFT_CHECK(chunks.size() % static_cast<size_t>(ranks) == 0);
}

int64_t ChunkHolders::rows_added(int rank, int64_t chunk) const {
  const std::span<const int32_t> mine = held(rank);
  const auto place = std::lower_bound(mine.begin(), mine.end(), chunk);
  const int64_t before = place == mine.begin() ? kNone : *(place - 1), after = place == mine.end() ? kNone : *place;
  return step(before, chunk) + step(chunk, after) - step(before, after);
}

void ChunkHolders::give(int rank, int64_t chunk) {
  rows_ += rows_added(rank, chunk);
  const auto begin = held_.begin() + rank * places_, end = begin + count(rank);
  const auto place = std::lower_bound(begin, end, chunk);
  std::copy_backward(place, end, end + 1);
  *place = static_cast<int32_t>(chunk);
  ++count_[static_cast<size_t>(rank)];
  work_[static_cast<size_t>(rank)] += chunks_[static_cast<size_t>(chunk)].work;
  holder_[static_cast<size_t>(chunk)] = rank;
}

// What the holder of `gone` would need more with `come` in its place.
int64_t ChunkHolders::rows_of_trade(int64_t gone, int64_t come) const {
  const std::span<const int32_t> mine = held(holder(gone));
  const auto at = std::lower_bound(mine.begin(), mine.end(), gone);
  const int64_t before = at == mine.begin() ? kNone : *(at - 1), after = at + 1 == mine.end() ? kNone : *(at + 1);
  const int64_t without = step(before, after) - step(before, gone) - step(gone, after);
  // Beside the gap that it leaves, or between two others.
  const bool forward = come > gone;
  const auto place = forward ? std::lower_bound(at + 1, mine.end(), come) : std::lower_bound(mine.begin(), at, come);
  const int64_t left = forward && place == at + 1 ? before : place == mine.begin() ? kNone : *(place - 1);
  const int64_t right = !forward && place == at ? after : place == mine.end() ? kNone : *place;
  return without + step(left, come) + step(come, right) - step(left, right);
}

void ChunkHolders::replace(int rank, int64_t gone, int64_t come) {
  const auto begin = held_.begin() + rank * places_, end = begin + count(rank);
  auto at = std::lower_bound(begin, end, gone);
  for (; at + 1 != end && *(at + 1) < come; ++at) *at = *(at + 1);
  for (; at != begin && *(at - 1) > come; --at) *at = *(at - 1);
  *at = static_cast<int32_t>(come);
  holder_[static_cast<size_t>(come)] = rank;
  work_[static_cast<size_t>(rank)] += chunks_[static_cast<size_t>(come)].work - chunks_[static_cast<size_t>(gone)].work;
}

void ChunkHolders::swap(int64_t a, int64_t b) {
  rows_ += rows_of_swap(a, b);
  const int of_a = holder(a), of_b = holder(b);
  replace(of_a, a, b);
  replace(of_b, b, a);
}

}  // namespace weft
