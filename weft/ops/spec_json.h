// What passes between Python and the operators besides tensors: JSON.
#pragma once

#include <string>

#include "weft/ops/attention_plan.h"

namespace weft {

// {"group", "method", "layout", "options", "documents", "causal", "window", "layer", "log_decay", "key_heads", "householders", "heads", "kv_heads",
// "dim", "dim_v", "timeout"}, all of them, and "runs" where the layout is given token by token: for each rank
// [[base, stride, count], ...]. Throws Error(usage) for anything else.
PlanSpec plan_spec_from_json(const std::string& text);

// What a plan costs for bf16 and a batch of one, forward and backward: {"method", "why", "ranks": [{"work", ...}], ...}.
std::string describe_plan(const AttentionPlan& plan);

}  // namespace weft
