#include "weft/train/plan_board.h"

#include "weft/base/error.h"

namespace weft {

std::shared_ptr<SequencePlan> PlanBoard::take(int rank, int64_t sequence, const SequenceShape& shape) {
  std::shared_ptr<SequencePlan>& slot = plans_[static_cast<size_t>(sequence % 2)];
  if (rank == group_.here().begin) {
    // Whoever used the slot's old plan, two sequences ago, has passed the barrier of the last one.
    std::shared_ptr<SequencePlan> made = factory_(shape);
    WEFT_CHECK(made != nullptr);
    const std::lock_guard lock(mutex_);
    slot = std::move(made);
  }
  group_.barrier(rank);
  const std::lock_guard lock(mutex_);
  return slot;
}

void PlanBoard::abort() {
  const std::lock_guard lock(mutex_);
  for (const auto& plan : plans_) {
    if (plan) plan->abort();
  }
}

}  // namespace weft
