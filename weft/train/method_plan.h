// Sequence plans made from a method's schedule: the trainer's way from a method's name to its attention.
//
//   PlanFactory factory = method_plans({.method = "zigzag"});
//   train(options, factory, ...);
//
// Each packed sequence gets a schedule for its own documents, which is verified before it runs. Ranks are threads,
// or one in each of `processes`; buffers are kept from sequence to sequence.
#pragma once

#include <map>
#include <string>

#include "weft/schedule/schedule.h"
#include "weft/train/sequence_plan.h"
#include "weft/transport/processes.h"

namespace weft {

struct MethodPlanOptions {
  std::string method = "zigzag";
  std::string layout = {};  // empty: the method's own
  std::map<std::string, std::string> method_options = {};
  // Of the linear layers of hybrid models, on the same layout; empty: all-scan. To be empty for models without such layers.
  std::string linear_method = {};
  std::map<std::string, std::string> linear_options = {};
};

// What layers of a kind run for a sequence. Throws what the method refuses.
Schedule layer_schedule(const MethodPlanOptions& options, const SequenceShape& shape, bool linear);

// Throws Error(usage) where a method is named for linear layers that the model has not: nothing would run by it.
void require_layers_of(const ModelConfig& model, const std::string& linear_method);

// Throws Error(usage) for unknown names at once, and from the factory what the method refuses.
PlanFactory method_plans(const MethodPlanOptions& options, Processes* processes = nullptr);

}  // namespace weft
