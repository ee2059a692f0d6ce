#include "weft/ops/relayout_op.h"

#include <string>

#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

void require_operands(const AttentionPlan& from, const AttentionPlan& to, const at::Tensor& x) {
  const auto refuse = [&](const std::string& text) { throw Error(ErrorCode::usage, "weft.relayout: " + text); };
  if (from.spec().group != to.spec().group) refuse("the plans are of two process groups; give two of one");
  if (from.layout().tokens() != to.layout().tokens()) {
    refuse("the plans are of " + std::to_string(from.layout().tokens()) + " and " +
           std::to_string(to.layout().tokens()) + " tokens; give two of the same sequence");
  }
  if (!dtype_of(x.scalar_type())) {
    refuse(std::string("x is of ") + toString(x.scalar_type()) +
           "; allowed are float64, float32, bfloat16 and float16");
  }
  if (!x.device().is_cpu()) {
    refuse("x is on " + x.device().str() + "; layouts are changed in main memory only: give tensors on the CPU");
  }
  if (x.dim() != 2) refuse("x is " + text_of(x.sizes()) + "; the operator takes [local tokens, columns]");
  if (x.size(0) != from.local_tokens()) {
    refuse("x has " + std::to_string(x.size(0)) + " tokens; this rank has " + std::to_string(from.local_tokens()) +
           " in the first plan");
  }
}

}  // namespace

at::Tensor relayout(const std::shared_ptr<AttentionPlan>& from, const std::shared_ptr<AttentionPlan>& to,
                    const at::Tensor& x) {
  from->endpoint().begin_call();
  const RelayoutExchange* change = nullptr;
  try {
    require_operands(*from, *to, x);
    change = &from->relayout_to(to->layout(), *dtype_of(x.scalar_type()), x.size(1));
  } catch (const Error& error) {
    from->endpoint().refuse_call(error.what());
    throw;
  }
  return change->there(x.detach().contiguous());
}

}  // namespace weft
