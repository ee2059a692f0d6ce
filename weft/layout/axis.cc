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
  axis.runs_per_slot_ =
      static_cast<double>(axis.runs_.size()) / static_cast<double>(std::max<int64_t>(1, axis.tokens_));
  std::vector<Range> hulls;
  for (const Run& run : axis.runs_) hulls.push_back({run.base, run.base + (run.count - 1) * run.stride + 1});
  axis.hulls_.push_back(std::move(hulls));
  for (size_t width = 2; width <= axis.runs_.size(); width *= 2) {
    const std::vector<Range>& half = axis.hulls_.back();
    std::vector<Range> level(axis.runs_.size() - width + 1);
    for (size_t i = 0; i < level.size(); ++i) {
      level[i] = {std::min(half[i].begin, half[i + width / 2].begin), std::max(half[i].end, half[i + width / 2].end)};
    }
    axis.hulls_.push_back(std::move(level));
  }
  axis.identity_ = axis.runs_.size() == 1 && axis.runs_[0].base == 0 && axis.runs_[0].stride == 1;
  return axis;
}

size_t Axis::run_of(int64_t slot) const {
  // Runs of nearly equal length, as shards are: the first guess is at most one off.
  const size_t last = runs_.size() - 1;
  const size_t guess = std::min(last, static_cast<size_t>(static_cast<double>(slot) * runs_per_slot_));
  for (size_t i = guess == 0 ? 0 : guess - 1; i <= std::min(last, guess + 1); ++i) {
    if (first_slot_[i] <= slot && slot < first_slot_[i] + runs_[i].count) return i;
  }
  return static_cast<size_t>(std::upper_bound(first_slot_.begin(), first_slot_.end(), slot) - first_slot_.begin()) - 1;
}

std::pair<size_t, size_t> Axis::runs_in(Range slots) const {
  slots = intersect(slots, {0, tokens_});
  if (slots.empty()) return {0, 0};
  return {run_of(slots.begin), run_of(slots.end - 1) + 1};
}

Range Axis::hull_of_runs(size_t begin, size_t end) const {
  size_t level = 0;
  while ((size_t{2} << level) <= end - begin) ++level;
  const Range &a = hulls_[level][begin], &b = hulls_[level][end - (size_t{1} << level)];
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

Range Axis::positions_of(Range slots) const {
  if (identity_) return intersect(slots, {0, tokens_});
  const auto [begin, end] = runs_in(slots);
  if (begin == end) return {};
  const auto hull_of = [&](size_t run) {  // the outermost runs may lie inside in part
    const Run part = part_of(run, slots).run;
    return Range{part.base, part.base + (part.count - 1) * part.stride + 1};
  };
  const Range first = hull_of(begin), last = hull_of(end - 1);
  const Range between = end - begin > 2 ? hull_of_runs(begin + 1, end - 1) : first;
  return {std::min({first.begin, between.begin, last.begin}), std::max({first.end, between.end, last.end})};
}

int64_t Axis::position(int64_t slot) const {
  const size_t i = run_of(slot);
  return runs_[i].base + (slot - first_slot_[i]) * runs_[i].stride;
}

}  // namespace weft
