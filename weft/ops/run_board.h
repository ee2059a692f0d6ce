// Runs between forward and backward, by number. Operators pass tensors only, so a run travels as a tensor that holds its
// number; when its storage goes, so does the run.
#pragma once

#include <cstdint>
#include <memory>

#include "weft/execute/executor.h"

namespace at {
class Tensor;
}

namespace weft {

// A tensor [1] of int64 for a run. `owner` lives as long.
at::Tensor pin_run(std::unique_ptr<Execution> run, std::shared_ptr<const void> owner);
// A tensor for no run.
at::Tensor no_run();
// The run; null when it was taken before, or its tensor was replaced by a copy and is gone.
std::unique_ptr<Execution> take_run(const at::Tensor& token);

}  // namespace weft
