// One call of an executor as a differentiable torch operation, whatever its layer. Private to this folder.
#pragma once

#include <memory>

#include "weft/execute/executor.h"
#include "weft/torch/field_tensors.h"

namespace weft::torch_internal {

// Runs forward on what `given` holds, and returns the results; with gradients wanted, backward runs the second phase. Saved
// for it are the fields that the phase reads (fields_given) and what the schedule itself keeps. Throws Error(usage) for tensors
// that are missing, not of the problem, or of another shape or type; `who` begins the message.
FieldTensors scheduled_call(const char* who, const FieldTensors& given, const std::shared_ptr<Executor>& executor);

}  // namespace weft::torch_internal
