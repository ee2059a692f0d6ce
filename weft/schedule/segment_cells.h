// The order in which a segment-recurrent model runs: cells (segment n, layer l), each layer with a memory that goes from segment to
// segment. A cell needs what the layer below made of its segment, (n, l - 1), and its own layer's memory, (n - 1, l).
//
//   CellSchedule schedule = make_cells(100, 32, 4, CellOrder::diagonal);   // 4 ranks, 8 layers each
//   CellCounts counts = verify_cells(schedule);                            // throws for one that is wrong
//   counts.steps;                                                          // 131: 100 + 32 - 1
//
// Diagonal Batching (Sivtsov et al. 2025): the cells of an anti-diagonal, n + l = i, do not need each other, so they are one group,
// a product of matrices for each layer at once:
//
//   layer 2 |  .  .  2  3  4        N segments and L layers, N L cells,        rank 1
//   layer 1 |  .  1  2  3  .        in N + L - 1 groups                        ------ a segment's activations hop
//   layer 0 |  0  1  2  .  .                                                   rank 0
//             segment 0, 1, 2 ->    (numbers: i)
//
// Ranks hold consecutive layers and their memories, which never move; the activations of a segment hop from a rank to the next.
// One cell at a time on each rank, segment after segment, is the pipeline of N + R - 1 stages.
//
// Backward runs the same steps last to first, gradients hopping back: seen from its end it is a schedule of the same kind.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/base/range.h"

namespace weft {

struct SegmentCell {
  int64_t segment = 0, layer = 0;
};
// Activations of a segment, to or from a rank.
struct CellHop {
  int peer = 0;
  int64_t segment = 0;
};
// What a rank does between two looks at the others: it waits for hops, runs a group, and sends.
struct CellStep {
  std::vector<CellHop> receive;
  std::vector<SegmentCell> cells;  // of layers that follow one another: their weights are a slice
  std::vector<CellHop> send;
};

struct CellSchedule {
  int64_t segments = 0, layers = 0;
  std::vector<Range> blocks;                 // of layers, by rank
  std::vector<std::vector<CellStep>> ranks;  // the steps of each
};

enum class CellOrder : uint8_t {
  sequential,  // a cell a step, segment after segment
  diagonal,    // a group a step
};

// Layers are dealt as evenly as they can be. Throws Error(usage) unless there are segments, and a layer for each rank.
CellSchedule make_cells(int64_t segments, int64_t layers, int ranks, CellOrder order);

struct CellCounts {
  int64_t steps = 0;  // on the longest way through all ranks, where each group takes one
  int64_t hops = 0;
};
// Throws Error(wrong), with the rank and its step, unless every cell runs once, on the rank that has its layer and in a step behind
// those that made what it needs, no group has cells of one layer or of layers apart, every hop is received as it is sent, by the
// rank that has the next layer and after it was made, and nobody waits for ever (sends do not wait). Found by running the ranks.
CellCounts verify_cells(const CellSchedule& schedule);

}  // namespace weft
