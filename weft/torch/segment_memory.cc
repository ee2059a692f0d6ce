#include "weft/torch/segment_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace weft {
namespace {

constexpr double kSmallest = 1e-5;  // of denominators

// What features find in the memory: their share of W's rows.
at::Tensor found_by(const at::Tensor& features, const SegmentMemory& memory) {
  return features.bmm(memory.w) / (features.bmm(memory.z) + kSmallest);
}

}  // namespace

at::Tensor dpfp(const at::Tensor& x, int64_t nu) {
  const at::Tensor y = at::cat({x.relu(), x.neg().relu()}, -1);
  std::vector<at::Tensor> products;
  for (int64_t j = 1; j <= nu; ++j) products.push_back(y * y.roll(j, -1));
  return at::cat(products, -1);
}

SegmentMemory empty_memory(const MemoryWeights& weights, int64_t nu) {
  const int64_t layers = weights.key.size(0), features = 2 * nu * weights.key.size(2);
  const at::TensorOptions options = weights.key.options().requires_grad(false);
  return {at::zeros({layers, features, weights.value.size(2)}, options), at::zeros({layers, features, 1}, options)};
}

at::Tensor read_memory(const at::Tensor& x, const SegmentMemory& memory, const MemoryWeights& weights, int64_t nu) {
  return x + found_by(dpfp(x.bmm(weights.query), nu), memory);
}

SegmentMemory write_memory(const at::Tensor& rows, const SegmentMemory& memory, const MemoryWeights& weights,
                           int64_t nu) {
  const at::Tensor k = dpfp(rows.bmm(weights.key), nu), by_feature = k.transpose(1, 2);
  const at::Tensor missing = rows.bmm(weights.value) - found_by(k, memory);
  const at::Tensor written = rows.bmm(weights.write).sigmoid() * missing;
  const at::Tensor known = k.detach().bmm(memory.z.detach()) / (k.detach().square().sum(2, true) + kSmallest);
  return {memory.w + by_feature.bmm(written), memory.z + by_feature.bmm((1 - known).clamp(0, 1))};
}

}  // namespace weft
