// The kernel set over torch's own operators: for tensors on a GPU, and for main memory where a test asks for it.
//
//   const KernelSet& kernels = torch_kernels(q.device());
//   BufferPool pool(false, kernels.memory());
//   Executor executor(schedule, rank, endpoint, kernels, pool);     // the same executor as for the CPU kernels
//
// Merges, sums and conversions are torch's element-wise operators. Attention is either of
//   flash   torch's fused kernels (block_attention.h): 16-bit types on a GPU, fp32 and 16-bit types in main memory;
//   dense   matrix products in the accumulator's type with scores in memory: every other type and shape.
// A block is cut into full rectangles and square triangles (kernels/band_pieces.h). Pieces of one shape whose rows lie apart
// go into one call, as packed sequences: so packed documents, and the many pieces of a window, are a few calls.
//
// Precision: the fused kernels return 16 bits for 16-bit inputs, so each piece's result is rounded once before it is
// accumulated in fp32 (docs/numerics.md); everything between pieces and ranks is fp32.
//
// Work is queued on the current stream of the device. Ranks that are threads of one process must share one stream.
#pragma once

#include <c10/core/Device.h>

#include "weft/kernels/kernels.h"

namespace weft {

enum class TorchAttention : uint8_t { flash, dense };

// One object per device and kind, for ever. Throws Error(unsupported) for devices of a kind that this torch has not.
const kernels::KernelSet& torch_kernels(c10::Device device, TorchAttention attention = TorchAttention::flash);

// What calls on tensors of a device compute with: on a GPU the set above; in main memory the CPU kernels, fp64 and `plain`
// calls the reference. WEFT_KERNEL=torch or torch-dense chooses this set in main memory, too.
const kernels::KernelSet& kernels_for(c10::Device device, DType element, bool plain);

}  // namespace weft
