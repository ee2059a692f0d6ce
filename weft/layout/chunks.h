// Chunks of tokens: what each costs, and what a rank that holds some of them needs of others.
//
// Packed documents with one rule inside each have a property that makes this cheap: the keys that a chunk of consecutive
// queries sees are one range around the chunk, and both its ends ascend from chunk to chunk. So the rows that a rank needs
// are a sum over neighbours among its chunks, and what they become when a chunk comes or goes is known in O(1) beyond
// finding its place.
//
//   rows that all ranks need - tokens = rows that are sent, to the row: each key to every other rank that needs it
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "weft/base/range.h"
#include "weft/mask/mask.h"

namespace weft {

struct Chunk {
  Range tokens;
  Range keys;        // that its queries see, itself among them
  int64_t work = 0;  // allowed pairs of its queries
};

// The chunks of these tokens, ascending and disjoint. `mask` is of packed documents: a rule inside each. O(1) for each
// document in each chunk.
std::vector<Chunk> chunks_of(const Mask& mask, std::span<const Range> tokens);

// Which rank holds which chunks. Every rank has the same number of places; empty chunks at the end of the list fill those
// that are left over.
class ChunkHolders {
 public:
  // Nobody holds anything. The number of chunks is a multiple of ranks.
  ChunkHolders(std::span<const Chunk> chunks, int ranks);

  int64_t places() const { return places_; }  // of a rank
  int64_t count(int rank) const { return count_[static_cast<size_t>(rank)]; }
  int holder(int64_t chunk) const { return holder_[static_cast<size_t>(chunk)]; }  // -1: nobody
  int64_t work(int rank) const { return work_[static_cast<size_t>(rank)]; }
  // The i-th chunk of a rank, ascending.
  int64_t held(int rank, int64_t i) const { return held_[static_cast<size_t>(rank * places_ + i)]; }
  const std::vector<int>& holders() const { return holder_; }
  // Needed by all ranks together.
  int64_t rows() const { return rows_; }
  int64_t busiest() const { return *std::max_element(work_.begin(), work_.end()); }

  // Rows that a rank would need besides those it needs, with this chunk.
  int64_t rows_added(int rank, int64_t chunk) const;
  void give(int rank, int64_t chunk);
  // By how much the rows would change if two chunks of different ranks changed places.
  int64_t rows_of_swap(int64_t a, int64_t b) const { return rows_of_trade(a, b) + rows_of_trade(b, a); }
  void swap(int64_t a, int64_t b);

 private:
  static constexpr int64_t kNone = -1;
  std::span<const int32_t> held(int rank) const {
    return {held_.data() + rank * places_, static_cast<size_t>(count(rank))};
  }
  // Rows of chunk `next` that a rank does not need for its chunk before, `previous`, nor for any before that.
  int64_t step(int64_t previous, int64_t next) const {
    if (next == kNone) return 0;
    const Range& keys = chunks_[static_cast<size_t>(next)].keys;
    if (previous == kNone) return keys.size();
    return keys.end - std::max(keys.begin, chunks_[static_cast<size_t>(previous)].keys.end);
  }
  int64_t rows_of_trade(int64_t gone, int64_t come) const;
  void replace(int rank, int64_t gone, int64_t come);

  std::span<const Chunk> chunks_;
  int64_t places_ = 0;
  std::vector<int32_t> held_;  // places_ for each rank
  std::vector<int64_t> count_, work_;
  std::vector<int> holder_;
  int64_t rows_ = 0;
};

}  // namespace weft
