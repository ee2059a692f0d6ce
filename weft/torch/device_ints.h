// Small integer tensors of a device, made without waiting for it. Private to this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace weft::torch_internal {

// int64 [values]. From a GPU's view it comes out of pinned memory: a copy from other memory would wait for all queued work.
at::Tensor device_ints(const std::vector<int64_t>& values, c10::Device device);

}  // namespace weft::torch_internal
