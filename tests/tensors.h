// For tests of operators on tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace weft {

// The largest difference of two elements. The shapes must be equal.
inline double distance(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return a.numel() == 0 ? 0 : a.sub(b).abs().max().item<double>();
}

}  // namespace weft
