// Axes: how the tokens of one side (queries or keys) are numbered inside a schedule.
//
// Schedules speak of *slots*, the index of a token along an axis. On the identity axis a slot is a position. Strided
// layouts use an axis that lists residue after residue, so that a shard is one interval there too; then a slot
// interval is a short list of runs of positions. Strides never enter set algebra.
//
//   Axis axis = Axis::from_runs({{.base = 0, .stride = 2, .count = 3}, {.base = 1, .stride = 2, .count = 2}});
//   axis.position(3);      // 1: slots 0..2 are positions 0, 2, 4; slots 3..4 are positions 1, 3
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "weft/base/range.h"

namespace weft {

// Positions base, base + stride, ..., `count` of them.
struct Run {
  int64_t base = 0;
  int64_t stride = 1;
  int64_t count = 0;
  friend bool operator==(const Run&, const Run&) = default;
};

class Axis {
 public:
  // Slot = position, for `tokens` tokens.
  static Axis identity(int64_t tokens);
  // Slots run through the given runs in order. Together they must hold every position below the total count exactly
  // once, which the caller guarantees (Layout checks it).
  static Axis from_runs(const std::vector<Run>& runs);

  int64_t tokens() const { return tokens_; }
  bool is_identity() const { return identity_; }
  int64_t position(int64_t slot) const;

  // Calls f(Range slots, Run run) for each run of positions inside a slot interval, in slot order.
  // Slots that the axis does not have are left out.
  template <typename F>
  void for_each_run(Range slots, F&& f) const {
    if (identity_) {
      slots = intersect(slots, {0, tokens_});
      if (!slots.empty()) f(slots, Run{slots.begin, 1, slots.size()});
      return;
    }
    const auto [begin, end] = runs_in(slots);
    for (size_t i = begin; i < end; ++i) {
      const RunPart part = part_of(i, slots);
      f(part.slots, part.run);
    }
  }

  // The same, for readers that do not go in order: run numbers [begin, end) that hold some of the slots, and the
  // part of one of them that lies inside.
  struct RunPart {
    Range slots;
    Run run;
  };
  std::pair<size_t, size_t> runs_in(Range slots) const;
  RunPart part_of(size_t run, Range slots) const {
    const Range part = intersect(slots, {first_slot_[run], first_slot_[run] + runs_[run].count});
    const int64_t skipped = part.begin - first_slot_[run];
    return {part, {runs_[run].base + skipped * runs_[run].stride, runs_[run].stride, part.size()}};
  }
  // Smallest range that holds the positions of an interval of slots. O(log runs).
  Range positions_of(Range slots) const;
  // Smallest range that holds every position of the runs [begin, end), begin < end. O(1).
  Range hull_of_runs(size_t begin, size_t end) const;

  friend bool operator==(const Axis& a, const Axis& b) { return a.runs_ == b.runs_; }

 private:
  Axis() = default;
  size_t run_of(int64_t slot) const;

  int64_t tokens_ = 0;
  bool identity_ = false;
  double runs_per_slot_ = 0;
  std::vector<Run> runs_;
  std::vector<int64_t> first_slot_;
  std::vector<std::vector<Range>> hulls_;  // hulls_[k][i]: positions of the runs i .. i + 2^k - 1
};

}  // namespace weft
