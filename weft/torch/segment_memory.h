// The memory of a layer in associative recurrent models (ARMT, Rodkin et al. 2024): what a segment's memory tokens write, later
// segments read. For some layers at once, each with a segment of its own: all products are of stacks of matrices.
//
//   SegmentMemory memory = empty_memory(weights, nu);              // of the layers that `weights` has
//   x = read_memory(x, memory, weights, nu);                       // [layers, tokens, channels]: a layer's input
//   memory = write_memory(rows, memory, weights, nu);              // rows: the memory tokens of its output
//
// With phi the feature map DPFP, and per layer a matrix W [features, channels] and a vector z [features]:
//
//   read :  u = phi(x Wq)          x += (u W) / (u . z + 1e-5)
//   write:  k = phi(m Wk)   v = m Wv   b = sigmoid(m wb)   p = (k W) / (k . z + 1e-5)
//           W += sum of b k^T (v - p)       z += sum of g k,  g = 1 - (k . z) / (|k|^2 + 1e-5) within 0 and 1, without gradient
//
// sums over the memory tokens, which all see the W and z before the segment. An empty memory, 0, reads as nothing, p = 0 and g = 1:
// the first segment needs no case of its own. phi and z are at least 0, so no quotient has a pole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace weft {

// Of one type; dimension 0 counts layers.
struct MemoryWeights {
  at::Tensor query;  // Wq [layers, channels, key-dim]
  at::Tensor key;    // Wk, likewise
  at::Tensor value;  // Wv [layers, channels, channels]
  at::Tensor write;  // wb [layers, channels, 1]
};
struct SegmentMemory {
  at::Tensor w;  // [layers, features, channels], features = 2 nu key-dim
  at::Tensor z;  // [layers, features, 1]
};

// DPFP (Schlag et al. 2021): with y = relu of x and of -x side by side, y_i y_{i-j} for j = 1 .. nu, indices around; [.., 2 nu dim].
at::Tensor dpfp(const at::Tensor& x, int64_t nu);

SegmentMemory empty_memory(const MemoryWeights& weights, int64_t nu);
at::Tensor read_memory(const at::Tensor& x, const SegmentMemory& memory, const MemoryWeights& weights, int64_t nu);
// rows [layers, memory tokens, channels].
SegmentMemory write_memory(const at::Tensor& rows, const SegmentMemory& memory, const MemoryWeights& weights,
                           int64_t nu);

}  // namespace weft
