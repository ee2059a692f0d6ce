// What the files of operators share. Private to this folder.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>

#include "weft/base/error.h"
#include "weft/ops/attention_plan.h"

namespace weft {

// What Python users expect: ValueError for what they gave, RuntimeError for what went wrong.
template <typename F>
auto guarded(F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::usage && error.code() != ErrorCode::unsupported) throw;
    C10_THROW_ERROR(ValueError, error.what());
  }
}

// An operator to call through the dispatcher, by its full name.
template <typename Signature>
auto operator_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Throws Error(usage) when there is none of this number.
std::shared_ptr<AttentionPlan> plan_of(int64_t number);

}  // namespace weft
