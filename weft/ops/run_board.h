// Runs between forward and backward. Operators pass tensors only, so a run travels as a tensor, and its address stands for
// it: nobody has to read a number on a device. When its storage goes, so does the run.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

#include "weft/execute/executor.h"

namespace at {
class Tensor;
}

namespace weft {

// A tensor [1] of int64 for a run. `owner` lives as long.
at::Tensor pin_run(std::unique_ptr<Execution> run, std::shared_ptr<const void> owner, c10::Device device);
// A tensor for no run.
at::Tensor no_run(c10::Device device);
// The run; null when it was taken before, or its tensor was replaced by a copy.
std::unique_ptr<Execution> take_run(const at::Tensor& token);

}  // namespace weft
