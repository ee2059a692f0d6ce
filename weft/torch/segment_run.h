// Segment-recurrent models over a schedule of cells (weft/schedule/segment_cells.h): a group at a time on one device, or as a
// pipeline over ranks, with the same results.
//
//   auto schedule = std::make_shared<CellSchedule>(make_cells(segments, layers, ranks, CellOrder::diagonal));
//   verify_cells(*schedule);
//   // on each rank:
//   at::Tensor out = run_segments(x, {.run = block, .weights = {a, b}, .memory = memory, .tokens = 1040, .memory_tokens = 16},
//                                 schedule, endpoint);
//   out.sum().backward();                         // on every rank
//
// A cell reads its layer's memory into the segment's rows, runs the layer, and writes the last rows, the memory tokens, into the
// memory (weft/torch/segment_memory.h). A group is one call of all of that, with the weights of its layers stacked.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "weft/schedule/segment_cells.h"
#include "weft/torch/segment_memory.h"
#include "weft/transport/transport.h"

namespace weft {

// The layers of a rank, one type for all: float32 or float64, on the CPU.
struct SegmentLayers {
  // Layers l, l + 1, .. at once: x [layers, tokens, channels], one segment each, and their weights. Gives the shape of x, is
  // made of differentiable operations, reads nothing else that needs a gradient, and keeps nothing from call to call.
  std::function<at::Tensor(const at::Tensor& x, const std::vector<at::Tensor>& weights)> run;
  std::vector<at::Tensor> weights;  // each [layers of this rank, ..]
  MemoryWeights memory;             // of this rank's layers
  int64_t tokens = 0;               // rows of a segment, memory tokens among them
  int64_t memory_tokens = 0;        // the last of them
  int64_t nu = 3;                   // of DPFP
};

// x [segments, tokens, channels] on the first rank, undefined on the others; gives the same of the last layer on the last rank and
// [0, tokens, channels] on the others. Memories begin empty. Differentiable in x, weights and memory weights: gradients hop back
// the way that activations came. Every rank calls it, and its backward once, in the same order: something requires a gradient on each
// rank, or on none. `schedule` has been verified, and the endpoint outlives backward. Throws Error(usage) for what does not fit.
at::Tensor run_segments(const at::Tensor& x, const SegmentLayers& layers,
                        const std::shared_ptr<const CellSchedule>& schedule, Endpoint& endpoint);

}  // namespace weft
