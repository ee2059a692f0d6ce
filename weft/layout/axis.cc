#include "weft/layout/axis.h"

namespace weft {

Axis Axis::identity(int64_t tokens) { return from_runs({{.base = 0, .stride = 1, .count = tokens}}); }

Axis Axis::from_runs(const std::vector<Run>& runs) {
  Axis axis;
  // One form for one order of positions, as far as unit runs go: shards may cut a run anywhere, and
  // the pieces must give the same axis again.
  for (Run run : runs) {
    if (run.count == 0) continue;
    if (run.count == 1) run.stride = 1;
    if (!axis.runs_.empty() && run.stride == 1 && axis.runs_.back().stride == 1 &&
        axis.runs_.back().base + axis.runs_.back().count == run.base) {
      axis.runs_.back().count += run.count;
    } else {
      axis.runs_.push_back(run);
    }
  }
  axis.first_slot_.reserve(axis.runs_.size());
  for (const Run& run : axis.runs_) {
    axis.first_slot_.push_back(axis.tokens_);
    axis.tokens_ += run.count;
  }
  axis.identity_ = axis.runs_.size() == 1 && axis.runs_[0].base == 0 && axis.runs_[0].stride == 1;
  return axis;
}

size_t Axis::run_of(int64_t slot) const {
  return static_cast<size_t>(std::upper_bound(first_slot_.begin(), first_slot_.end(), slot) - first_slot_.begin()) - 1;
}

int64_t Axis::position(int64_t slot) const {
  const size_t i = run_of(slot);
  return runs_[i].base + (slot - first_slot_[i]) * runs_[i].stride;
}

}  // namespace weft
