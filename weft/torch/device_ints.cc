#include "weft/torch/device_ints.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace weft::torch_internal {

at::Tensor device_ints(const std::vector<int64_t>& values, c10::Device device) {
  const at::Tensor list = at::empty({static_cast<int64_t>(values.size())},
                                    at::TensorOptions().dtype(at::kLong).pinned_memory(!device.is_cpu()));
  std::copy(values.begin(), values.end(), list.mutable_data_ptr<int64_t>());
  return device.is_cpu() ? list : list.to(device, /*non_blocking=*/true);
}

}  // namespace weft::torch_internal
